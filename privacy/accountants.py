"""What a plan's events cost: ε from phases of noisy sums, by three accountants.  Pure functions, so that old runs can be
counted again.

pld: privacy loss distributions, pessimistic on a grid (Koskela, Jälkö, Honkela 2020; Google's dp-accounting).  The default.
rdp: Rényi differential privacy (Mironov 2017); 7 to 20 % above pld.
prv: Gopi, Lee, Wutschitz 2021, Opacus' implementation; adds its numerical error of 0.01; one relation only.

Gaussian differential privacy's central limit is left out on purpose: it lies below the truth where the noise is small.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedvision.errors import ConfigError
from fedvision.types import RELATIONS, Guarantee

GRID = 1e-4  # of a privacy loss: the accuracy of pld
FINE_UP_TO = 60.0  # ε above which the grid grows with ε, so that a plan without much privacy costs seconds, not hours
MOST_STEPS = 10**9
STAGE = 10**5  # steps, where there are a hundred times as many
LEAST_NOISE, MOST_NOISE = 0.01, 1e9


@dataclass(frozen=True)
class Phase:
    """`steps` releases of a sum whose one unit is clipped to C, with Gaussian noise of standard deviation
    `noise_multiplier` · C, over units that each take part with probability `sampling_rate` (Poisson; 1 = all)."""

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not LEAST_NOISE <= self.noise_multiplier <= MOST_NOISE:
            raise ConfigError(
                f"noise multiplier {self.noise_multiplier:g}: σ, the noise over the clip norm, must be finite and at least {LEAST_NOISE:g}, "
                f"below which nothing is promised that is worth a number, and at most {MOST_NOISE:g}"
            )
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(f"sampling rate {self.sampling_rate:g}: a probability above 0 and at most 1 (1 = every unit in every step)")
        if not 1 <= self.steps <= MOST_STEPS:
            raise ConfigError(f"steps {self.steps}: a whole number from 1 to {MOST_STEPS:,}")


def guarantee(phases: Sequence[Phase], delta: float, unit: str, relation: str = "add_remove", accountant: str = "pld") -> Guarantee:
    """What `phases`, composed, promise at `delta`."""
    return Guarantee(epsilon(phases, delta, accountant, relation), delta, unit, relation, accountant)


def epsilon(phases: Sequence[Phase], delta: float, accountant: str = "pld", relation: str = "add_remove", grid: float = GRID) -> float:
    """ε of the composition of `phases` at `delta`; 0 where there are none.  grid: of pld's losses; a coarser one is
    faster, and never below.  ConfigError where a number is out of range, or the accountant does not know the relation."""
    if not (0 < delta < 1):
        raise ConfigError(f"delta {delta:g}: a probability above 0 and below 1, well below one over the number of units")
    if accountant not in ACCOUNTANTS:
        raise ConfigError(f"accountant {accountant!r}: allowed are {', '.join(ACCOUNTANTS)}")
    if relation not in RELATIONS:
        raise ConfigError(f"relation {relation!r}: allowed are {', '.join(RELATIONS)}")
    if not phases:
        return 0.0
    if accountant == "pld":
        return _pld(tuple(merged(phases)), delta, relation, grid)
    return ACCOUNTANTS[accountant](merged(phases), delta, relation)


def merged(phases: Sequence[Phase]) -> list[Phase]:
    """The phases with those of the same noise and rate counted together: composition knows no order."""
    steps: dict[tuple[float, float], int] = {}
    for phase in phases:
        key = (phase.noise_multiplier, phase.sampling_rate)
        steps[key] = steps.get(key, 0) + phase.steps
    return [Phase(sigma, rate, count) for (sigma, rate), count in steps.items()]


def pld(phases: Sequence[Phase], delta: float, relation: str) -> float:
    """ε by privacy loss distributions: an upper bound, all three relations."""
    return _pld(tuple(phases), delta, relation, GRID)


@lru_cache(maxsize=4096)  # most of a second each, and plan, odometer and ledger ask for the same ones
def _pld(phases: tuple[Phase, ...], delta: float, relation: str, grid: float) -> float:
    from dp_accounting.pld import PLDAccountant

    rough = _rough(phases, delta, relation)
    steps = sum(phase.steps for phase in phases)
    # a step adds up to the square of the grid over 8
    fine = max(grid, min(grid * rough / FINE_UP_TO, math.sqrt(0.01 * rough / steps)))
    if len(phases) == 1 and phases[0].sampling_rate < 1:
        phase = phases[0]
        composed = _repeated(_losses(phase.noise_multiplier, phase.sampling_rate, relation, fine), phase.steps)
        return _finite(float(composed.get_epsilon_for_delta(delta)), phases)
    account = PLDAccountant(_relation(relation), fine)
    account.compose(_event(phases))
    return _finite(float(account.get_epsilon(delta)), phases)


@lru_cache(maxsize=4)  # half of a composition's time, and the same for every number of steps
def _losses(sigma: float, rate: float, relation: str, grid: float):  # type: ignore[no-untyped-def]
    """The losses of one sampled noisy sum, as `PLDAccountant` forms them."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=sigma, value_discretization_interval=grid, sampling_prob=rate, neighboring_relation=_relation(relation)
    )


