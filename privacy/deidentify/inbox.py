"""Ways into an inbox: a DICOM receiver (C-STORE), and reading from a DICOMweb server (QIDO-RS, WADO-RS; PS3.18).

An inbox holds originals.  Its files are named by a keyed hash of their SOP instance UID, so that names say nothing
and what is there already is not written twice; another content under the same UID gets a name of its own, and is held
back by `deidentify` as a conflict.
"""

import hashlib
import json
import os
import secrets
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from fedvision.errors import ConfigError, DataError
from privacy.deidentify.modules import CLASSES, STORAGE
from privacy.deidentify.pseudonyms import Pseudonyms
from privacy.deidentify.reader import ENCAPSULATED, NATIVE

PAGE = 100  # entries of a list asked for at once
TIMEOUT = 60  # seconds without an answer
SENDERS, SILENT = 32, 5  # associations at once; seconds in which a peer that connects has to ask for one
LARGEST = 2 << 30  # bytes of one object: it is in memory until it is whole


class Inbox:
    """A folder of originals, readable by its owner alone."""

    def __init__(self, folder: Path, key: bytes):
        self.folder, self.pseudonyms = folder, Pseudonyms(key)
        self._naming = threading.Lock()  # a receiver has a thread for each sender
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def stem(self, instance: str) -> str:
        """The file's name for an instance, which tells nothing of it."""
        return self.pseudonyms.digest("inbox", instance.encode("latin-1", "replace")).hex()[:32]

    def has(self, instance: str) -> bool:
        """Whether the instance has come before."""
        return (self.folder / f"{self.stem(instance)}.dcm").exists()

    def put(self, instance: str, data: bytes) -> bool:
        """Write a file whole, or not at all.  False where the same bytes are there already."""
        stem = self.stem(instance)
        names = (f"{stem}.dcm", f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.dcm")
        if self._there(names, data):
            return False
        fresh = self.folder / f".{secrets.token_hex(8)}.part"
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self._naming:
                if self._there(names, data):
                    return False
                os.rename(fresh, self.folder / names[(self.folder / names[0]).exists()])
        finally:
            fresh.unlink(missing_ok=True)
        self._sync()
        return True

    def _there(self, names: tuple[str, ...], data: bytes) -> bool:
        """Whether one of the files has these bytes."""
        paths = [self.folder / name for name in names]
        return any(path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data for path in paths)

    def _sync(self) -> None:
        """The names too are on disk: the sender may forget an object that is acknowledged."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------ C-STORE


def receiver(inbox: Inbox, *, host: str, port: int, title: str, callers: list[str]) -> Any:
    """A running C-STORE receiver of the classes that are de-identified; `shutdown()` ends it.

    callers: AE titles that may send; [] = any.  An object is acknowledged when it is on disk.  A peer that sends more
    than LARGEST bytes for one object is cut off.
    """
    try:
        from pynetdicom import AE, evt
    except ImportError:
        raise ConfigError("the receiver needs pynetdicom: pip install 'fedvision[dicom-network]'") from None
    import logging

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # its messages can hold values
    entity = AE(ae_title=title)
    entity.require_calling_aet, entity.require_called_aet = callers, True
    entity.maximum_associations, entity.acse_timeout = SENDERS, SILENT  # who says nothing takes one of the places
    for sop_class in CLASSES:
        entity.add_supported_context(STORAGE + sop_class, sorted(NATIVE | ENCAPSULATED))
    entity.add_supported_context("1.2.840.10008.1.1")

    def store(event: Any) -> int:
        try:
            inbox.put(str(event.request.AffectedSOPInstanceUID), event.encoded_dataset())
        except OSError:
            return 0xA700  # out of resources: the sender keeps it, and tries again
        return 0x0000

    handlers: list[Any] = [(evt.EVT_C_STORE, store), (evt.EVT_PDU_RECV, _Counted())]
    try:
        return entity.start_server((host, port), block=False, evt_handlers=handlers)
    except OSError as error:
        raise ConfigError(f"the receiver cannot listen on {host}, port {port}: {error.strerror}") from None


class _Counted:
    """Ends an association whose object grows over LARGEST; called for every part of one (PS3.8 9.3.5)."""

    def __init__(self) -> None:
        self.sizes: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def __call__(self, event: Any) -> None:
        for part in getattr(event.pdu, "presentation_data_value_items", []):
            size = self.sizes.get(event.assoc, 0) + len(part.presentation_data_value)
            last = part.presentation_data_value[:1] in (b"\2", b"\3")
            self.sizes[event.assoc] = 0 if last else size
            if size > LARGEST:
                event.assoc.abort()


# ----------------------------------------------------------------------------------------------------------- DICOMweb


def fetch(url: str, inbox: Inbox, authorization: str = "") -> Iterator[bool]:
    """Fetch every instance that the server lists and the inbox does not have; True for each that was new.

    DataError where the server does not answer as DICOMweb does.  No message holds a UID.
    """
    server = _Server(url, authorization)
    for study in server.uids("studies", "0020000D"):
        for series in server.uids(f"studies/{quote(study, '')}/series", "0020000E"):
            instances = f"studies/{quote(study, '')}/series/{quote(series, '')}/instances"
            for instance in server.uids(instances, "00080018"):
                yield not inbox.has(instance) and inbox.put(instance, server.instance(f"{instances}/{quote(instance, '')}"))


class _Server:
    def __init__(self, url: str, authorization: str):
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(f"{url!r} is no address of a DICOMweb server; write it as https://host/dicom-web")
        self.url, self.authorization = url.rstrip("/"), authorization

    def get(self, path: str, accept: str) -> tuple[bytes, str]:
        """(body, content type)."""
        kind = "an instance" if "/instances/" in path else "a list"
        request = urllib.request.Request(f"{self.url}/{path}", headers={"Accept": accept})
        if self.authorization:
            request.add_unredirected_header("Authorization", self.authorization)  # for this server alone
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                body, content_type = answer.read(LARGEST), answer.headers.get("Content-Type", "")
                cut = bool(answer.length) or len(body) == LARGEST
        except urllib.error.HTTPError as error:
            raise DataError(f"the DICOMweb server answered {error.code} to a request for {kind}") from None
        except (OSError, HTTPException) as error:  # of the connection: refused, silent, cut, no HTTP
            reason = getattr(error, "reason", None) or type(error).__name__
            raise DataError(f"the DICOMweb server could not be asked for {kind}: {reason}") from None
        if cut:
            raise DataError(f"the DICOMweb server's answer to a request for {kind} was cut, or is over {LARGEST >> 20} MiB; fetch again")
        return body, content_type

    def uids(self, path: str, tag: str) -> Iterator[str]:
        """The UIDs of a list, each once, until a page has nothing new: servers may know no pages, or have smaller ones."""
        seen: dict[str, None] = {}
        while fresh := [uid for uid in self.page(f"{path}?limit={PAGE}&offset={len(seen)}", tag) if uid not in seen]:
            seen |= dict.fromkeys(fresh)
            yield from dict.fromkeys(fresh)

    def page(self, path: str, tag: str) -> list[str]:
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
