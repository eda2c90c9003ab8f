"""A real site's own keys and roster, in its own folder: who it is, whom it goes by, and what it insists on.

    identity.key       the site's Ed25519 secret, 64 hexadecimal digits, readable by its owner alone; it signs the site's ledgers and
                       its messages of secure aggregation, each behind a tag of its own
    membership.json    the pinned roster and those before it, the site's minimum cohort and threshold, and the fingerprints that its people
                       have approved

    masking/           what secure aggregation must not forget, over all runs

The folder outlives runs.  A site's folder of one run's states says which it is, in site.json: {"folder": FOLDER}.

Rosters travel as files.  They are signed where the authorities' keys are: offline by a consortium, or by m of the sites; never by a
coordinator.  A simulated site has neither file: its keys belong to the user of the machine.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvision.errors import AggregationRefused, ConfigError
from fedvision.tracking.folder import write_atomically
from fedvision.types import SiteId
from privacy.ledger.entries import canonical
from privacy.ledger.keys import Keyring, is_key
from privacy.secure_aggregation.primitives import Identity
from privacy.secure_aggregation.roster import Endorsement, Member, Pinned, Roster, SignedRoster, endorse

IDENTITY, MEMBERSHIP, POINTER = "identity.key", "membership.json", "site.json"
_SECRET = re.compile(r"[0-9a-f]{64}\n?\Z")


# ------------------------------------------------------------------------------------------------------- identities


def new_identity(path: Path) -> Identity:
    """Make an identity and write it where nothing is yet, for its owner's eyes alone."""
    identity = Identity.fresh()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists; a key is never written over: name another file, or remove it and lose what it signs for"
        ) from None
    with os.fdopen(handle, "w") as file:
        file.write(identity.secret.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return identity


def read_identity(path: Path) -> Identity:
    """The identity in a file; ConfigError where there is none, or others can read it."""
    try:
        with path.open() as file:
            open_to = os.fstat(file.fileno()).st_mode & 0o077
            content = file.read(80)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a key ({error}); make one with: fedvision privacy identity new {path}") from None
    if open_to:
        raise ConfigError(f"{path} can be read by others than its owner; take that away (chmod 600), or make another key: it may be known")
    if not _SECRET.match(content):
        raise ConfigError(f"{path} holds no key, which is 64 hexadecimal digits; put back the file")
    return Identity(bytes.fromhex(content.strip()))


# ---------------------------------------------------------------------------------------------------------- rosters


def roster_text(signed: SignedRoster) -> bytes:
    """The file of a roster and its signatures: canonical JSON, so that two can be compared by eye."""
    return canonical(_as_json(signed)) + b"\n"


def _as_json(signed: SignedRoster) -> dict[str, Any]:
    r = signed.roster
    return {
        "federation": r.federation, "version": r.version, "sites": {m.site: m.key.hex() for m in r.members}, "quorum": r.quorum,
        "authorities": [key.hex() for key in r.authorities], "signatures": {e.authority.hex(): e.signature.hex() for e in signed.endorsements},
    }  # fmt: skip


def roster_of(value: Any, where: str) -> SignedRoster:
    """The roster in parsed JSON; ConfigError where it is none."""
    names = {"federation", "version", "sites", "quorum", "authorities", "signatures"}
    try:
        if set(value) != names or not all(map(is_key, [*value["sites"].values(), *value["authorities"], *value["signatures"]])):
            raise ValueError("its keys")
        members = tuple(Member(site, bytes.fromhex(key)) for site, key in sorted(value["sites"].items()))
        roster = Roster(
            _text(value["federation"]), _count(value["version"]), members, tuple(map(bytes.fromhex, value["authorities"])), _count(value["quorum"])
        )  # fmt: skip
        return SignedRoster(roster, tuple(Endorsement(bytes.fromhex(a), bytes.fromhex(s)) for a, s in sorted(value["signatures"].items())))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f"{where} holds no roster; make one with: fedvision privacy roster make") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a name")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("a number")
    return value


def read_roster(path: Path) -> SignedRoster:
    """The roster in a file; ConfigError where there is none."""
    try:
        return roster_of(json.loads(path.read_bytes()), str(path))
    except (OSError, ValueError, RecursionError):
        raise ConfigError(f"{path} cannot be read as a roster; make one with: fedvision privacy roster make") from None


def signed_by(signed: SignedRoster, identity: Identity) -> SignedRoster:
    """`signed`, with the signature of one of its own authorities, or, for the successor of an older one, of that one's."""
    mine = endorse(signed.roster, [identity]).endorsements
    others = tuple(e for e in signed.endorsements if e.authority != identity.public)
    return replace(signed, endorsements=tuple(sorted((*others, *mine), key=lambda e: e.authority)))


# ------------------------------------------------------------------------------------------------------- membership


