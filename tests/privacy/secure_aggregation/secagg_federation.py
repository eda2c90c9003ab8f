"""A federation of n sites in one process: messages go through their bytes, sites may drop out at any stage and be restarted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from privacy.secure_aggregation import Attempt, Contribution, Identity, Member, Pinned, Ring, Roster, SecureSite, Session, Terms, endorse
from privacy.secure_aggregation.messages import Refusal, from_bytes, to_bytes
from privacy.secure_aggregation.store import Memory

STAGES = ("keys", "shares", "masked", "consent", "unmasking")


def names(count: int) -> list[str]:
    return [chr(ord("a") + i) if count <= 26 else f"s{i:04d}" for i in range(count)]


@dataclass
class Federation:
    """minimum: every site's minimum cohort; asks: threshold by site, where it is stricter than the protocol."""

    count: int
    size: int = 6
    bits: int = 32
    minimum: int = 3
    asks: Mapping[str, int] = field(default_factory=dict)
    restart: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.names = names(self.count)
        self.identities = {name: Identity.fresh() for name in self.names}
        self.authority = Identity.fresh()
        members = tuple(Member(name, self.identities[name].public) for name in self.names)
        self.roster = Roster("test", 1, members, (self.authority.public,), 1)
        self.stores = {name: Memory() for name in self.names}
        self.sites = {name: self.make(name) for name in self.names}
        self.rings = (Ring(self.bits, self.size),)
        chance = np.random.default_rng(self.seed)
        most = 2 ** (self.bits - 1) // (self.count + 1)
        self.vectors = {name: chance.integers(-most, most, self.size, dtype=np.int64) for name in self.names}
        self.replies: list[Any] = []

    def make(self, name: str) -> SecureSite:
        pinned = Pinned.join(endorse(self.roster, [self.authority]), self.roster.fingerprint, self.minimum)
        return SecureSite(name, self.identities[name], pinned, self.stores[name], self.asks.get(name, 0))

    def succeed(self, members: Sequence[Member], by: Sequence[str]) -> None:
        """A newer roster, which the sites `by` approve and adopt."""
        self.roster = replace(self.roster, version=self.roster.version + 1, members=tuple(members))
        for name in by:
            self.sites[name].pinned.approve(self.roster.fingerprint)
            self.sites[name].pinned.adopt(endorse(self.roster, [self.authority]))

    def session(self, round: int = 0, attempt: int = 1, run: str = "run") -> Session:
        return Session(run, round, attempt, self.roster.fingerprint)

    def terms(self, model: bytes = b"m" * 32) -> Terms:
        return Terms(model, "layout", 1.0, 65536.0, self.rings)

    def attempt(self, session: Session | None = None, dropouts: int = 0) -> Attempt:
        return Attempt(self.roster, session or self.session(), dropouts)

    def tell(self, name: str, message: Any, terms: Terms | None = None) -> Any:
        """The site's reply; everything passes through bytes, and a restarted site has only its store."""
        if self.restart:
            self.sites[name] = self.make(name)
        contribution = Contribution(terms or self.terms(), lambda: [self.vectors[name].copy()])
        reply = from_bytes(to_bytes(self.sites[name].answer(from_bytes(to_bytes(message)), contribution)))
        self.replies.append(reply)
        return reply

    def ask(self, attempt: Attempt, messages: Mapping[str, Any], terms: Terms | None = None) -> dict[str, Any]:
        """Replies by site, each taken by the coordinator."""
        replies = {name: self.tell(name, message, terms) for name, message in messages.items()}
        for reply in replies.values():
            attempt.take(reply)
        return replies

    def run(
        self,
        attempt: Attempt,
        gone: Mapping[str, str] | None = None,
        terms: Terms | None = None,
        history: Sequence[Any] = (),
        until: str = "unmasking",
        sites: Sequence[str] | None = None,
    ) -> Attempt:
        """Go through the stages up to and with `until`.  gone: site -> the first stage in which it does not answer."""
        terms, gone = terms or self.terms(), gone or {}
        makers = {
            "keys": lambda: {name: attempt.open() for name in sites or self.names},
            "shares": lambda: {k.site: attempt.list_keys() for k in attempt.list_keys().keys},
            "masked": lambda: attempt.begins(terms, history),
            "consent": lambda: {name: attempt.survivors() for name in attempt.survivors().alive},
            "unmasking": lambda: {name: attempt.proof() for name in attempt.survivors().alive},
        }
        for number, stage in enumerate(STAGES[: STAGES.index(until) + 1]):
            messages = makers[stage]()
            here = {n: m for n, m in messages.items() if n not in gone or STAGES.index(gone[n]) > number}
            self.ask(attempt, here, terms)
        return attempt

    def sum(self, over: Sequence[str]) -> np.ndarray:
        """The plain sum, in the ring, signed."""
        total = sum(int_vector(self.vectors[name]) for name in over)
        half = 1 << (self.bits - 1)
        return np.array([(int(v) + half) % (1 << self.bits) - half for v in total], object)


def int_vector(vector: np.ndarray) -> np.ndarray:
    return vector.astype(object)


def same(total: Sequence[np.ndarray], expected: np.ndarray) -> bool:
    return [int(v) for v in total[0]] == [int(v) for v in expected]


def check_of(reply: Any) -> str:
    """The check by whose name a reply refuses; "" where it does not."""
    return reply.check if isinstance(reply, Refusal) else ""


def resigned(message: Any, federation: Federation, name: str, **changes: Any) -> Any:
    """A message of `name` with other fields and a right signature: what a lying site would send."""
    from privacy.secure_aggregation.messages import sign

    return sign(replace(message, **changes), federation.identities[name])
