"""The plan in a chain's first entry, and whether figures follow from its events: by the accountant that made them, and by another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedvision.errors import ConfigError
from privacy.accountants import epsilon
from privacy.ledger.figures import Event, prv_epsilon, rdp_epsilon, rho
from privacy.ledger.reading import Place, near
from privacy.ledger.terms import VERSION

SAME = 1e-3  # relative: what is recorded against what is recomputed
SLACK = 1e-3  # of ε: between two accountants' numerical errors
PRV_OVER, PRV_UP_TO = 0.02, 20.0  # what prv may be above pld; ε above which it takes minutes and rdp alone is asked
EVENT = ("mechanism", "noise_multiplier", "clip", "sampling_rate", "steps", "divisor", "sampler", "unit", "relation", "delta")
AGREED = (*EVENT, "rounds", "sites_per_unit", "once_a_round", "repeatable", "whole_plan", "orders", "config", "version")


@dataclass(frozen=True)
class Registered:
    """The terms in a chain's first entry, recomputed.  crossed: count of charges -> why prv was not asked about its PLD figure, ""
    where it was; of every figure that was checked so far.  asks_prv: whether it is to be asked, which takes seconds to import."""

    body: Mapping[str, Any]
    event: Event
    rounds: int
    orders: tuple[float, ...]
    rho: np.ndarray
    asks_prv: bool = True
    crossed: dict[int, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, place: Place, asks_prv: bool = True) -> "Registered":
        """Those of a first entry; Fault where its figures do not follow from its event."""
        place.want("kind", "plan", "a chain begins with")
        place.want("version", VERSION, "this verifier knows version")
        if missing := [name for name in AGREED if name not in place.entry.body]:
            raise place.fault(f"its {missing[0]} is missing")
        try:
            event = Event.of(place.entry.body)
            rounds, orders = place.get("rounds", int), tuple(place.get("orders", list))
            if (
                rounds < 1
                or not orders
                or any(type(order) is not float for order in orders)
                or min(orders) <= 1
                or list(orders) != sorted(set(orders))
            ):
                raise ValueError("orders")
            event.phase(rounds)
            each = rho(event, orders)
        except (ValueError, TypeError, ConfigError) as error:
            raise place.fault(f"its plan cannot be counted: {error}") from None
        if not np.isfinite(each).all():
            raise place.fault("its plan has orders at which nothing is bounded")
        for flag in ("once_a_round", "repeatable", "whole_plan"):
            place.get(flag, bool)
        found = cls({name: place.entry.body.get(name) for name in AGREED}, event, rounds, orders, each, asks_prv)
        found.check_epsilon(place, rounds)
        marks = place.get("pld", list)
        if not all(isinstance(m, list) and list(map(type, m)) == [int, float] and 1 <= m[0] <= rounds for m in marks) or not marks:
            raise place.fault("its pld is no list of counts and figures")
        if [m[0] for m in marks] != sorted({m[0] for m in marks}) or marks[-1][0] != rounds:
            raise place.fault("its PLD figures are not in order up to the whole plan")
        for mark, figure in marks:
            found.check_pld(place, mark, figure)
        return found

    def check_epsilon(self, place: Place, rounds: int) -> None:
        """The recorded RDP figure, against that of `rounds` charges."""
        wanted = rdp_epsilon(self.orders, self.rho * rounds, self.event.delta)
        if not near([place.get("epsilon", float)], [wanted], SAME):
            raise place.fault(f"its epsilon is {place.entry.body['epsilon']:.6g}, and {rounds} charges come to {wanted:.6g} (rdp)")

    def check_pld(self, place: Place, rounds: int, figure: float) -> None:
        """A recorded PLD figure against its own accountant, and that against the others."""
        try:
            wanted = self.pld(rounds)
        except ConfigError as error:
            raise place.fault(f"the PLD figure of {rounds} charges cannot be counted: {error}") from None
        if not near([figure], [wanted], SAME):
            raise place.fault(f"its PLD figure is {figure:.6g}, and {rounds} charges come to {wanted:.6g}")
        prv = self.prv(rounds)
        if (said := self.inconsistent(rounds, prv)) is not None:
            raise place.fault(said)
        self.crossed[rounds] = prv if isinstance(prv, str) else ""

    def pld(self, rounds: int) -> float:
        """ε of `rounds` charges by PLD."""
        return epsilon([self.event.phase(rounds)], self.event.delta, "pld", self.event.relation) if rounds else 0.0

    def rdp(self, rounds: int) -> float:
        """ε of `rounds` charges by RDP."""
        return rdp_epsilon(self.orders, self.rho * rounds, self.event.delta)

    def prv(self, rounds: int) -> float | str:
        """ε of `rounds` charges by PRV, or why there is none."""
        if rounds == 0:
            return 0.0
        if not self.asks_prv:
            return "it was not asked for"
        if self.event.relation != "add_remove":
            return f"prv does not know relation {self.event.relation}"
        if self.rdp(rounds) > PRV_UP_TO:
            return f"prv takes minutes at ε above {PRV_UP_TO:g}"
        try:
            return prv_epsilon(self.event.phase(rounds), self.event.delta)
        except (ConfigError, RuntimeError, ValueError):  # where ε is tiny
            return "prv has no figure for so small an ε"

    def inconsistent(self, rounds: int, prv: float | str) -> str | None:
        """Why two accountants cannot both be right about `rounds` charges; None where they can.  Rdp is always asked."""
        pld, rdp = self.pld(rounds), self.rdp(rounds)
        if pld > rdp * (1 + SLACK) + SLACK:
            return f"{rounds} charges come to {pld:.6g} by pld, and to less, {rdp:.6g}, by rdp: one accountant is wrong"
        if not isinstance(prv, str) and not pld - SLACK <= prv <= pld + PRV_OVER + SLACK:
            return f"{rounds} charges come to {pld:.6g} by pld and {prv:.6g} by prv: one accountant is wrong"
        return None
