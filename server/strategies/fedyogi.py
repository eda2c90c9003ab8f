"""FedYogi.  Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: Adaptive Federated Optimization, ICLR 2021,
algorithm 2:

    m ← β₁ m + (1 − β₁) Δ̄
    v ← v − (1 − β₂) Δ̄² sign(v − Δ̄²)                           v₀ = τ²
    w ← w + η_g m / (√v + τ)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies.adaptive import Adaptive, step


@dataclass(frozen=True)
class FedYogi:
    """η_g = server_learning_rate, β₁, β₂, τ."""

    server_learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    kind: Literal["sum"] = "sum"

    def init(self, model: State) -> Adaptive:
        """w₀, m = 0, v = τ²."""
        return Adaptive(dict(model), {}, {})

    def weights(self, state: Adaptive) -> State:
        """w."""
        return state.w

    def extras(self, state: Adaptive) -> Mapping[str, State]:
        """None."""
        return {}

    def apply(self, state: Adaptive, sent: Aggregate, sites: int) -> Adaptive:
        """One step."""
        return step(
            state,
            sent,
            self.server_learning_rate,
            self.beta1,
            self.tau,
            lambda v, square: v - (1 - self.beta2) * square * (v - square).sign(),
        )
