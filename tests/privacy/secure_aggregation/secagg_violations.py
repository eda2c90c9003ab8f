"""What makes a violation: a scenario in which a site is lied to, and the name of the check by which it must refuse."""

from collections.abc import Callable
from typing import NamedTuple

from secagg_federation import Federation, check_of

from fedvision.errors import AggregationRefused

Scenario = Callable[[], object]


class Violation(NamedTuple):
    """sentence: the scenario's name.  scenario: returns what the attacked site answered."""

    sentence: str
    check: str
    scenario: Scenario


class Violations(list[Violation]):
    """Those of one kind of lie; called with a check's name, it registers the scenario that follows."""

    def __call__(self, check: str) -> Callable[[Scenario], Scenario]:
        def register(scenario: Scenario) -> Scenario:
            self.append(Violation(scenario.__name__, check, scenario))
            return scenario

        return register


def refused_by(scenario: Scenario) -> str:
    """The check by whose name the scenario ends; "" where the lie goes through."""
    try:
        return check_of(scenario())
    except AggregationRefused as refused:
        return refused.check


def split(f: Federation, dropped: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The federation's sites, alive and dropped."""
    return tuple(n for n in f.names if n not in dropped), tuple(dropped)
