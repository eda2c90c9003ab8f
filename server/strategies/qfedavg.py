"""q-FedAvg, the server's half.  Li, Sanjabi, Beirami, Smith: Fair Resource Allocation in Federated Learning, ICLR 2020,
algorithm 2, with both sums divided by L (the sites' half: clients/algorithms/qfedavg.py):

    w ← w + η_g Σ p_k F_k^q (w_k − w) / Σ p_k h_k                h_k = F_k^q + q F_k^(q−1) L ‖w_k − w‖²
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies import moved, shifts
from server.strategies.fedavg import Model


@dataclass(frozen=True)
class QFedAvg:
    """η_g = server_learning_rate (1 in the paper).  q = 0 is FedAvg."""

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
        """One step; none where every site's loss is zero, and nothing is left to be fair about."""
        h = float(sent.mean("h", ""))
        rate = self.server_learning_rate / h if h > 0 else 0.0
        return Model(moved(state.w, shifts(sent, "weights", rate), shifts(sent, "buffers")))
