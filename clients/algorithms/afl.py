"""Agnostic federated learning, the sites' half.  Mohri, Sivek, Suresh: Agnostic Federated Learning, ICML 2019: site i sends

λ_i Δ_i, λ_i, and its loss L_i(w) on its own training data, before it trains, in its own slot of a vector over all sites
"""

import numpy as np

from clients.algorithms import Fields, Fitted, Plain, Start, scaled_update
from fedvision.types import State


class Afl(Plain):
    """λ comes with the request, by site."""

    measures_loss = True

    def finish(self, start: Start, fitted: Fitted, home: State) -> tuple[Fields, State]:
        """The scaled update, λ_i and the loss in its slot; nothing is kept."""
        mixture = start.extras["mixture"]
        share = float(mixture[start.site])
        losses = np.zeros(len(mixture), np.float32)
        losses[sorted(mixture).index(start.site)] = start.loss
        return {"weights": scaled_update(start, share), "share": share, "losses": {"": losses}}, {}
