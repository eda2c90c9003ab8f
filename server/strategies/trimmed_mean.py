"""Coordinate-wise trimmed mean.  Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates, ICML 2018, definition 2 and algorithm 1, on updates:

    w ← w + η_g trmean_β(Δ_1, …, Δ_n)          of each coordinate, the ⌊βn⌋ smallest and ⌊βn⌋ largest are left out
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
class TrimmedMean:
    """β = trim, η_g = server_learning_rate.  It must see each site's update: refused with secure aggregation."""

    trim: float = 0.1
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

        def trmean(numbers: np.ndarray) -> np.ndarray:
            out = int(self.trim * len(numbers) + 1e-9)  # so that 0.1 of 10 is 1, whatever the product rounds to
            kept: np.ndarray = np.sort(numbers, axis=0)[out : len(numbers) - out].mean(axis=0)
            return kept

        weights = combined(sent, "weights", trmean, self.server_learning_rate)
        return Model(moved(state.w, weights, combined(sent, "buffers", trmean)))
