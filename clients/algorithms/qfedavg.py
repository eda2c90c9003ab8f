"""q-FedAvg, the sites' half.  Li, Sanjabi, Beirami, Smith: Fair Resource Allocation in Federated Learning, ICLR 2020,
algorithm 2: the higher a site's loss F_k(w) on its own training data, the more it weighs.  Divided by L:

    send F_k^q (w_k − w) and h_k = F_k^q + q F_k^(q−1) L ‖w_k − w‖²          L = 1/η_l, as in the paper's experiments
"""

from dataclasses import dataclass

import numpy as np

from clients.algorithms import Fields, Fitted, Plain, Start, scaled_update
from fedvision.types import State


@dataclass(frozen=True)
class QFedAvg(Plain):
    """q; lipschitz: L, None = 1/η_l of the round."""

    q: float
    lipschitz: float | None = None
    measures_loss = True

    def finish(self, start: Start, fitted: Fitted, home: State) -> tuple[Fields, State]:
        """The weighted update and h_k; nothing is kept."""
        f, lipschitz = start.loss, self.lipschitz or 1 / start.rate
        update = scaled_update(start, 1.0)
        square = sum(float(np.square(x, dtype=np.float64).sum()) for x in update.values())
        factor = f**self.q
        slope = self.q * f ** (self.q - 1) if self.q and f > 0 else 0.0
        return {
            "weights": {name: (x * factor).astype(np.float32) for name, x in update.items()},
            "h": factor + slope * lipschitz * square,
        }, {}
