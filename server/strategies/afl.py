"""Agnostic federated learning, the server's half.  Mohri, Sivek, Suresh: Agnostic Federated Learning, ICML 2019, the
algorithm Stochastic-AFL over the sites as domains, with a round of local steps for a stochastic gradient (the sites' half:
clients/algorithms/afl.py):

    w ← w + η_g Σ λ_i Δ_i / Σ λ_i          λ ← Π_Λ(λ + γ_λ (L_1(w), …, L_N(w)))          Λ: the simplex, λ₀ = 1/N

A site that does not reply counts for nothing in w, and its loss for zero in the step of λ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies import moved, shifts


@dataclass(frozen=True)
class Agnostic:
    """w: the model.  mixture: λ_i by site, float64."""

    w: State
    mixture: State


@dataclass(frozen=True)
class Afl:
    """γ_λ = mixture_learning_rate, η_g = server_learning_rate.  sites: their names, sorted: the order of the losses' slots."""

    mixture_learning_rate: float = 0.1
    server_learning_rate: float = 1.0
    sites: Sequence[str] = ()
    kind: Literal["sum"] = "sum"

    def init(self, model: State) -> Agnostic:
        """w₀, λ = 1/N."""
        return Agnostic(dict(model), {site: torch.tensor(1 / len(self.sites), dtype=torch.float64) for site in self.sites})

    def weights(self, state: Agnostic) -> State:
        """w."""
        return state.w

    def extras(self, state: Agnostic) -> Mapping[str, State]:
        """λ by site: each scales its update by its own, and its place among their sorted names is its slot."""
        return {"mixture": state.mixture}

    def apply(self, state: Agnostic, sent: Aggregate, sites: int) -> Agnostic:
        """One step of w, and one of λ."""
        share = float(sent.mean("share", ""))  # Σ λ_i / n, as the mean update is Σ λ_i Δ_i / n
        rate = self.server_learning_rate / share if share > 0 else 0.0
        losses = sent.mean("losses", "") * sent.count
        mixture = projected(torch.stack([state.mixture[site] for site in self.sites]) + self.mixture_learning_rate * losses)
        return Agnostic(
            moved(state.w, shifts(sent, "weights", rate), shifts(sent, "buffers")), dict(zip(self.sites, mixture.unbind(), strict=True))
        )


def projected(v: Tensor) -> Tensor:
    """The point of the simplex nearest to `v` [N].  Duchi, Shalev-Shwartz, Singer, Chandra 2008, figure 1.

    >>> projected(torch.tensor([0.75, 0.5, -1.0]))
    tensor([0.6250, 0.3750, 0.0000])
    """
    ordered = v.sort(descending=True).values
    over = (ordered.cumsum(0) - 1) / torch.arange(1, len(v) + 1)
    return (v - over[int((ordered > over).sum()) - 1]).clamp(min=0)
