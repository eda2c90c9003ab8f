"""FedProx, the sites' half.  Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous
Networks, MLSys 2020, algorithm 2: each site minimises h(w; wᵗ) = F_k(w) + μ/2 ‖w − wᵗ‖²."""

from dataclasses import dataclass

import torch

from clients.algorithms import Plain, Start
from clients.training import Correct


@dataclass(frozen=True)
class FedProx(Plain):
    """μ: weight of the proximal term."""

    mu: float

    def correct(self, start: Start) -> Correct | None:
        """∇h = ∇F + μ (w − wᵗ)."""
        return pulled(start, self.mu)


def pulled(start: Start, mu: float) -> Correct | None:
    """Adds μ (w − wᵗ) to every gradient; None where μ = 0."""
    if mu == 0:
        return None
    w = list(start.weights.values())
    w_t = [start.broadcast[name].to(p.device) for name, p in start.weights.items()]

    def add_proximal_gradient() -> None:
        with torch.no_grad():
            for p, p_t in zip(w, w_t, strict=True):
                if p.grad is not None:
                    p.grad.add_(p - p_t, alpha=mu)

    return add_proximal_gradient
