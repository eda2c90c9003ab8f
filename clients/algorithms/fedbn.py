"""FedBN, the sites' half.  Li, Jiang, Zhang, Kamp, Dou: FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization, ICLR 2021, algorithm 1: every BatchNorm layer, its affine weights and its running statistics, is never
averaged; it stays at its site from round to round."""

import numpy as np
from torch import Tensor

from clients.algorithms import Plain, Start
from fedvision.types import State


class FedBN(Plain):
    """Which tensors stay home is declared by `fedvision.models.parts`; here they are kept."""

    def finish(self, start: Start, rates: float, home: State) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Tensor]]:
        """Nothing more to send; the site keeps its own layers."""
        return {}, {name: tensor.detach().cpu().clone() for name, tensor in home.items()}
