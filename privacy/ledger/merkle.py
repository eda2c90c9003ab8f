"""One hash over all sites' heads, as RFC 6962 forms it: leaves and nodes are told apart by their first byte.

leaf = SHA-256(00 ‖ canonical([site, number, hash]))     node = SHA-256(01 ‖ left ‖ right)     a lone node goes up as it is
"""

import hashlib
from collections.abc import Iterable, Mapping
from itertools import pairwise

from privacy.ledger.entries import FIRST, canonical


def leaf(site: str, number: int, hash: str) -> bytes:
    """Of one site, whose entry `number` has this hash."""
    return hashlib.sha256(b"\x00" + canonical([site, number, hash])).digest()


class _Tree:
    """All levels of a tree over leaves in a fixed order, so that a leaf that changes costs its way up and not the others'."""

    def __init__(self, leaves: Iterable[bytes]):
        self.levels = [list(leaves)]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append([self._node(below, at) for at in range(0, len(below), 2)])

    @staticmethod
    def _node(below: list[bytes], at: int) -> bytes:
        """What stands over node `at`, an even one, and its neighbour; itself where it has none."""
        return hashlib.sha256(b"\x01" + below[at] + below[at + 1]).digest() if at + 1 < len(below) else below[at]

    def put(self, at: int, leaf: bytes) -> None:
        """Another leaf in the place of leaf `at`."""
        self.levels[0][at] = leaf
        for below, level in pairwise(self.levels):
            level[at // 2] = self._node(below, at & ~1)
            at //= 2

    def root(self) -> str:
        """Zeros where there are no leaves."""
        return self.levels[-1][0].hex() if self.levels[0] else FIRST


def root_of(leaves: Iterable[bytes]) -> str:
    """The root over leaves in this order; zeros where there are none."""
    return _Tree(leaves).root()


class Heads:
    """The newest entry of each site that was counted, by name."""

    def __init__(self) -> None:
        self.newest: dict[str, tuple[int, str]] = {}
        self._places: dict[str, int] | None = None  # in the order of the names; None = to be looked up, for a name is new
        self._sites, self._with_own = _Tree([]), _Tree([])  # the second with the coordinator's own entry before the sites

    def put(self, site: str, number: int, hash: str) -> None:
        """A site's chain has come this far."""
        if site not in self.newest:
            self._places = None
        self.newest[site] = (number, hash)
        if self._places is not None:
            self._sites.put(self._places[site], leaf(site, number, hash))
            self._with_own.put(1 + self._places[site], leaf(site, number, hash))

    def _settle(self) -> None:
        """Plant the trees again, where names have come since they were planted."""
        if self._places is None:
            names = sorted(self.newest)
            leaves = [leaf(name, *self.newest[name]) for name in names]
            self._places = {name: place for place, name in enumerate(names)}
            self._sites, self._with_own = _Tree(leaves), _Tree([b"", *leaves])

    def root(self) -> str:
        """Over all sites, in the order of their names."""
        self._settle()
        return self._sites.root()

    def root_with(self, heads: Mapping[str, tuple[int, str]]) -> str:
        """The root as it will be when these are counted too."""
        if not heads.keys() <= self.newest.keys():
            return Heads.of({**self.newest, **heads}).root()
        self._settle()
        before = {site: self.newest[site] for site in heads}
        for site, head in heads.items():
            self.put(site, *head)
        root = self.root()
        for site, head in before.items():
            self.put(site, *head)
        return root

    def witness(self, number: int, hash: str) -> str:
        """Over all sites and, before them under the empty name, entry `number` of the coordinator itself: what a site repeats in
        its own entry, and so vouches for."""
        self._settle()
        self._with_own.put(0, leaf("", number, hash))
        return self._with_own.root()

    @classmethod
    def of(cls, newest: Mapping[str, tuple[int, str]]) -> "Heads":
        """Heads that are known."""
        heads = cls()
        for site, (number, hash) in newest.items():
            heads.put(site, number, hash)
        return heads
