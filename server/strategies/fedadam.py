"""FedAdam.  Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: Adaptive Federated Optimization, ICLR 2021,
algorithm 2, without bias correction, as there:

    m ← β₁ m + (1 − β₁) Δ̄
    v ← β₂ v + (1 − β₂) Δ̄²                                       v₀ = τ²
    w ← w + η_g m / (√v + τ)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies import Steps, means, moved


@dataclass(frozen=True)
class Adaptive:
    """w: the model.  m, v: first and second moments of the mean update, float32."""

    w: State
    m: State
    v: State


@dataclass(frozen=True)
class FedAdam:
    """η_g = server_learning_rate, β₁, β₂, τ."""

    server_learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    kind: Literal["sum"] = "sum"

    def init(self, model: State) -> Adaptive:
        """w₀, m = 0, v = τ² (absent until a first update names the trained weights)."""
        return Adaptive(dict(model), {}, {})

    def weights(self, state: Adaptive) -> State:
        """w."""
        return state.w

    def extras(self, state: Adaptive) -> Mapping[str, State]:
        """None."""
        return {}

    def apply(self, state: Adaptive, sent: Aggregate, sites: int) -> Adaptive:
        """One step."""
        m: dict[str, Tensor] = {}
        v: dict[str, Tensor] = {}

        def steps() -> Steps:
            for name, delta in means(sent, "weights"):
                m_t = self.beta1 * state.m[name].double() if name in state.m else 0.0
                v_t = self.beta2 * (state.v[name].double() if name in state.v else self.tau**2)
                m_t = m_t + (1 - self.beta1) * delta
                v_t = v_t + (1 - self.beta2) * delta**2
                m[name], v[name] = m_t.to(torch.float32), v_t.to(torch.float32)
                yield name, self.server_learning_rate * m_t / (v_t.sqrt() + self.tau)

        return Adaptive(moved(state.w, steps(), means(sent, "buffers")), m, v)
