"""The roster: who belongs to the federation, signed by keys that are not at the coordinator, pinned at each site.

A site pins the roster's fingerprint and the authorities when it joins.  A newer roster takes effect at a site by the site's
own approval of its fingerprint, or by a rule that the site has set; it is signed by a quorum of the authorities that are
pinned NOW, its version is higher, and enough of the sites that this site already knows stay in it, under the same keys:
strangers may come, but they cannot make up a cohort.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from privacy.secure_aggregation import codec
from privacy.secure_aggregation.checks import require
from privacy.secure_aggregation.primitives import Identity, digest, verified


@dataclass(frozen=True)
class Member:
    """A site and its Ed25519 public key."""

    site: str
    key: bytes


@dataclass(frozen=True)
class Roster:
    """The sites of a federation.  authorities: keys of the consortium or of sites; quorum: how many must sign a roster."""

    federation: str
    version: int
    members: tuple[Member, ...]
    authorities: tuple[bytes, ...]
    quorum: int

    @cached_property
    def fingerprint(self) -> bytes:
        """What a site pins."""
        return digest(b"roster", codec.encode(self))

    @cached_property
    def keys(self) -> dict[str, bytes]:
        """Site -> public key."""
        return {member.site: member.key for member in self.members}


@dataclass(frozen=True)
class Endorsement:
    """An authority's signature on a roster's fingerprint."""

    authority: bytes
    signature: bytes


@dataclass(frozen=True)
class SignedRoster:
    """A roster and who stands for it."""

    roster: Roster
    endorsements: tuple[Endorsement, ...]


def endorse(roster: Roster, authorities: Sequence[Identity]) -> SignedRoster:
    """The roster, signed by each of `authorities`; done where their keys are, never at the coordinator."""
    return SignedRoster(roster, tuple(Endorsement(a.public, a.sign(roster.fingerprint)) for a in authorities))


def endorsers(signed: SignedRoster) -> set[bytes]:
    """The roster's own authorities that have signed it."""
    return _good(signed, signed.roster.authorities)


def _good(signed: SignedRoster, authorities: Sequence[bytes]) -> set[bytes]:
    fingerprint = signed.roster.fingerprint
    return {e.authority for e in signed.endorsements if e.authority in authorities and verified(e.authority, e.signature, fingerprint)}


def well_formed(roster: Roster) -> bool:
    """Whether its sites are in the order of their names, no name or key is there twice, and its authorities can make the quorum."""
    names, keys = [m.site for m in roster.members], [m.key for m in roster.members]
    distinct = len(set(names)) == len(names) == len(set(keys)) and len(set(roster.authorities)) == len(roster.authorities)
    return distinct and names == sorted(names) and 1 <= roster.quorum <= len(roster.authorities)


def _check_signatures(signed: SignedRoster, authorities: Sequence[bytes], quorum: int) -> None:
    good = _good(signed, authorities)
    require(
        "roster_signature", len(good) >= quorum,
        f"roster {signed.roster.version} is signed by {len(good)} of the pinned authorities, and {quorum} are needed",
    )  # fmt: skip


@dataclass
class Pinned:
    """The roster that a site goes by.  approved: fingerprints of newer ones that the site's people have agreed to.

    allow_additions: the site's rule for rosters that nobody approved by hand: True takes those that only add sites.
    former: those that it went by before; what was signed in their time is judged by the keys of their time.
    """

    roster: Roster
    minimum_cohort: int
    approved: frozenset[bytes] = frozenset()
    allow_additions: bool = False
    former: tuple[Roster, ...] = ()

    @classmethod
    def join(cls, signed: SignedRoster, fingerprint: bytes, minimum_cohort: int, allow_additions: bool = False) -> "Pinned":
        """Pin `signed`, whose fingerprint the site has got by a way that is not the coordinator's."""
        require("roster", signed.roster.fingerprint == fingerprint, "the roster is not the one whose fingerprint was given to this site")
        require("malformed", well_formed(signed.roster), "a roster's sites are in the order of their names, with distinct keys")
        _check_signatures(signed, signed.roster.authorities, signed.roster.quorum)
        return cls(signed.roster, minimum_cohort, allow_additions=allow_additions)

    def key(self, site: str) -> bytes | None:
        """The public key of a site of the roster."""
        return self.roster.keys.get(site)

    def keys_under(self, fingerprint: bytes) -> dict[str, bytes]:
        """The sites' public keys in the roster in force or a former one; none for one that this site never went by."""
        return next((r.keys for r in (self.roster, *self.former) if r.fingerprint == fingerprint), {})

    @property
    def fingerprint(self) -> bytes:
        """Of the roster in force."""
        return self.roster.fingerprint

    def approve(self, fingerprint: bytes) -> None:
        """The site's people agree to the roster with this fingerprint."""
        self.approved |= {fingerprint}

    def adopt(self, signed: SignedRoster) -> None:
        """Go by a newer roster from now on; AggregationRefused by the name of the check that it does not pass."""
        new, old = signed.roster, self.roster.keys
        require("malformed", well_formed(new) and new.federation == self.roster.federation, "not a roster of this federation")
        require("roster_version", new.version > self.roster.version, f"version {new.version}, and {self.roster.version} is in force")
        _check_signatures(signed, self.roster.authorities, self.roster.quorum)
        kept = sum(old.get(member.site) == member.key for member in new.members)
        require(
            "roster_shrinks", kept >= self.minimum_cohort,
            f"{kept} of the known sites stay in roster {new.version}, and this site's minimum cohort is {self.minimum_cohort}",
        )  # fmt: skip
        renamed = set(old.values()) & {member.key for member in new.members if old.get(member.site) != member.key}
        require("stranger", not renamed, f"roster {new.version} gives a known site's key another name, under which it would count twice")
        same_authorities = (new.authorities, new.quorum) == (self.roster.authorities, self.roster.quorum)
        by_rule = self.allow_additions and kept == len(old) and same_authorities
        require("not_approved", by_rule or new.fingerprint in self.approved, f"roster {new.version} was not approved at this site")
        self.roster, self.former = new, (*self.former, self.roster)