def _repeated(losses, steps: int):  # type: ignore[no-untyped-def]
    """`losses` composed with themselves.  Very many are taken in two stages: the library first writes out points ** steps."""
    whole, rest = divmod(steps, STAGE)
    if whole < 100:
        return losses.self_compose(steps)
    composed = losses.self_compose(STAGE).self_compose(whole)
    return composed.compose(losses.self_compose(rest)) if rest else composed


def _rough(phases: Sequence[Phase], delta: float, relation: str) -> float:
    """A bound above ε, in milliseconds: RDP of the halved noise where one unit is replaced (it moves the sum by 2C)."""
    if relation == "replace_one":
        phases = [Phase(max(p.noise_multiplier / 2, LEAST_NOISE), p.sampling_rate, p.steps) for p in phases]
    return rdp(phases, delta, "add_remove")


def rdp(phases: Sequence[Phase], delta: float, relation: str) -> float:
    """ε by Rényi differential privacy.  Replacing one unit moves a full sum by 2C, which is adding one under half of the
    noise; for sampled sums with one replaced no such bound is implemented, and it is refused."""
    from dp_accounting.rdp import compute_epsilon

    if relation == "replace_one":
        if any(phase.sampling_rate < 1 for phase in phases):
            raise ConfigError("accountant rdp does not know relation replace_one for a sampling rate below 1; use accountant pld")
        phases = [Phase(phase.noise_multiplier / 2, 1.0, phase.steps) for phase in phases]
    with _quiet():
        each = [_divergences(phase.noise_multiplier, phase.sampling_rate) for phase in phases]
        summed = sum(phase.steps * of_one for phase, (_, of_one) in zip(phases, each, strict=True))
        return _finite(max(0.0, float(compute_epsilon(each[0][0], summed, delta)[0])), phases)


@lru_cache(maxsize=512)  # nearly all of the time, and the same for every number of steps
def _divergences(sigma: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """dp-accounting's own orders, and the Rényi divergence of one noisy sum at each; one unit added or removed."""
    from dp_accounting.rdp import RdpAccountant

    account = RdpAccountant(neighboring_relation=_relation("add_remove"))
    account.compose(_event([Phase(sigma, rate, 1)]))
    return account.orders, account.rdp


def prv(phases: Sequence[Phase], delta: float, relation: str) -> float:
    """ε by privacy random variables, through Opacus; its numerical error of 0.01 is added."""
    if relation != "add_remove":
        raise ConfigError(f"accountant prv does not know relation {relation}, only add_remove; use accountant pld")
    from privacy.dpsgd import prv_epsilon

    return _finite(prv_epsilon([(p.noise_multiplier, p.sampling_rate, p.steps) for p in phases], delta), phases)


ACCOUNTANTS: dict[str, Callable[[Sequence[Phase], float, str], float]] = {"pld": pld, "rdp": rdp, "prv": prv}


def _event(phases: Sequence[Phase]):  # type: ignore[no-untyped-def]  # dp-accounting's own type, imported when needed
    import dp_accounting

    events = []
    for phase in phases:
        noisy: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(phase.noise_multiplier)
        if phase.sampling_rate < 1:
            noisy = dp_accounting.PoissonSampledDpEvent(phase.sampling_rate, noisy)
        events.append(dp_accounting.SelfComposedDpEvent(noisy, phase.steps))
    return dp_accounting.ComposedDpEvent(events)


def _relation(name: str):  # type: ignore[no-untyped-def]
    from dp_accounting import NeighboringRelation

    return {
        "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace_one": NeighboringRelation.REPLACE_ONE,
        "zero_out": NeighboringRelation.REPLACE_SPECIAL,
    }[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Orders that do not converge are left out of a minimum, which needs no warning."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _finite(value: float, phases: Sequence[Phase]) -> float:
    if not math.isfinite(value):
        raise ConfigError(f"no finite ε for {list(phases)}: more noise, fewer steps, or a larger delta")
    return value
