"""An algorithm of one's own, both halves: Nesterov's momentum at the server, normalised gradients at the sites.

Used by own_strategy.yaml.  Both halves are called with strategy.options; each takes what it needs and lets the rest pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from clients.algorithms import Plain, Start
from clients.training import Correct
from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies import means, moved


@dataclass(frozen=True)
class Moving:
    """w: the model.  v: its velocity.  Every field maps names to tensors, which is how a checkpoint keeps it."""

    w: State
    v: State


@dataclass(frozen=True)
class Nesterov:
    """v ← β v + Δ;  w ← w + β v + Δ, with Δ the sites' mean update."""

    beta: float
    kind: Literal["sum"] = "sum"

    def init(self, model: State) -> Moving:
        """w₀, at rest."""
        return Moving(dict(model), {name: torch.zeros_like(tensor) for name, tensor in model.items()})

    def weights(self, state: Moving) -> State:
        """w."""
        return state.w

    def extras(self, state: Moving) -> Mapping[str, State]:
        """The sites need nothing besides w."""
        return {}

    def apply(self, state: Moving, sent: Aggregate, sites: int) -> Moving:
        """One round."""
        delta = dict(means(sent, "weights"))
        v = {name: (self.beta * state.v[name] + step).to(state.v[name].dtype) for name, step in delta.items()}
        steps = ((name, self.beta * v[name].double() + delta[name]) for name in delta)
        return Moving(moved(state.w, steps, means(sent, "buffers")), {**state.v, **v})


@dataclass(frozen=True)
class Normalised(Plain):
    """Each step's gradient has the length `length`, whatever the site's data makes of it."""

    length: float

    def correct(self, start: Start) -> Correct | None:
        """g ← length · g / ‖g‖."""
        parameters = list(start.weights.values())

        def normalise() -> None:
            with torch.no_grad():
                gradients = [p.grad for p in parameters if p.grad is not None]
                norm = torch.sqrt(sum((g * g).sum() for g in gradients) + 1e-12)
                torch._foreach_mul_(gradients, self.length / norm)

        return normalise


def nesterov(*, beta: float, **others: Any) -> Nesterov:
    """The server's half."""
    return Nesterov(beta)


def normalised(*, length: float, **others: Any) -> Normalised:
    """The sites' half."""
    return Normalised(length)
