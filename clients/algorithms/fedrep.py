"""FedRep, the sites' half.  Collins, Hassani, Mokhtari, Shakkottai: Exploiting Shared Representations for Personalized
Federated Learning, ICML 2021, algorithm 1: the head h_i stays at its site, the representation φ is averaged.

    h_i ← τ_h epochs of SGD on f_i(·, φ), φ fixed, from the site's last h_i
    φ_i ← the round's training on f_i(h_i, ·), h_i fixed, from φ          send φ_i − φ
"""

from collections.abc import Collection
from dataclasses import dataclass

from clients.algorithms import Fields, Fit, Fitted, Plain, Start, copied
from clients.training import Correct
from fedvision.types import State


@dataclass(frozen=True)
class FedRep(Plain):
    """τ_h = head_epochs.  Which tensors are the head is declared by `fedvision.models.parts`."""

    head_epochs: int
    personal = True

    def train(self, start: Start, fit: Fit) -> Fitted:
        """The head, then the representation.  A gradient that is not there makes the optimiser leave its tensor alone."""
        head = {name for name in start.trained if name not in start.weights}
        first = fit(_without(start, start.weights), "head", epochs=self.head_epochs)
        then = fit(_without(start, head))
        return Fitted(then.loss, first.seen + then.seen, then.steps, then.rates)

    def finish(self, start: Start, fitted: Fitted, home: State) -> tuple[Fields, State]:
        """Nothing more to send; the site keeps its head."""
        return {}, copied(home)


def _without(start: Start, names: Collection[str]) -> Correct:
    """Drops the gradients of `names`."""
    fixed = [start.trained[name] for name in names]

    def drop() -> None:
        for p in fixed:
            p.grad = None

    return drop
