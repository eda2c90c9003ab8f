"""What stands for a patient, a UID or a date: HMAC-SHA256 under a key that never leaves the site.

Each use has its own label, so that a value of one kind says nothing about the same value of another.  PS3.15 E.1.1
warns of unkeyed hashes: all patient IDs of a hospital can be tried in minutes.
"""

import base64
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from fedvision.errors import ConfigError

STANDARD_ROOT = b"1.2.840.10008."
LONGEST_SHIFT = 3650  # days


def normalised(patient_id: str) -> str:
    """A patient ID as it is compared: case, outer blanks and runs of blanks do not make another patient."""
    return " ".join(patient_id.casefold().split())


class Pseudonyms:
    """Pseudonyms under one key.  `repr` shows no key."""

    def __init__(self, key: bytes):
        if len(key) != 32:
            raise ConfigError(f"a site key has 32 bytes, this one {len(key)}")
        self._key = key
        self._uids: dict[bytes, bytes] = {}

    def digest(self, label: str, *parts: bytes) -> bytes:
        """32 bytes for (label, parts); parts are kept apart by their lengths."""
        message = label.encode() + b"".join(b"\0%d\0" % len(part) + part for part in parts)
        return hmac.digest(self._key, message, "sha256")

    def derive(self, label: str) -> bytes:
        """A key of 32 bytes for another purpose, e.g. the vault's encryption."""
        return self.digest("derive", label.encode())

    def patient(self, patient_id: str, issuer: str = "") -> str:
        """20 letters and digits (95 bits) that stand for a patient."""
        digest = self.digest("patient", normalised(patient_id).encode(), normalised(issuer).encode())
        return "P" + base64.b32encode(digest)[:19].decode()

    def uid(self, value: bytes) -> bytes:
        """The UID that stands for `value` (without padding), 2.25.<number of a version 8 UUID>; the standard's own
        stay."""
        if value.startswith(STANDARD_ROOT) and _standard(value):
            return value
        found = self._uids.get(value)
        if found is None:
            number = int.from_bytes(self.digest("uid", value)[:16], "big")
            number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
            if len(self._uids) > 100_000:
                self._uids.clear()
            found = self._uids[value] = b"2.25.%d" % number
        return found

    def shift(self, patient: str) -> int:
        """Days by which all dates of a patient (a pseudonym) are moved, -3650 ... -1."""
        return -1 - int.from_bytes(self.digest("shift", patient.encode())[:8], "big") % LONGEST_SHIFT

    def clock(self, study_uid: bytes) -> int:
        """A time of day in µs, for studies that have none of their own."""
        return int.from_bytes(self.digest("clock", study_uid)[:8], "big") % 86_400 * 1_000_000

    def subject(self, series: str) -> str:
        """A short keyed name for a series, in ledgers and manifests."""
        return self.digest("series", series.encode()).hex()[:24]


def _standard(value: bytes) -> bool:
    """Whether PS3.6 lists a UID.  The root alone does not make it one: the rest could be anything."""
    from pydicom._uid_dict import UID_dictionary

    return value.decode("latin-1") in UID_dictionary


def new_key(path: Path) -> bytes:
    """Write a fresh key, whole or not at all, readable by its owner alone; the one that is there, where another process
    was first."""
    key = secrets.token_bytes(32)
    fresh = path.with_name(f".{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)
    except FileExistsError:
        return read_key(path)
    finally:
        fresh.unlink(missing_ok=True)
    return key


def read_key(path: Path) -> bytes:
    """The key in a file of 64 hexadecimal digits.  ConfigError where others than its owner may read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise ConfigError(f"the site key {path} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise ConfigError(f"the site key {path} has mode {mode:04o}, so that others can read it; make it 0600: chmod 600 {path}")
        text = file.read(200).strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"the site key {path} is not 64 hexadecimal digits")
    return key


def fingerprint(key: bytes) -> str:
    """A name for a key that does not give it away."""
    return hashlib.sha256(b"fedvision site key\0" + key).hexdigest()[:16]
