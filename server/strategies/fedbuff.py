"""FedBuff.  Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: Federated Learning with Buffered Asynchronous
Aggregation, AISTATS 2022, algorithm 1 (who trains when: server/asynchronous.py):

    w ← w + η_g (1/K) Σ s(τ_i) Δ_i, once K updates have come          s(τ) = 1/√(1 + τ)

τ_i: how many steps w has made since site i was sent it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from fedvision.types import State
from server.arrivals import Arrivals, Buffered
from server.strategies import Steps, moved


@dataclass(frozen=True)
class FedBuff:
    """η_g = server_learning_rate; K = buffer."""

    buffer: int
    server_learning_rate: float = 1.0
    kind: Literal["buffer"] = "buffer"

    def init(self, model: State) -> Buffered:
        """w₀, and nobody trains."""
        return Buffered(dict(model), {}, {}, {}, {"now": torch.tensor(0.0, dtype=torch.float64)})

    def weights(self, state: Buffered) -> State:
        """w."""
        return state.w

    def extras(self, state: Buffered) -> Mapping[str, State]:
        """None."""
        return {}

    def apply(self, state: Buffered, sent: Arrivals, sites: int) -> Buffered:
        """One step, of the sums over the updates of each staleness, the freshest first."""

        def steps(field: str, rate: float) -> Steps:
            for name in sent.layout.slots.get(field, {}):
                parts = [total.tensor(field, name, self.buffer * (1 + tau) ** 0.5 / rate) for tau, total in sorted(sent.totals.items())]
                yield name, torch.from_numpy(sum(parts[1:], parts[0]))

        w = moved(state.w, steps("weights", self.server_learning_rate), steps("buffers", 1.0))
        return Buffered(w, sent.flight, sent.sent, sent.due, {"now": torch.tensor(sent.now, dtype=torch.float64)})
