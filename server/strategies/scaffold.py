"""SCAFFOLD, the server's half.  Karimireddy et al., ICML 2020, algorithm 1 (the sites' half: clients/algorithms/scaffold.py):

x ← x + η_g mean(Δy_i)          c ← c + |S|/N · mean(Δc_i)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies import means, moved, shifts


@dataclass(frozen=True)
class Controlled:
    """x: the model.  c: the server's control variate, of the trained weights."""

    x: State
    c: State


@dataclass(frozen=True)
class Scaffold:
    """η_g = server_learning_rate.  Δy is weighted as the federation says, Δc uniformly."""

    server_learning_rate: float = 1.0
    kind: Literal["sum"] = "sum"

    def init(self, model: State) -> Controlled:
        """x₀, c = 0 (an absent c is zero)."""
        return Controlled(dict(model), {})

    def weights(self, state: Controlled) -> State:
        """x."""
        return state.x

    def extras(self, state: Controlled) -> Mapping[str, State]:
        """c, for the sites' steps."""
        return {"control": state.c}

    def apply(self, state: Controlled, sent: Aggregate, sites: int) -> Controlled:
        """One step; sites = N."""
        share, c = sent.count / sites, {}
        for name, delta in means(sent, "control"):
            c[name] = (state.c.get(name, torch.zeros(())) + share * delta).to(torch.float32)
        return Controlled(moved(state.x, shifts(sent, "weights", self.server_learning_rate), shifts(sent, "buffers")), c)
