"""FedNova, the sites' half.  Wang, Liu, Liang, Joshi, Poor: Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization, NeurIPS 2020, section 3: after τ_i steps of SGD with momentum ρ, Δ_i is −η Σ_k a_{i,k} g_{i,k} with

    ‖a_i‖₁ = [τ_i − ρ (1 − ρ^τ_i) / (1 − ρ)] / (1 − ρ)          = τ_i where ρ = 0
    send Δ_i / ‖a_i‖₁ and ‖a_i‖₁
"""

from dataclasses import dataclass

from clients.algorithms import Fields, Fitted, Plain, Start, scaled_update
from fedvision.types import State


def norm_of_a(tau: int, rho: float) -> float:
    """‖a‖₁ of τ steps with momentum ρ, which starts at zero in each round."""
    return (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)


@dataclass(frozen=True)
class FedNova(Plain):
    """ρ: momentum of the local SGD."""

    rho: float = 0.0

    def finish(self, start: Start, fitted: Fitted, home: State) -> tuple[Fields, State]:
        """The normalised update and its ‖a_i‖₁; nothing is kept."""
        norm = norm_of_a(fitted.steps, self.rho)
        return {"weights": scaled_update(start, 1 / norm), "tau": norm}, {}
