"""The site's own memory, in a folder that only its owner may read: the key, the state of every input, and, encrypted,
who is who.

Paths are known by a keyed hash; identities and paths are sealed with AES-256-GCM under a key derived from the site's
key. A subject has a random ID that no key decides: it stays when the key is rotated.  Consent, splits and the unit of
differential privacy go by it.
"""

import json
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedvision.errors import ConfigError, DataError
from privacy.deidentify.instance import Identity
from privacy.deidentify.pseudonyms import Pseudonyms, fingerprint, new_key, read_key

_TABLES = """
CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 1), sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outs (id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, out INTEGER NOT NULL, started REAL NOT NULL, finished REAL);
CREATE TABLE IF NOT EXISTS inputs (
    out INTEGER NOT NULL, path BLOB NOT NULL, size INTEGER, mtime_ns INTEGER, inode INTEGER, rules TEXT NOT NULL,
    state TEXT NOT NULL, code TEXT NOT NULL, note TEXT NOT NULL, content TEXT NOT NULL, instance TEXT NOT NULL, name
    TEXT NOT NULL,
    row TEXT NOT NULL, sealed BLOB, run INTEGER NOT NULL, PRIMARY KEY (out, path)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_instance ON inputs (out, instance);
CREATE INDEX IF NOT EXISTS by_name ON inputs (out, name);
CREATE TABLE IF NOT EXISTS subjects (subject TEXT PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pseudonyms (pseudonym TEXT PRIMARY KEY, subject TEXT NOT NULL, key TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS accesses (id INTEGER PRIMARY KEY, time REAL NOT NULL, uid INTEGER, target TEXT NOT NULL,
    reason TEXT NOT NULL, found INTEGER NOT NULL, mac BLOB NOT NULL);
"""


def site_folder(given: Path | None) -> Path:
    """The folder of a site: as given, $FEDVISION_SITE, or ~/.fedvision/site."""
    return given or Path(os.environ.get("FEDVISION_SITE", "") or Path.home() / ".fedvision" / "site")


def site_key(folder: Path, create: bool) -> bytes:
    """The key of a site; with `create`, a new one where there is none, never a second one beside an old vault."""
    if not (folder / "key").exists():
        if not create:
            raise ConfigError(f"there is no site key in {folder}; `--site` names the folder that `fedvision dicom deidentify` made")
        if (folder / "vault.sqlite").exists() and not (folder / "key").exists():  # asked again: another process may be making both
            raise ConfigError(f"{folder} has a vault but no key: put the key back; a new one could not open the vault")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return new_key(folder / "key")
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        raise ConfigError(f"the site folder {folder} can be read by others; make it 0700: chmod 700 {folder}")
    return read_key(folder / "key")


class Sealer:
    """Encryption under what a site's key gives."""

    def __init__(self, key: bytes):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.pseudonyms, self.key_id = Pseudonyms(key), fingerprint(key)
        self._cipher = AESGCM(self.pseudonyms.derive("vault"))

    def seal(self, value: Any) -> bytes:
        """`value`, encrypted by AES-256-GCM under the vault's key."""
        nonce = secrets.token_bytes(12)
        return nonce + self._cipher.encrypt(nonce, json.dumps(value).encode(), None)

    def open(self, sealed: bytes) -> Any:
        """What was sealed.  DataError where the key is another one."""
        from cryptography.exceptions import InvalidTag

        try:
            return json.loads(self._cipher.decrypt(sealed[:12], sealed[12:], None))
        except InvalidTag:
            raise DataError(
                f"the key {self.key_id} does not open the vault, which was sealed under another one; put that one back "
                "(after an interrupted rotation it is the file key.new: move it to key)"
            ) from None


