"""Accounts, their limits, and what is charged to them, for tests."""

from pathlib import Path
from typing import Any

from fedvision.errors import AccountExhausted
from privacy.budget import Budget
from privacy.ledger.figures import Event
from privacy.limits import Limit, Limits

DELTA = 1e-5


def an_event(sigma: float = 4.0, rate: float = 1.0, **changes: Any) -> Event:
    sampler = "poisson" if rate < 1 else "all"
    values: dict[str, Any] = {"divisor": 10.0, "sampler": sampler, "unit": "subject", "relation": "add_remove", "delta": DELTA}
    return Event("dp_sgd", sigma, 1.0, rate, 1, **(values | changes))


def limits_of(lifetime: float, per_run: float | None = None, **more: Any) -> Limits:
    run = None if per_run is None else Limit.of(per_run, DELTA)
    purposes = {name: Limit.of(e, DELTA) for name, e in more.pop("purposes", {}).items()}
    return Limits(DELTA, more.pop("unit", "subject"), more.pop("relation", "add_remove"), Limit.of(lifetime, DELTA), run, purposes, **more)


def opened(folder: Path, limits: Limits) -> Budget:
    return Budget(folder / "account", folder / "apart" / "account.head").open("patients", limits)


def spend(budget: Budget, run: str, event: Event, most: int = 1000, first: int = 0) -> int:
    """Rounds that are let through before one is not."""
    for number in range(first, first + most):
        try:
            budget.charge(run, event, number, 1)
        except AccountExhausted:
            return number - first
    return most
