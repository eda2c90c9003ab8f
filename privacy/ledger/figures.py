"""From events to figures: the Rényi divergences that add up entry by entry, and the ε of a sum.  Pure functions.

    ρ(α)   of `steps` noisy sums by dp-accounting (Mironov, Talwar, Zhang 2019 for sampled sums); they add over events
    ε      min over α of  Σρ(α) + log(1 − 1/α) − log(δ α) / (α − 1)      Canonne, Kamath, Steinke 2020, proposition 12

One unit replaced under sampling: it is one removed and one added, so ρ_replace(α) ≤ 3 ρ(2α) for α ≥ 2 (Mironov 2017,
proposition 2).  Without sampling it moves the sum by 2C, which is one added under half of the noise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from fedvision.types import RELATIONS
from privacy.accountants import Phase, _quiet, epsilon

ORDERS = (
    1.125, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0, 128.0,
    256.0, 512.0,
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """What one charge pays for: `steps` sums of units that were clipped to `clip`, each with Gaussian noise of standard deviation
    `noise_multiplier` · `clip`, over units that `sampler` chose ("poisson": each with chance `sampling_rate`; "all": every one).

    divisor: the public constant that a sum is divided by; None where it is not divided at the site.
    """

    mechanism: str
    noise_multiplier: float
    clip: float
    sampling_rate: float
    steps: int
    divisor: float | None
    sampler: str
    unit: str
    relation: str
    delta: float

    def __post_init__(self) -> None:
        self.phase(1)
        if self.relation not in RELATIONS or not 0 < self.delta < 1 or self.sampler != ("poisson" if self.sampling_rate < 1 else "all"):
            raise ValueError(f"no event: relation {self.relation}, delta {self.delta}, sampler {self.sampler}, rate {self.sampling_rate}")

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Event":
        """The event in an entry; ValueError, TypeError or ConfigError where there is none."""
        values: dict[str, Any] = {f.name: body[f.name] for f in fields(cls) if f.name in body}
        if len(values) < len(fields(cls)):
            raise ValueError("an event that lacks a part")
        numbers = [values[name] for name in ("noise_multiplier", "clip", "sampling_rate", "delta")]
        if any(type(n) is not float for n in numbers) or type(values["steps"]) is not int:
            raise ValueError("an event whose numbers are none")
        return cls(**values)

    def as_body(self) -> dict[str, Any]:
        """Its part of an entry."""
        return asdict(self)

    def phase(self, times: int) -> Phase:
        """The noisy sums of `times` such charges."""
        return Phase(self.noise_multiplier, self.sampling_rate, self.steps * times)


def rho(event: Event, orders: Sequence[float]) -> np.ndarray:
    """ρ of one charge, float64 [orders]; infinite where an order has no bound."""
    return _rho(event.noise_multiplier, event.sampling_rate, event.steps, event.relation, tuple(orders))


@lru_cache(maxsize=1024)
def _rho(sigma: float, rate: float, steps: int, relation: str, orders: tuple[float, ...]) -> np.ndarray:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    twice = relation == "replace_one" and rate < 1
    if relation == "replace_one" and rate == 1:
        sigma = sigma / 2
    noisy: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(sigma)
    if rate < 1:
        noisy = dp_accounting.PoissonSampledDpEvent(rate, noisy)
    with _quiet():
        account = RdpAccountant([2 * order if twice else order for order in orders])
        account.compose(noisy, steps)
    found = np.asarray(account.rdp, dtype=np.float64)
    if twice:
        found = np.where(np.asarray(orders) >= 2, 3 * found, np.inf)
    found = np.where(np.isfinite(found) & (found >= 0), found, np.inf)
    found.flags.writeable = False
    return found


def orders_for(event: Event) -> tuple[float, ...]:
    """Those of `ORDERS` that this event has a bound for; a plan fixes them."""
    bounds = rho(event, ORDERS)
    return tuple(order for order, bound in zip(ORDERS, bounds, strict=True) if math.isfinite(bound))


def rdp_epsilon(orders: Sequence[float], summed: np.ndarray, delta: float) -> float:
    """ε of the sum of ρ over events; 0 where nothing was spent."""
    if not summed.any():
        return 0.0
    a = np.asarray(orders)
    return max(0.0, float((summed + np.log1p(-1 / a) - np.log(delta * a) / (a - 1)).min()))


@lru_cache(maxsize=4096)
def prv_epsilon(phase: Phase, delta: float) -> float:
    """ε by privacy random variables, one added or removed."""
    with np.errstate(divide="ignore"):  # log 0 at the edge of its grid, where every unit takes part
        return epsilon([phase], delta, "prv")
