"""A plan: what a run promises before it begins, as one value: the unit, the noise, and the events that they spend.

Everything in it is public and fixed in advance, so that the guarantee of the plan holds whatever the rounds bring, as long
as no site is asked for more than its events.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.protections import Central, DpSgd, Local
from fedvision.types import Guarantee
from privacy.accountants import GRID, Phase, epsilon

STEP = 1e-4  # of a calibrated noise multiplier: it is rounded up to a multiple of this
COARSE = 10 * GRID  # of the search; the figure that is promised is on the fine grid


@dataclass(frozen=True)
class Plan:
    """What a unit is promised over the whole run.

    a_round: what one round of one site spends.  rounds: how many.  over_sites: the guarantee of a unit that is held at
    `sites_per_unit` sites, which composes; the other one is of a unit held at one site.
    """

    mechanism: str
    a_round: Phase
    rounds: int
    guarantee: Guarantee
    over_sites: Guarantee
    sites_per_unit: int

    @property
    def noise_multiplier(self) -> float:
        """σ, standard deviation of the noise over the clip norm."""
        return self.a_round.noise_multiplier

    def spent(self, rounds: int) -> Guarantee:
        """What `rounds` rounds of one site amount to, by the plan's accountant: for information while a run is under way."""
        g = self.guarantee
        return Guarantee(_epsilon(self.a_round, rounds, g.delta, g.accountant, g.relation), g.delta, g.unit, g.relation, g.accountant)


def plan_of(experiment: Experiment, calibrated: float | None = None) -> Plan:
    """The plan of an experiment with a `privacy` block.  ConfigError where its target cannot be met.  Seconds, once a process, where
    the noise has to be calibrated and what that came to is not known."""
    p = experiment.privacy
    if p is None:
        raise ConfigError("privacy = null: this config promises nothing; add a privacy block, e.g. that of configs/quickstart_dp.yaml")
    rounds = experiment.federation.rounds
    sampled = isinstance(p, DpSgd)
    rate, steps = (p.sampling_rate, experiment.training.steps or 1) if isinstance(p, DpSgd) else (site_rate(p, experiment), 1)
    sigma = p.noise_multiplier or calibrated or calibrate(rate, steps * rounds, p.epsilon or 0.0, p.delta, p.accountant, p.relation)
    a_round = Phase(sigma, rate, steps)
    unit = p.unit if isinstance(p, DpSgd) else "site"
    at = p.sites_per_unit if isinstance(p, DpSgd) else 1
    one = Guarantee(_epsilon(a_round, rounds, p.delta, p.accountant, p.relation), p.delta, unit, p.relation, p.accountant)
    several = _epsilon(a_round, rounds * at, p.delta, p.accountant, p.relation)
    assert sampled or at == 1
    return Plan(p.mechanism, a_round, rounds, one, Guarantee(several, p.delta, unit, p.relation, p.accountant), at)


def site_rate(p: Central | Local, experiment: Experiment) -> float:
    """q of the event that a site pays: below 1 only where the draw is secret and every site pays for every round of the plan."""
    rate = experiment.federation.rate
    return rate if isinstance(p, Central) and p.amplified and rate is not None else 1.0


@lru_cache(maxsize=4096)
def _epsilon(a_round: Phase, rounds: int, delta: float, accountant: str, relation: str) -> float:
    if rounds == 0:
        return 0.0
    return epsilon([Phase(a_round.noise_multiplier, a_round.sampling_rate, a_round.steps * rounds)], delta, accountant, relation)


@lru_cache(maxsize=256)
def calibrate(rate: float, steps: int, target: float, delta: float, accountant: str = "pld", relation: str = "add_remove") -> float:
    """The smallest noise multiplier, to a multiple of `STEP`, with which `steps` steps at `rate` stay within ε = `target`.

    Bracketed by RDP where that is an upper bound in milliseconds, then closed in on by the accountant itself, on the
    logarithm of ε, which is nearly a straight line in the logarithm of σ.
    """
    if not target > 0:
        raise ConfigError(f"privacy.epsilon = {target:g}: a target above 0")

    def found(sigma: float, grid: float = COARSE) -> float:
        return epsilon([Phase(sigma, rate, steps)], delta, accountant, relation, grid)

    high = _bracket(rate, steps, target, delta) * (2 if relation == "replace_one" else 1)
    while (at_high := found(high)) > target:
        high *= 1.5
        if high > 1e7:
            raise ConfigError(
                f"ε = {target:g} at δ = {delta:g} cannot be met in {steps} steps at rate {rate:g}: no noise is enough; raise epsilon"
            )
    low, at_low = 0.8 * high, found(0.8 * high)
    while at_low <= target and low > 0.02:
        high, at_high, low = low, at_low, low / 2
        at_low = found(low)
    for turn in range(40):
        if high - low <= STEP or at_high > target * (1 - 5e-4) or at_low <= target:
            break
        middle = _between(low, at_low, high, at_high, target) if turn % 4 < 3 else math.sqrt(low * high)
        at = found(middle)
        if at <= target:
            high, at_high = middle, at
        else:
            low, at_low = middle, at
    sigma = math.ceil(high / STEP) * STEP
    while found(sigma, GRID) > target:
        sigma += STEP
    return round(sigma, 4)


def _bracket(rate: float, steps: int, target: float, delta: float) -> float:
    """A noise multiplier that is enough by RDP with one added or removed, within 2 %."""
    low, high = 0.05, 1.0
    while epsilon([Phase(high, rate, steps)], delta, "rdp") > target and high < 1e6:
        high *= 2
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if epsilon([Phase(middle, rate, steps)], delta, "rdp") <= target else (middle, high)
    return high


def _between(low: float, at_low: float, high: float, at_high: float, target: float) -> float:
    """Where the straight line through the two ends, on logarithms, meets a hair below the target."""
    x0, x1, y0, y1 = math.log(low), math.log(high), math.log(at_low), math.log(max(at_high, 1e-12))
    share = (y0 - math.log(target * (1 - 2e-4))) / max(y0 - y1, 1e-12)
    return math.exp(x0 + min(max(share, 0.02), 0.98) * (x1 - x0))


def noise_to_signal(plan: Plan, parameters: int, divisor: float) -> float:
    """Expected L2 norm of the noise in one averaged release, over the largest norm that its signal can have (the clip norm):
    σ √d / divisor for `parameters` = d."""
    return plan.noise_multiplier * math.sqrt(parameters) / divisor
