"""What a promise leaves an attacker: how often he can be right about one unit, at most.

An attacker says of one unit whether it took part.  x: how often he accuses one that did not; the share of those that did and
that he finds is at most, for every ε and its δ(ε),

    min(e^ε x + δ(ε),  1 − e^(−ε) (1 − x − δ(ε)))        Kairouz, Oh, Viswanath 2015, theorem 2.1

δ(ε) comes from the privacy loss distribution of the plan: the promise at one δ is a single point of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privacy.accountants import GRID, Phase, _losses, _rough

POINTS = 60  # values of ε


@dataclass(frozen=True)
class Tradeoff:
    """δ(ε) of one plan, as two arrays [points]."""

    epsilons: np.ndarray
    deltas: np.ndarray

    @classmethod
    def of(cls, phase: Phase, delta: float, relation: str) -> "Tradeoff":
        """Of `phase.steps` noisy sums; δ is where the plan's own ε lies, beyond which there is nothing to see."""
        rough = max(1.0, _rough([phase], delta, relation))
        grid = 5 * GRID * max(1.0, rough / 20)  # pessimistic: a coarser grid never promises more
        if phase.sampling_rate < 1:
            losses = _losses(phase.noise_multiplier, phase.sampling_rate, relation, grid).self_compose(phase.steps)
        else:  # Gaussian sums compose to one
            losses = _losses(phase.noise_multiplier / math.sqrt(phase.steps), 1.0, relation, grid)
        epsilons = np.linspace(0.0, rough, POINTS)
        return cls(epsilons, np.clip(np.asarray(losses.get_delta_for_epsilon(list(epsilons)), dtype=np.float64), 0.0, 1.0))

    def found(self, wrongly: float) -> float:
        """The largest share that is found where `wrongly` of the others are accused too."""
        grown = np.exp(np.minimum(self.epsilons, 700.0))
        bounds = np.minimum(grown * wrongly + self.deltas, 1 - (1 - wrongly - self.deltas) / grown)
        return float(np.clip(bounds.min(), wrongly, 1.0))

    def curve(self, at: Sequence[float]) -> list[float]:
        """`found` at several points."""
        return [self.found(x) for x in at]

    @property
    def right(self) -> float:
        """How often a guess about one unit is right, at most, where it is as likely in as out."""
        return float(1 + self.deltas[0]) / 2
