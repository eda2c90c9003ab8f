"""Krum and Multi-Krum.  Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent, NeurIPS 2017, section 4, on updates:

    s(i) = Σ ‖Δ_i − Δ_j‖² over the n − f − 2 updates Δ_j nearest to Δ_i          2f + 2 < n
    Krum         w ← w + η_g Δ_i*, i* = argmin s
    Multi-Krum   w ← w + η_g mean of the m updates with the smallest s

Distances are between trained weights; the running statistics of those that are chosen come along.  Equal scores: the site
whose name comes first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fedvision.errors import RoundFailed
from fedvision.types import State
from server.aggregate import Updates
from server.strategies import combined, moved
from server.strategies.fedavg import Model


@dataclass(frozen=True)
class Krum:
    """f = byzantine, m = selected (None: n − f), η_g = server_learning_rate.  It must see each site's update: refused with
    secure aggregation."""

    byzantine: int
    selected: int | None = 1
    server_learning_rate: float = 1.0
    kind: Literal["single"] = "single"

    def init(self, model: State) -> Model:
        """w₀."""
        return Model(dict(model))

    def weights(self, state: Model) -> State:
        """w."""
        return state.w

    def extras(self, state: Model) -> Mapping[str, State]:
        """None."""
        return {}

    def apply(self, state: Model, sent: Updates, sites: int) -> Model:
        """One step, block by block; RoundFailed where too few replied for f to be tolerated."""
        n, f = sent.count, self.byzantine
        if 2 * f + 2 >= n:
            raise RoundFailed(f"{n} updates, and Krum against {f} of them needs {2 * f + 3}: set federation.min_replies to {2 * f + 3}")
        m = n - f if self.selected is None else min(self.selected, n)
        chosen = np.sort(np.argsort(scores(distances(sent), f), kind="stable")[:m])

        def mean(numbers: np.ndarray) -> np.ndarray:
            kept: np.ndarray = numbers[chosen].mean(axis=0)
            return kept

        weights = combined(sent, "weights", mean, self.server_learning_rate)
        return Model(moved(state.w, weights, combined(sent, "buffers", mean)))


def scores(squares: np.ndarray, f: int) -> np.ndarray:
    """s [n] of the squared distances [n, n]."""
    n = len(squares)
    others = np.sort(squares + np.diag(np.full(n, np.inf)), axis=1)
    total: np.ndarray = others[:, : n - f - 2].sum(axis=1)
    return total


def distances(sent: Updates) -> np.ndarray:
    """‖Δ_i − Δ_j‖² [n, n] of the trained weights, rows in the order of the sites' names, from inner products block by block."""
    inner = torch.zeros(sent.count, sent.count, dtype=torch.float64)
    for name in sent.layout.slots["weights"]:
        for _, numbers in sent.blocks("weights", name):
            block = torch.from_numpy(numbers)
            inner += block @ block.T
    norms = inner.diagonal()
    squares: np.ndarray = (norms[:, None] + norms[None, :] - 2 * inner).clamp(min=0).numpy()
    return squares