class Vault(Sealer):
    """One site's vault.  One process writes."""

    def __init__(self, folder: Path, key: bytes):
        super().__init__(key)
        self.folder = folder
        path = folder / "vault.sqlite"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self.db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.executescript(_TABLES)
        self._known: dict[str, str] = {}
        self._lookup = Pseudonyms(self._secret())

    def _secret(self) -> bytes:
        """The key under which paths are looked up: the vault's own, so that a rotation does not forget them."""
        self.db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (self.seal(secrets.token_hex(32)),))
        return bytes.fromhex(self.open(self.db.execute("SELECT sealed FROM secret").fetchone()[0]))

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    # ------------------------------------------------------------------------------------------------------- runs

    def out(self, folder: Path) -> int:
        """The number of an output folder."""
        key = self._lookup.digest("out", os.fsencode(folder.resolve()))[:16]
        self.db.execute("INSERT OR IGNORE INTO outs (key) VALUES (?)", (key,))
        return int(self.db.execute("SELECT id FROM outs WHERE key = ?", (key,)).fetchone()[0])

    def begin(self, out: int) -> tuple[int, bool]:
        """A new run's number, and whether the one before it came to its end."""
        last = self.db.execute("SELECT finished FROM runs WHERE out = ? ORDER BY id DESC LIMIT 1", (out,)).fetchone()
        run = self.db.execute("INSERT INTO runs (out, started) VALUES (?, ?)", (out, time.time())).lastrowid
        return int(run or 0), last is None or last[0] is not None

    def finish(self, run: int) -> None:
        """Note that a run came to its end."""
        self.db.execute("UPDATE runs SET finished = ? WHERE id = ?", (time.time(), run))

    def path_key(self, path: bytes) -> bytes:
        """16 bytes that stand for a path, and tell nothing of it."""
        return self._lookup.digest("path", path)[:16]

    # --------------------------------------------------------------------------------------------------- subjects

    def subject(self, pseudonym: str, who: Identity) -> str:
        """The random ID of a patient, drawn where the patient is new."""
        found = self._known.get(pseudonym)
        if found is None:
            row = self.db.execute("SELECT subject FROM pseudonyms WHERE pseudonym = ?", (pseudonym,)).fetchone()
            found = row[0] if row else secrets.token_hex(16)
            if row is None:
                patient = {"patient": who.patient, "issuer": who.issuer}
                self.db.execute("INSERT INTO subjects VALUES (?, ?)", (found, self.seal(patient)))
                self.db.execute("INSERT INTO pseudonyms VALUES (?, ?, ?)", (pseudonym, found, self.key_id))
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[pseudonym] = found
        return found

    def subjects(self) -> dict[str, str]:
        """Pseudonym -> subject ID, pseudonyms under earlier keys included."""
        return dict(self.db.execute("SELECT pseudonym, subject FROM pseudonyms"))

    def rotate(self) -> bytes:
        """Replace the site's key: all that is sealed is sealed anew, every subject gets its new pseudonym beside its
        old one, and what earlier runs wrote counts as of another key, so that the next run writes it again.  Returns
        the new key."""
        key = secrets.token_bytes(32)
        fresh = self.folder / "key.new"
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        other = Sealer(key)
        self.db.execute("BEGIN IMMEDIATE")
        for subject, sealed in self.db.execute("SELECT subject, sealed FROM subjects").fetchall():
            patient = self.open(sealed)
            self.db.execute("UPDATE subjects SET sealed = ? WHERE subject = ?", (other.seal(patient), subject))
            pseudonym = other.pseudonyms.patient(patient["patient"], patient["issuer"])
            self.db.execute("INSERT OR REPLACE INTO pseudonyms VALUES (?, ?, ?)", (pseudonym, subject, other.key_id))
        for out, path, sealed in self.db.execute("SELECT out, path, sealed FROM inputs WHERE sealed IS NOT NULL").fetchall():
            again = other.seal(self.open(sealed))
            self.db.execute("UPDATE inputs SET sealed = ?, rules = '' WHERE out = ? AND path = ?", (again, out, path))
        self.db.execute(
            "UPDATE secret SET sealed = ?",
            (other.seal(self.open(self.db.execute("SELECT sealed FROM secret").fetchone()[0])),),
        )
        self.db.execute("COMMIT")
        os.replace(fresh, self.folder / "key")
        return key

    # ------------------------------------------------------------------------------------------------ who is it

    def reidentify(self, target: str, reason: str) -> list[dict[str, Any]]:
        """Who and what stands behind a pseudonym, a subject ID or a new SOP instance UID.  The question is recorded
        first."""
        if not reason.strip():
            raise ConfigError("re-identification needs a reason, which is recorded: --reason TEXT")
        found = list(self._behind(target))
        self._record(target, reason.strip(), len(found))
        return found

    def _behind(self, target: str) -> Iterator[dict[str, Any]]:
        query = (
            "SELECT s.subject, s.sealed FROM subjects s LEFT JOIN pseudonyms p ON p.subject = s.subject "
            "WHERE p.pseudonym = ? OR s.subject = ? GROUP BY s.subject"
        )
        for subject, sealed in self.db.execute(query, (target, target)):
            yield {"subject": subject, **self.open(sealed)}
        for sealed, state, code in self.db.execute("SELECT sealed, state, code FROM inputs WHERE instance = ?", (target,)):
            yield {"state": state, "code": code, **(self.open(sealed) if sealed else {})}

    def quarantined(self, reason: str) -> list[dict[str, Any]]:
        """The paths of what is held back, with their codes; recorded like any re-identification."""
        if not reason.strip():
            raise ConfigError("re-identification needs a reason, which is recorded: --reason TEXT")
        rows = self.db.execute("SELECT sealed, code, note FROM inputs WHERE state = 'quarantined' AND sealed IS NOT NULL").fetchall()
        self._record("quarantine", reason.strip(), len(rows))
        return [{"code": code, "note": note, **self.open(sealed)} for sealed, code, note in rows]

    def _record(self, target: str, reason: str, found: int) -> None:
        """A line in the record of accesses, chained by HMAC to the line before it, so that none can be taken out
        unseen."""
        last = self.db.execute("SELECT mac FROM accesses ORDER BY id DESC LIMIT 1").fetchone()
        now = time.time()
        fields = [repr(now), str(os.getuid()), target, reason, str(found)]
        mac = self.pseudonyms.digest("access", last[0] if last else b"", *(field.encode() for field in fields))
        values = (now, os.getuid(), target, reason, found, mac)
        self.db.execute("INSERT INTO accesses (time, uid, target, reason, found, mac) VALUES (?, ?, ?, ?, ?, ?)", values)


def sealed_input(vault: Vault, path: bytes, who: Identity | None) -> bytes:
    """What re-identification of an input gives: its path and, where they are known, its identifiers."""
    return vault.seal({"path": os.fsdecode(path), **(who.as_json() if who else {})})
