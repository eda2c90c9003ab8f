"""Which sums may be known together: the atoms of the Venn diagram of their lists.

Whoever knows the sums over lists L₁ … L_k knows every linear combination of them and nothing else.  A combination is
constant on each atom (the sites that belong to exactly the same lists), so nothing finer than the sums over atoms follows.
Pairwise differences do not suffice: with disjoint triples A, B, C and one more site x, the lists all, all − A, all − B and
all − C differ pairwise by three or more, and (all − A) + (all − B) + (all − C) − 2 · all is x alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from privacy.secure_aggregation.primitives import digest

MARK = 16  # bytes that stand for a model whose lists are no longer kept; two models with one mark would only be refused alike


def atoms(lists: Sequence[Iterable[str]]) -> Counter[int]:
    """Membership pattern (bit i: in list i) -> how many sites have it.  Sites in no list have no pattern."""
    member: dict[str, int] = {}
    for number, names in enumerate(lists):
        for name in set(names):
            member[name] = member.get(name, 0) | 1 << number
    return Counter(member.values())


def smallest_atom(lists: Sequence[Iterable[str]]) -> int:
    """How many sites the finest sum that follows from the lists' sums is over."""
    return min(atoms(lists).values(), default=0)


def mark(model: bytes) -> bytes:
    """What is kept of a model for good."""
    return digest(b"model", model)[:MARK]


def is_marked(marks: bytes, model: bytes) -> bool:
    """Whether `marks`, one after the other, hold that of a model."""
    wanted, at = mark(model), -1
    while (at := marks.find(wanted, at + 1)) >= 0:
        if at % MARK == 0:
            return True
    return False
