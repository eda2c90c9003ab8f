"""One hash over all sites' heads, as RFC 6962 forms it: leaves and nodes are told apart by their first byte.

leaf = SHA-256(00 ‖ canonical([site, number, hash]))     node = SHA-256(01 ‖ left ‖ right)     a lone node goes up as it is
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from privacy.ledger.entries import FIRST, canonical


def leaf(site: str, number: int, hash: str) -> bytes:
    """Of one site, whose entry `number` has this hash."""
    return hashlib.sha256(b"\x00" + canonical([site, number, hash])).digest()


def root_of(leaves: Iterable[bytes]) -> str:
    """The root over leaves in this order; zeros where there are none."""
    level = list(leaves)
    if not level:
        return FIRST
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = [*pairs, *level[len(level) & ~1 :]]
    return level[0].hex()


@dataclass
class Heads:
    """The newest entry of each site that was counted, by name."""

    newest: dict[str, tuple[int, str]] = field(default_factory=dict)
    _leaves: dict[str, bytes] = field(default_factory=dict)

    def put(self, site: str, number: int, hash: str) -> None:
        """A site's chain has come this far."""
        self.newest[site] = (number, hash)
        self._leaves[site] = leaf(site, number, hash)

    def root(self) -> str:
        """Over all sites, in the order of their names."""
        return root_of(self._leaves[site] for site in sorted(self._leaves))

    def witness(self, number: int, hash: str) -> str:
        """Over all sites and, before them under the empty name, entry `number` of the coordinator itself: what a site repeats in
        its own entry, and so vouches for."""
        return root_of([leaf("", number, hash), *(self._leaves[site] for site in sorted(self._leaves))])

    @classmethod
    def of(cls, newest: Mapping[str, tuple[int, str]]) -> "Heads":
        """Heads that are known."""
        heads = cls()
        for site, (number, hash) in newest.items():
            heads.put(site, number, hash)
        return heads
