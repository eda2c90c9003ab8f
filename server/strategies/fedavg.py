"""FedAvg, the server's half.  McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep
Networks from Decentralized Data, AISTATS 2017, algorithm 1, written on updates Δ_i = w_i − w:

    w ← w + η_g Σ n_i Δ_i / Σ n_i                                η_g = 1 is the paper's average of the w_i
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies import moved, shifts


@dataclass(frozen=True)
class Model:
    """w: the model."""

    w: State


@dataclass(frozen=True)
class FedAvg:
    """η_g = server_learning_rate, on trained weights; running statistics are averaged as they are."""

    server_learning_rate: float = 1.0
    kind: Literal["sum"] = "sum"

    def init(self, model: State) -> Model:
        """w₀."""
        return Model(dict(model))

    def weights(self, state: Model) -> State:
        """w."""
        return state.w

    def extras(self, state: Model) -> Mapping[str, State]:
        """None."""
        return {}

    def apply(self, state: Model, sent: Aggregate, sites: int) -> Model:
        """One step."""
        return Model(moved(state.w, shifts(sent, "weights", self.server_learning_rate), shifts(sent, "buffers")))