@dataclass
class Membership:
    """A site's folder, read.  threshold: fewest signatures on a survivor list that it asks for; 0 = the protocol's."""

    folder: Path
    identity: Identity
    site: SiteId
    pinned: Pinned
    threshold: int = 0

    @classmethod
    def join(
        cls, folder: Path, signed: SignedRoster, fingerprint: bytes, minimum_cohort: int, threshold: int = 0, allow_additions: bool = False
    ) -> "Membership":
        """Pin a roster whose fingerprint came by a way that is not the coordinator's.  ConfigError where the site has one already, or is
        not in this one; AggregationRefused where the roster is not that one, or not signed."""
        if (folder / MEMBERSHIP).exists():
            raise ConfigError(f"{folder} has a pinned roster, which a newer one follows by approval: fedvision privacy roster adopt")
        identity = read_identity(folder / IDENTITY)
        pinned = Pinned.join(signed, fingerprint, minimum_cohort, allow_additions)
        found = cls(folder, identity, _own_name(signed.roster, identity), pinned, threshold)
        found.write()
        return found

    @classmethod
    def read(cls, folder: Path) -> "Membership":
        """The one in a site's folder; ConfigError where it is not whole."""
        path = folder / MEMBERSHIP
        try:
            value = json.loads(path.read_bytes())
            approved = frozenset(map(bytes.fromhex, value["approved"]))
            numbers = _count(value["minimum_cohort"]), int(value["threshold"])
            by_rule, before = value["allow_additions"] is True, list(value["former"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(f"{path} cannot be read: a site gets it with `fedvision privacy roster pin`; put back the file") from None
        roster, identity = roster_of(value["roster"], str(path)).roster, read_identity(folder / IDENTITY)
        pinned = Pinned(roster, numbers[0], approved, by_rule, tuple(roster_of(former, str(path)).roster for former in before))
        return cls(folder, identity, _own_name(roster, identity), pinned, numbers[1])

    def write(self) -> None:
        """Put it on the disk, whole or not at all."""
        p = self.pinned
        value = {
            "roster": _as_json(SignedRoster(p.roster, ())), "minimum_cohort": p.minimum_cohort, "threshold": self.threshold,
            "approved": sorted(f.hex() for f in p.approved), "allow_additions": p.allow_additions,
            "former": [_as_json(SignedRoster(former, ())) for former in p.former],
        }  # fmt: skip
        write_atomically(self.folder / MEMBERSHIP, canonical(value) + b"\n")

    def approve(self, fingerprint: bytes) -> None:
        """The site's people agree to the roster with this fingerprint, once it comes."""
        self.pinned.approve(fingerprint)
        self.write()

    def adopt(self, signed: SignedRoster) -> None:
        """Go by a newer roster; AggregationRefused by the name of the check that it does not pass, and nothing has changed."""
        name = _own_name(signed.roster, self.identity)
        if name != self.site:
            raise AggregationRefused("stranger", f"roster {signed.roster.version} calls this site {name}, and it is {self.site}")
        self.pinned.adopt(signed)
        self.write()


def _own_name(roster: Roster, identity: Identity) -> SiteId:
    name = next((m.site for m in roster.members if m.key == identity.public), None)
    if name is None:
        raise ConfigError(
            f"roster {roster.version} of {roster.federation} does not have this site's key {identity.public.hex()}: have it made with --site NAME=KEY"
        )
    return SiteId(name)


def membership_of(states: Path, site: SiteId) -> Membership | None:
    """A real site's, by what its folder of the run's states points to; None where the site is simulated.  ConfigError where the folder
    is another site's."""
    pointer = states / quote(site, safe="") / POINTER
    if not pointer.exists():
        return None
    try:
        folder = Path(json.loads(pointer.read_bytes())["folder"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f'{pointer} does not say where the site keeps its keys; write {{"folder": FOLDER}}') from None
    found = Membership.read(folder)
    if found.site != site:
        raise ConfigError(f"{folder} is the folder of site {found.site}, and {site} is asked; give each site its own")
    return found


def ledger_key(states: Path, run: str, site: SiteId) -> Ed25519PrivateKey:
    """What signs a site's ledger: a real site's identity, or for a simulated one a key of this user's."""
    member = membership_of(states, site)
    if member is None:
        return Keyring.here().key(run, site)
    return Ed25519PrivateKey.from_private_bytes(member.identity.secret)


def fingerprints(texts: Iterable[str]) -> list[bytes]:
    """Fingerprints as people give them, blanks between the digits or not; ConfigError for what is none."""
    found = []
    for text in texts:
        digits = "".join(text.split()).lower()
        if not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise ConfigError(f"fingerprint {text[:80]!r}: 64 hexadecimal digits, as `fedvision privacy roster show` prints them")
        found.append(bytes.fromhex(digits))
    return found
