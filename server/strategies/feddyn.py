"""FedDyn, the server's half.  Acar, Zhao, Navarro, Mattina, Whatmough, Saligrama: Federated Learning Based on Dynamic
Regularization, ICLR 2021, algorithm 1 (the sites' half: clients/algorithms/feddyn.py):

    h ← h − α (1/m) Σ_{k ∈ P} (θ_k − θ)          θ ← mean_{k ∈ P} θ_k − h / α          m: all sites, P: those that replied
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
class Dynamic:
    """theta: the model.  h: −α times what the sites have moved so far over m, float32."""

    theta: State
    h: State


@dataclass(frozen=True)
class FedDyn:
    """α; η_g = server_learning_rate scales the whole step (1 in the paper).  The mean over P is uniform."""

    alpha: float = 0.01
    server_learning_rate: float = 1.0
    kind: Literal["sum"] = "sum"

    def init(self, model: State) -> Dynamic:
        """θ₀, h = 0 (an absent h is zero)."""
        return Dynamic(dict(model), {})

    def weights(self, state: Dynamic) -> State:
        """θ."""
        return state.theta

    def extras(self, state: Dynamic) -> Mapping[str, State]:
        """None."""
        return {}

    def apply(self, state: Dynamic, sent: Aggregate, sites: int) -> Dynamic:
        """One step; sites = m."""
        h: dict[str, Tensor] = {}

        def steps() -> Steps:
            for name, delta in means(sent, "weights"):
                last = state.h[name].double() if name in state.h else 0.0
                h[name] = (last - self.alpha * sent.count / sites * delta).to(torch.float32)
                yield name, self.server_learning_rate * (delta - h[name].double() / self.alpha)

        return Dynamic(moved(state.theta, steps(), shifts(sent, "buffers")), h)
