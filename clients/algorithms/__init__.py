"""The sites' half of the federated algorithms: how they bend the gradients, and what else they send and keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from clients.training import Correct
from fedvision.brought import make
from fedvision.errors import ConfigError
from fedvision.types import State


@dataclass(frozen=True)
class Start:
    """What a rule may look at before training.

    weights: the trained parameters in the model, holding the request's values.  extras: the request's.  own: the site's.
    """

    weights: Mapping[str, nn.Parameter]
    broadcast: State
    extras: Mapping[str, State]
    own: Mapping[str, Tensor]


class Plain:
    """FedAvg's ClientUpdate.  McMahan et al. 2017, algorithm 1: nothing but the steps."""

    def correct(self, start: Start) -> Correct | None:
        """What is done to the gradients between backward and step; None = nothing."""
        return None

    def finish(self, start: Start, rates: float, home: State) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Tensor]]:
        """After training: further fields to send, and the state to keep.  rates: the sum of the steps' learning rates.
        home: the tensors that stay at the site, as training left them."""
        return {}, {}


def make_rule(strategy: Any) -> Plain:
    """The sites' rule of a strategy's config."""
    if strategy.name == "brought":
        return _brought(strategy)
    from clients.algorithms.fedbn import FedBN
    from clients.algorithms.fedprox import FedProx
    from clients.algorithms.scaffold import Scaffold

    if strategy.name == "fedprox":
        return FedProx(strategy.mu)
    return {"scaffold": Scaffold, "fedbn": FedBN}.get(strategy.name, Plain)()


def _brought(strategy: Any) -> Plain:
    """What strategy.client names, else plain training; ConfigError where it is no rule."""
    if strategy.client is None:
        return Plain()
    rule = make(strategy.client, "strategy.client", "clients", **strategy.options)
    if not isinstance(rule, Plain):
        raise ConfigError(f"strategy.client = {strategy.client!r} returned {type(rule).__name__}; it must be a clients.algorithms.Plain")
    return rule
