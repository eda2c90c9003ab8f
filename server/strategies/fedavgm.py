"""FedAvgM.  Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification, 2019, section 4.3:

    v ← β v + Δ̄          w ← w + η_g v                           Δ̄ = Σ n_i Δ_i / Σ n_i
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies import Steps, means, moved, shifts


@dataclass(frozen=True)
class Moving:
    """w: the model.  v: the velocity of its trained weights, float32."""

    w: State
    v: State


@dataclass(frozen=True)
class FedAvgM:
    """β = momentum, η_g = server_learning_rate."""

    server_learning_rate: float = 1.0
    momentum: float = 0.9
    kind: Literal["sum"] = "sum"

    def init(self, model: State) -> Moving:
        """w₀, v = 0 (an absent v is zero)."""
        return Moving(dict(model), {})

    def weights(self, state: Moving) -> State:
        """w."""
        return state.w

    def extras(self, state: Moving) -> Mapping[str, State]:
        """None."""
        return {}

    def apply(self, state: Moving, sent: Aggregate, sites: int) -> Moving:
        """One step."""
        v: dict[str, Tensor] = {}

        def steps() -> Steps:
            for name, delta in means(sent, "weights"):
                last = state.v.get(name)
                v[name] = (delta if last is None else self.momentum * last.double() + delta).to(torch.float32)
                yield name, self.server_learning_rate * v[name].double()

        return Moving(moved(state.w, steps(), shifts(sent, "buffers")), v)
