"""FedDyn, the sites' half.  Acar, Zhao, Navarro, Mattina, Whatmough, Saligrama: Federated Learning Based on Dynamic
Regularization, ICLR 2021, algorithm 1: site k minimises

    L_k(θ) − ⟨g_k, θ⟩ + α/2 ‖θ − θᵗ⁻¹‖²                          g_k = ∇L_k at where it last ended, 0 before
    g_k ← g_k − α (θ_k − θᵗ⁻¹)

by the steps of the round's training instead of to the end, as the paper's experiments do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.algorithms import Fields, Fitted, Plain, Start
from clients.training import Correct
from fedvision.types import State


@dataclass(frozen=True)
class FedDyn(Plain):
    """α: weight of the dynamic regulariser.  g_k is the site's own state, zero until its first round counts."""

    alpha: float

    def correct(self, start: Start) -> Correct:
        """∇ ← ∇L_k − g_k + α (θ − θᵗ⁻¹)."""
        parts = [(p, start.broadcast[name].to(p.device), _g(start, name).to(p.device)) for name, p in start.weights.items()]

        def add_regulariser() -> None:
            with torch.no_grad():
                for p, before, g in parts:
                    if p.grad is not None:
                        p.grad.sub_(g).add_(p - before, alpha=self.alpha)

        return add_regulariser

    def finish(self, start: Start, fitted: Fitted, home: State) -> tuple[Fields, State]:
        """Nothing more to send; g_k for the site."""
        with torch.no_grad():
            moves = {name: p.cpu() - start.broadcast[name] for name, p in start.weights.items()}
            return {}, {name: _g(start, name) - self.alpha * move for name, move in moves.items()}


def _g(start: Start, name: str) -> Tensor:
    return start.own.get(name, torch.zeros_like(start.broadcast[name]))
