"""Limits of an account: Rényi filters, and how events of other kinds are counted.

A filter at order α lets charges through as long as their sum Σρ(α), turned into an ε at δ, is within the limit:

    Σρ(α) + log(1 − 1/α) − log(δ α) / (α − 1)  ≤  ε        Canonne, Kamath, Steinke 2020, proposition 12

It holds however each charge was chosen after the ones before it (Feldman, Zrnic: Individual Privacy Accounting via a Rényi
Filter, NeurIPS 2021, theorem 4.3), for an order that was fixed beforehand.  Which order will suit is not known beforehand: Gaussian
noise wants a large one, sampled sums a smaller one.  So a limit has several, each with its own part w δ of δ, Σ w = 1, and lets
a charge through while any of them does.  That is (ε, δ) too: of all that can come out, part by the first order that still
holds at the end; what comes out in a part has the same chance under that order's filter alone, which is (ε, w δ); and the parts
add up.  The price is log(1 / w) / (α − 1) on ε, and w is chosen so that every order pays the same.

An account protects one kind of unit under one relation.  The noise of an event is what is counted; what the account protects says
how far a unit of its own can move the sum under that noise:

    same unit                  by at most C where one is added, removed or blanked, by 2 C where one is replaced: the account's relation
    event of a larger unit     (account of examples, event per subject or site; account of subjects, event per site): whatever happens to
                               ours changes what one of theirs contributes: as one replaced, 2 C
    event of a smaller unit    (account of subjects, event per example): by k C for at most k examples a subject, without sampling:
                               as σ / k.  With sampling, or without a stated k, it is declined.
    site                       an account of sites counts events per site alone
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from fedvision.errors import BudgetExhausted, ConfigError
from fedvision.types import RELATIONS
from privacy.ledger.figures import ORDERS, Event, rho

UNITS = ("example", "subject", "site")  # from the smallest
AROUND = (0.4, 0.6, 1.0, 1.6)  # orders of a limit, over the one that suits Gaussian noise: sampled sums want smaller ones
ROUNDING = 1e-9  # of ε: a plan that fills a limit exactly goes through
STATED = 1e-6  # the same, relative, where the limit is read from a record, on a machine that may round otherwise


def over_rdp(order: float, delta: float) -> float:
    """What ε at δ is above the Rényi divergence of this order."""
    return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def shares(orders: Sequence[float]) -> tuple[float, ...]:
    """w of each order: e^(−c (α − 1)), with the c at which they sum to 1."""
    low, high = 0.0, 64.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(math.exp(-middle * (a - 1)) for a in orders) > 1 else (low, middle)
    return tuple(math.exp(-high * (a - 1)) for a in orders)


@dataclass(frozen=True)
class Limit:
    """At most `epsilon`, watched at `orders`, each with its share of δ."""

    epsilon: float
    orders: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, epsilon: float, delta: float) -> "Limit":
        """The orders around the one that lets the most Gaussian noise through; ConfigError where none lets anything through."""
        best = max((a for a in ORDERS if a >= 2), key=lambda a: (epsilon - over_rdp(a, delta)) / a)
        orders = tuple(sorted({min(ORDERS, key=lambda a: abs(a - max(2.0, part * best))) for part in AROUND}))
        found = cls(epsilon, orders, shares(orders))
        if not any(room > 0 for room in found._rooms(delta)):
            raise ConfigError(f"a limit of ε = {epsilon:g} at δ = {delta:g} lets nothing through; a higher one, or a larger δ")
        return found

    @classmethod
    def filled_by(cls, event: Event, times: int, delta: float) -> "Limit":
        """The smallest limit that `times` such events fit into, at the order that suits them."""
        each = cls._each(event)
        order = min(each, key=lambda a: times * each[a] + over_rdp(a, delta))
        return cls(max(0.0, times * each[order] + over_rdp(order, delta)), (order,), (1.0,))  # below 0 at a large δ: as private as can be

    @classmethod
    def fitting(cls, event: Event, epsilon: float, delta: float) -> "Limit":
        """`epsilon`, at the order that lets most such events through, be it none."""
        each = cls._each(event)
        return cls(epsilon, (max(each, key=lambda a: (epsilon - over_rdp(a, delta)) / each[a]),), (1.0,))

    @staticmethod
    def _each(event: Event) -> dict[float, float]:
        """ρ of one event by order; ConfigError where it has no bound."""
        found = {a: float(r) for a, r in zip(ORDERS, rho(event, ORDERS), strict=True) if math.isfinite(r)}
        if not found:
            raise ConfigError(
                f"noise multiplier {event.noise_multiplier:g}, rate {event.sampling_rate:g}: no Rényi bound at any order; add noise"
            )
        return found

    def epsilon_of(self, spent: np.ndarray, delta: float) -> float:
        """ε of Σρ = `spent` [orders]; 0 where nothing was spent."""
        if not spent.any():
            return 0.0
        return min(float(s) + over_rdp(a, w * delta) for s, a, w in zip(spent, self.orders, self.shares, strict=True))

    def holds(self, spent: np.ndarray, delta: float) -> bool:
        """Whether Σρ = `spent` is within it."""
        return self.epsilon_of(spent, delta) <= self.epsilon + ROUNDING

    def used(self, spent: np.ndarray, delta: float) -> float:
        """How much of it Σρ = `spent` has used: 0 to 1, and beyond."""
        return min((float(s) / room for s, room in zip(spent, self._rooms(delta), strict=True) if room > 0), default=math.inf)

    def _rooms(self, delta: float) -> list[float]:
        return [self.epsilon - over_rdp(a, w * delta) for a, w in zip(self.orders, self.shares, strict=True)]


@dataclass(frozen=True)
class Stated:
    """A limit as a run's own record states it, so that whoever reads that can hold the charges against it.

    noise_multiplier, relation: of the run's event as the account counts it.  delta: the account's.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    relation: str
    orders: tuple[float, ...]
    shares: tuple[float, ...]

    def as_body(self) -> dict[str, Any]:
        """Its part of a site's first entry."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, body: Any) -> "Stated":
        """What `as_body` wrote; ValueError where it is none."""
        names = [f.name for f in fields(cls)]
        if not isinstance(body, dict) or sorted(body) != sorted(names):
            raise ValueError(f"a limit has {', '.join(names)}")
        lists = [body["orders"], body["shares"]]
        if not all(isinstance(row, list) and row and all(type(x) is float for x in row) for row in lists) or len(lists[0]) != len(lists[1]):
            raise ValueError("a limit whose orders and shares are no numbers, one for one")
        found = cls(body["epsilon"], body["delta"], body["noise_multiplier"], body["relation"], *map(tuple, lists))
        numbers = [found.epsilon, found.delta, found.noise_multiplier]
        if any(type(n) is not float for n in numbers) or found.relation not in RELATIONS or not 0 < found.delta < 1:
            raise ValueError("a limit whose numbers are none")
        if min(found.orders) <= 1 or min(found.shares) <= 0 or sum(found.shares) > 1 + ROUNDING:
            raise ValueError("a limit whose shares of delta are more than it has")
        return found

    def charges(self, event: Event) -> int:
        """How many charges of a run's `event` it holds."""
        each = rho(replace(event, noise_multiplier=self.noise_multiplier, relation=self.relation), self.orders)
        rooms = [self.epsilon * (1 + STATED) - over_rdp(a, w * self.delta) for a, w in zip(self.orders, self.shares, strict=True)]
        return max(int(room // one) if room > 0 else 0 for room, one in zip(rooms, each.tolist(), strict=True))


@dataclass(frozen=True)
class Limits:
    """What an account was opened with, for good.

    examples: most examples of one subject, where the account is of subjects and that is known; None = not known.
    """

    delta: float
    unit: str
    relation: str
    lifetime: Limit
    per_run: Limit | None = None
    purposes: Mapping[str, Limit] = field(default_factory=dict)
    examples: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ConfigError(f"delta {self.delta:g}: a probability above 0 and below 1, well below one over the number of units")
        if self.unit not in UNITS:
            raise ConfigError(f"unit {self.unit!r}: allowed are {', '.join(UNITS)}")
        if self.relation not in RELATIONS:
            raise ConfigError(f"relation {self.relation!r}: allowed are {', '.join(RELATIONS)}")
        if self.examples is not None and (self.unit != "subject" or self.examples < 1):
            raise ConfigError(f"examples = {self.examples}: the most examples of one subject, at least 1, of an account of subjects")

    @property
    def orders(self) -> tuple[float, ...]:
        """Every order that is watched, ascending."""
        limits = [self.lifetime, *([self.per_run] if self.per_run else []), *self.purposes.values()]
        return tuple(sorted({order for limit in limits for order in limit.orders}))

    def as_body(self) -> dict[str, Any]:
        """Its part of the account's first entry."""
        return asdict(self)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Limits":
        """What `as_body` wrote."""

        def limit(value: Mapping[str, Any]) -> Limit:
            return Limit(value["epsilon"], tuple(value["orders"]), tuple(value["shares"]))

        per_run = None if body["per_run"] is None else limit(body["per_run"])
        purposes = {name: limit(value) for name, value in body["purposes"].items()}
        return cls(body["delta"], body["unit"], body["relation"], limit(body["lifetime"]), per_run, purposes, body["examples"])

    def counted(self, event: Event) -> Event:
        """`event` as it is counted here, by the rules above; BudgetExhausted where it cannot be."""
        ours, theirs = UNITS.index(self.unit), UNITS.index(event.unit)
        if ours == theirs:
            return replace(event, relation=self.relation)
        if ours < theirs:
            return replace(event, unit=self.unit, relation="replace_one")
        if self.unit == "subject" and self.examples is not None and event.sampling_rate == 1:
            return replace(event, unit="subject", relation=self.relation, noise_multiplier=event.noise_multiplier / self.examples)
        raise BudgetExhausted(
            f"privacy.unit = {event.unit}, and the site's account is of a {self.unit}: such an event cannot be counted; ask with "
            f"privacy.unit = {self.unit}"
        )
