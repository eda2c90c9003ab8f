"""Who signs a simulation's ledgers, and the roster by which anyone checks them: both belong to the user of the machine.

    $FEDVISION_STATE, else $XDG_STATE_HOME/fedvision, else ~/.local/state/fedvision
        simulations.key         32 secret bytes; every key of every simulation here is derived from it
        rosters/<run>.json      the public keys of a run: what an officer on another machine needs beside the run folder

Neither is in a run folder, so that whoever changes one cannot sign what he changed.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedvision.errors import ConfigError
from privacy.ledger.entries import canonical

PLACE = "FEDVISION_STATE"
_PUBLIC = re.compile(r"[0-9a-f]{64}\Z")


def state_folder() -> Path:
    """Where fedvision keeps what is this user's and no run's."""
    named, shared = os.environ.get(PLACE), os.environ.get("XDG_STATE_HOME")
    if named:
        return Path(named).expanduser()
    return (Path(shared) if shared else Path.home() / ".local" / "state") / "fedvision"


@dataclass(frozen=True)
class Roster:
    """The public keys of a run, as 64 hexadecimal digits: its coordinator's, and its sites' by name."""

    run: str
    coordinator: str
    sites: Mapping[str, str]

    def key(self, site: str | None) -> Ed25519PublicKey:
        """A site's key, or with None the coordinator's."""
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.coordinator if site is None else self.sites[site]))

    def written(self) -> bytes:
        """The file."""
        return canonical({"coordinator": self.coordinator, "run": self.run, "sites": dict(self.sites)}) + b"\n"

    @classmethod
    def read(cls, path: Path) -> "Roster":
        """The roster in a file; ConfigError (exit 2) where there is none."""
        try:
            value: Any = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            raise ConfigError(f"{path}: it cannot be read as a roster; give the file that was written when the run began") from None
        said = value if isinstance(value, dict) else {}
        run, coordinator, sites = said.get("run"), said.get("coordinator"), said.get("sites")
        if not isinstance(run, str) or not isinstance(sites, dict) or not all(map(is_key, [coordinator, *sites.values()])):
            raise ConfigError(f'{path}: no roster; it should hold {{"coordinator": KEY, "run": NAME, "sites": {{NAME: KEY}}}}')
        return cls(run, str(coordinator), sites)


def roster_path(run: str) -> Path:
    """Where the roster of a simulation that ran here is."""
    return state_folder() / "rosters" / f"{quote(run, safe='')}.json"


@dataclass(frozen=True)
class Keyring:
    """The keys of this user's simulations.  Not shown when printed."""

    secret: bytes

    def __repr__(self) -> str:
        return "Keyring(…)"

    @classmethod
    def here(cls) -> "Keyring":
        """This user's; made when it is first wanted.  ConfigError where its folder cannot be used."""
        path = state_folder() / "simulations.key"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                create_once(path, os.urandom(32))
            secret = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror}; the keys that sign a private run's ledgers live there: name a folder that can be written in {PLACE}"
            ) from None
        if len(secret) != 32:
            raise ConfigError(
                f"{path}: {len(secret)} bytes, and a key has 32; put back the file, or remove it and lose the keys of old runs"
            )
        return cls(secret)

    def key(self, run: str, site: str | None) -> Ed25519PrivateKey:
        """The key of a site in a run, or with None the coordinator's."""
        role = ["coordinator"] if site is None else ["site", site]
        info = b"fedvision/ledger/1/" + canonical([run, *role])
        return Ed25519PrivateKey.from_private_bytes(HKDF(hashes.SHA256(), 32, None, info).derive(self.secret))

    def roster(self, run: str, sites: Iterable[str]) -> Roster:
        """The public keys of a run."""
        return Roster(run, public(self.key(run, None)), {site: public(self.key(run, site)) for site in sorted(sites)})

    def found(self, run: str, sites: Iterable[str]) -> Roster:
        """The roster of a run that begins here, written where `verify` finds it."""
        roster, path = self.roster(run, sites), roster_path(run)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = path.with_name(f".{os.getpid()}.part")
        beside.write_bytes(roster.written())
        os.replace(beside, path)
        return roster


def public(key: Ed25519PrivateKey) -> str:
    """The public half, hexadecimal."""
    return key.public_key().public_bytes_raw().hex()


def begun_by_another(ledger: Path, key: Ed25519PrivateKey) -> bool:
    """Whether the first line of a ledger names another key than `key`, so that it can be checked but not gone on with."""
    try:
        with ledger.open("rb") as lines:
            return bool(json.loads(lines.readline())["body"]["key"] != public(key))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def not_yours(ledger: Path) -> ConfigError:
    """What is said of a ledger that another user began."""
    return ConfigError(
        f"{ledger} was begun with another key than this process has: a run is gone on with by the user, and on the machine, that began it; "
        f"elsewhere set {PLACE} to that user's folder"
    )


def is_key(value: Any) -> bool:
    """Whether it is an Ed25519 public key: 64 lower-case hexadecimal digits that `cryptography` takes."""
    if not isinstance(value, str) or not _PUBLIC.match(value):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(value))
    except ValueError:
        return False
    return True


def create_once(path: Path, content: bytes) -> None:
    """Make the file, whole, unless another process was first."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(beside, path)
    except FileExistsError:
        pass
    finally:
        beside.unlink()
