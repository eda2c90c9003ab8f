"""Ditto, the sites' half.  Li, Hu, Beirami, Smith: Ditto: Fair and Robust Federated Learning Through Personalization, ICML
2021, algorithm 1: beside its part in the shared model w, site k trains a model v_k of its own, which never leaves it.

    v_k ← v_k − η (∇F_k(v_k) + λ (v_k − wᵗ))          v_k starts at the first wᵗ that reaches the site
    send Δ_k as FedAvg does
"""

from dataclasses import dataclass, replace

import torch

from clients.algorithms import Fields, Fit, Fitted, Plain, Start, copied
from clients.algorithms.fedprox import pulled
from fedvision.types import State


@dataclass(frozen=True)
class Ditto(Plain):
    """λ = mu: how strongly v_k is drawn to wᵗ.  v_k makes as many steps as the shared model, over batches of its own."""

    mu: float
    personal = True

    def train(self, start: Start, fit: Fit) -> Fitted:
        """v_k first, then the shared model, from wᵗ, as FedAvg would: the same steps over the same batches."""
        if start.own:
            _set(start, start.own)
        own = fit(pulled(start, self.mu), "personal")
        kept = copied(start.tensors)
        _set(start, start.broadcast)
        shared = fit(None)
        return replace(shared, seen=own.seen + shared.seen, kept=kept)

    def finish(self, start: Start, fitted: Fitted, home: State) -> tuple[Fields, State]:
        """Nothing more to send; the site keeps v_k, running statistics and all."""
        return {}, fitted.kept


def _set(start: Start, values: State) -> None:
    with torch.no_grad():
        for name, tensor in start.tensors.items():
            tensor.copy_(values[name])
