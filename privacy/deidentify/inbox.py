"""Ways into an inbox: a DICOM receiver (C-STORE), and reading from a DICOMweb server (QIDO-RS, WADO-RS; PS3.18).

An inbox holds originals.  Its files are named by a keyed hash of their SOP instance UID, so that names say nothing
and what is there already is not written twice; another content under the same UID gets a name of its own, and is held
back by `deidentify` as a conflict.
"""

import hashlib
import json
import os
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedvision.errors import ConfigError, DataError
from privacy.deidentify.modules import CLASSES, STORAGE
from privacy.deidentify.pseudonyms import Pseudonyms
from privacy.deidentify.reader import ENCAPSULATED, NATIVE

PAGE = 100  # studies asked for at once
TIMEOUT = 60  # seconds without an answer


class Inbox:
    """A folder of originals, readable by its owner alone."""

    def __init__(self, folder: Path, key: bytes):
        self.folder, self.pseudonyms = folder, Pseudonyms(key)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def stem(self, instance: str) -> str:
        """The file's name for an instance, which tells nothing of it."""
        return self.pseudonyms.digest("inbox", instance.encode("latin-1", "replace")).hex()[:32]

    def has(self, instance: str) -> bool:
        """Whether the instance has come before."""
        return (self.folder / f"{self.stem(instance)}.dcm").exists()

    def put(self, instance: str, data: bytes) -> bool:
        """Write a file whole, or not at all.  False where the same bytes are there already."""
        target = self.folder / f"{self.stem(instance)}.dcm"
        if target.exists():
            if target.read_bytes() == data:
                return False
            target = self.folder / f"{self.stem(instance)}-{hashlib.sha256(data).hexdigest()[:16]}.dcm"
        fresh = self.folder / f".{secrets.token_hex(8)}.part"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, target)
        return True


# ------------------------------------------------------------------------------------------------------------ C-STORE


def receiver(inbox: Inbox, *, host: str, port: int, title: str, callers: list[str]) -> Any:
    """A running C-STORE receiver of the classes that are de-identified; `shutdown()` ends it.

    callers: AE titles that may send; [] = any.  An object is acknowledged when it is on disk.
    """
    try:
        from pynetdicom import AE, evt
    except ImportError:
        raise ConfigError("the receiver needs pynetdicom: pip install 'fedvision[dicom-network]'") from None
    import logging

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # its messages can hold values
    entity = AE(ae_title=title)
    entity.require_calling_aet = callers
    for sop_class in CLASSES:
        entity.add_supported_context(STORAGE + sop_class, sorted(NATIVE | ENCAPSULATED))
    entity.add_supported_context("1.2.840.10008.1.1")

    def store(event: Any) -> int:
        try:
            inbox.put(str(event.request.AffectedSOPInstanceUID), event.encoded_dataset())
        except OSError:
            return 0xA700  # out of resources: the sender keeps it, and tries again
        return 0x0000

    try:
        return entity.start_server((host, port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    except OSError as error:
        raise ConfigError(f"the receiver cannot listen on {host}, port {port}: {error.strerror}") from None


# ----------------------------------------------------------------------------------------------------------- DICOMweb


def fetch(url: str, inbox: Inbox, authorization: str = "") -> Iterator[bool]:
    """Fetch every instance that the server lists and the inbox does not have; True for each that was new.

    DataError where the server does not answer as DICOMweb does.  No message holds a UID.
    """
    server = _Server(url, authorization)
    for study in server.studies():
        for series in server.uids(f"studies/{study}/series", "0020000E"):
            for instance in server.uids(f"studies/{study}/series/{series}/instances", "00080018"):
                if inbox.has(instance):
                    yield False
                else:
                    data = server.instance(f"studies/{study}/series/{series}/instances/{instance}")
                    yield inbox.put(instance, data)


class _Server:
    def __init__(self, url: str, authorization: str):
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(f"{url!r} is no address of a DICOMweb server; write it as https://host/dicom-web")
        self.url, self.authorization = url.rstrip("/"), authorization

    def get(self, path: str, accept: str) -> tuple[bytes, str]:
        """(body, content type)."""
        headers = {"Accept": accept} | ({"Authorization": self.authorization} if self.authorization else {})
        kind = "an instance" if "/instances/" in path else "a list"
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{path}", headers=headers), timeout=TIMEOUT) as answer:
                return answer.read(), answer.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            raise DataError(f"the DICOMweb server answered {error.code} to a request for {kind}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise DataError(f"the DICOMweb server could not be asked for {kind}: {reason}") from None

    def studies(self) -> Iterator[str]:
        offset = 0
        while True:
            found = self.uids(f"studies?limit={PAGE}&offset={offset}", "0020000D")
            yield from found
            if len(found) < PAGE:
                return
            offset += PAGE

    def uids(self, path: str, tag: str) -> list[str]:
        """The UIDs in a QIDO-RS answer (PS3.18 F.2)."""
        body, _ = self.get(path, "application/dicom+json")
        if not body:
            return []
        try:
            return [str(entry[tag]["Value"][0]) for entry in json.loads(body)]
        except (ValueError, KeyError, IndexError, TypeError):
            raise DataError("the DICOMweb server's list is not what PS3.18 says; is the address that of /dicom-web?") from None

    def instance(self, path: str) -> bytes:
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        return first_part(*self.get(path, accept))


def first_part(body: bytes, content_type: str) -> bytes:
    r"""The first part of a multipart/related answer; DataError where it has none.

    >>> first_part(b"--x\r\nContent-Type: a/b\r\n\r\nDATA\r\n--x--", 'multipart/related; boundary="x"')
    b'DATA'
    """
    boundary = next((field.partition("=")[2].strip(' "') for field in content_type.split(";") if "boundary=" in field), "")
    mark = b"--" + boundary.encode()
    start = body.find(b"\r\n\r\n", body.find(mark))
    end = body.find(b"\r\n" + mark, start + 4)
    if not boundary or start < 0 or end < 0:
        raise DataError("the DICOMweb server's instance is no multipart/related answer")
    return body[start + 4 : end]
