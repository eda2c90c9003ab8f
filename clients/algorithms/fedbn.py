"""FedBN, the sites' half.  Li, Jiang, Zhang, Kamp, Dou: FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization, ICLR 2021, algorithm 1: every BatchNorm layer, its affine weights and its running statistics, is never
averaged; it stays at its site from round to round."""

from clients.algorithms import Fields, Fitted, Plain, Start, copied
from fedvision.types import State


class FedBN(Plain):
    """Which tensors stay home is declared by `fedvision.models.parts`; here they are kept."""

    personal = True

    def finish(self, start: Start, fitted: Fitted, home: State) -> tuple[Fields, State]:
        """Nothing more to send; the site keeps its own layers."""
        return {}, copied(home)
