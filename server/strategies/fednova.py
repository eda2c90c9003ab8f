"""FedNova, the server's half.  Wang, Liu, Liang, Joshi, Poor: Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization, NeurIPS 2020, section 4 (the sites' half: clients/algorithms/fednova.py):

    x ← x + η_g τ_eff Σ p_i Δ_i / ‖a_i‖₁          τ_eff = Σ p_i ‖a_i‖₁          p_i = n_i / Σ n_i of those that replied
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies import moved, shifts
from server.strategies.fedavg import Model


@dataclass(frozen=True)
class FedNova:
    """η_g = server_learning_rate.  Two sums: of the normalised updates, and of ‖a_i‖₁, each weighted by p_i."""

    server_learning_rate: float = 1.0
    kind: Literal["sum"] = "sum"

    def init(self, model: State) -> Model:
        """x₀."""
        return Model(dict(model))

    def weights(self, state: Model) -> State:
        """x."""
        return state.w

    def extras(self, state: Model) -> Mapping[str, State]:
        """None."""
        return {}

    def apply(self, state: Model, sent: Aggregate, sites: int) -> Model:
        """One step."""
        tau_eff = float(sent.mean("tau", ""))
        return Model(moved(state.w, shifts(sent, "weights", self.server_learning_rate * tau_eff), shifts(sent, "buffers")))
