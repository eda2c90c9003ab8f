"""Coordinate-wise median.  Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates, ICML 2018, definition 1 and algorithm 1, on updates:

    w ← w + η_g med(Δ_1, …, Δ_n)                                 each coordinate by itself; n even: the middle two's mean
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fedvision.types import State
from server.aggregate import Updates
from server.strategies import Steps, moved
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
        return Model(moved(state.w, _medians(sent, "weights", self.server_learning_rate), _medians(sent, "buffers", 1.0)))


def _medians(sent: Updates, field: str, rate: float) -> Steps:
    for name, slot in sent.layout.slots.get(field, {}).items():
        middle = np.empty(slot.stop - slot.start)
        for piece, numbers in sent.blocks(field, name):
            middle[piece] = np.median(numbers, axis=0)
        yield name, rate * torch.from_numpy(middle.reshape(slot.shape))
