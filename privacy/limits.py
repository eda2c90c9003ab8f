"""Limits of an account: Rényi filters at one order each, and how events of other kinds are counted.

A filter at order α lets charges through as long as their sum Σρ(α), turned into an ε at δ, is within the limit:

    Σρ(α) + log(1 − 1/α) − log(δ α) / (α − 1)  ≤  ε        Canonne, Kamath, Steinke 2020, proposition 12

It holds however each charge was chosen after the ones before it (Feldman, Zrnic: Individual Privacy Accounting via a Rényi
Filter, NeurIPS 2021, theorem 4.3).  That is proved for an order that was fixed beforehand, so each limit has one, fixed when it
is made: by default the one that lets the most Gaussian noise through.

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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fedvision.errors import BudgetExhausted, ConfigError
from fedvision.types import RELATIONS
from privacy.ledger.figures import ORDERS, Event, rho

UNITS = ("example", "subject", "site")  # from the smallest
ROUNDING = 1e-9  # relative: a plan that fills a limit exactly goes through


def over_rdp(order: float, delta: float) -> float:
    """What ε at δ is above the Rényi divergence of this order."""
    return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


@dataclass(frozen=True)
class Limit:
    """At most `epsilon`, watched at `order`."""

    epsilon: float
    order: float

    @classmethod
    def of(cls, epsilon: float, delta: float) -> "Limit":
        """The order that lets the most Gaussian noise through; ConfigError where none lets anything through."""
        order = max((a for a in ORDERS if a >= 2), key=lambda a: (epsilon - over_rdp(a, delta)) / a)
        if epsilon <= over_rdp(order, delta):
            least = min(over_rdp(a, delta) for a in ORDERS)
            raise ConfigError(f"a limit of ε = {epsilon:g} at δ = {delta:g} lets nothing through: above {least:.3g}, or a larger δ")
        return cls(epsilon, order)

    @classmethod
    def filled_by(cls, event: Event, times: int, delta: float) -> "Limit":
        """The smallest limit that `times` such events fit into."""
        orders = [a for a in ORDERS if a >= 2 and math.isfinite(rho(event, [a])[0])]
        if not orders:
            raise ConfigError(
                f"noise multiplier {event.noise_multiplier:g}, rate {event.sampling_rate:g}: no Rényi bound at any order; add noise"
            )
        order = min(orders, key=lambda a: times * float(rho(event, [a])[0]) + over_rdp(a, delta))
        return cls(times * float(rho(event, [order])[0]) + over_rdp(order, delta), order)

    def holds(self, spent: float, delta: float) -> bool:
        """Whether Σρ = `spent` is within it."""
        return spent + over_rdp(self.order, delta) <= self.epsilon * (1 + ROUNDING)

    def share(self, spent: float, delta: float) -> float:
        """How much of it Σρ = `spent` has used: 0 to 1."""
        return spent / max(self.epsilon - over_rdp(self.order, delta), 1e-300)


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
        return tuple(sorted({limit.order for limit in limits}))

    def as_body(self) -> dict[str, Any]:
        """Its part of the account's first entry."""
        return asdict(self)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Limits":
        """What `as_body` wrote."""
        limit = {name: None if body[name] is None else Limit(**body[name]) for name in ("lifetime", "per_run")}
        assert limit["lifetime"] is not None
        purposes = {name: Limit(**value) for name, value in body["purposes"].items()}
        return cls(body["delta"], body["unit"], body["relation"], limit["lifetime"], limit["per_run"], purposes, body["examples"])

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
