"""Coordinate-wise median.  Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates, ICML 2018, definition 1 and algorithm 1, on updates:

    w ← w + η_g med(Δ_1, …, Δ_n)                                 each coordinate by itself; n even: the middle two's mean
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedvision.types import State
from server.aggregate import Updates
from server.strategies import combined, moved
from server.strategies.fedavg import Model


@dataclass(frozen=True)
class Median:
    """η_g = server_learning_rate.  It must see each site's update: refused with secure aggregation."""

    server_learning_rate: float = 1.0
    kind: Literal["single"] = "single"

    def init(self, model: State) -> Model:
        """w₀."""
        return Model(dict(model))

    def weights(self, state: Model) -> State:
        """w."""
        return state.w

    def extras(self, state: Model) -> Mapping[str, State]:
        """None."""
        return {}

    def apply(self, state: Model, sent: Updates, sites: int) -> Model:
        """One step, block by block."""

        def med(numbers: np.ndarray) -> np.ndarray:
            middle: np.ndarray = np.median(numbers, axis=0)
            return middle

        weights = combined(sent, "weights", med, self.server_learning_rate)
        return Model(moved(state.w, weights, combined(sent, "buffers", med)))
