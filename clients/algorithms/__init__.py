"""The sites' half of the federated algorithms: how they bend the gradients, and what else they send and keep."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from clients.training import Correct
from fedvision.brought import make
from fedvision.errors import ConfigError
from fedvision.types import SiteId, State

Fields = Mapping[str, float | Mapping[str, np.ndarray]]  # what a rule sends beside the plain updates, or in their place


@dataclass(frozen=True)
class Start:
    """What a rule may look at before training.

    weights: the trained parameters that travel, in the model, holding the request's values; trained: those that stay at the
    site as well; tensors: all of the model.  broadcast, extras: the request's.  own: the site's.  rate: η_l of the round.
    loss: of the site's training data under the request's model, where the rule asks for it (`measures_loss`).
    """

    site: SiteId
    weights: Mapping[str, nn.Parameter]
    trained: Mapping[str, nn.Parameter]
    tensors: Mapping[str, Tensor]
    broadcast: State
    extras: Mapping[str, State]
    own: Mapping[str, Tensor]
    rate: float
    loss: float = float("nan")


@dataclass(frozen=True)
class Fitted:
    """What training did.  loss: mean over the examples as they were met; seen: how many; steps of the model that is sent, and
    the sum of their learning rates; kept: what the rule wants to keep of it."""

    loss: float
    seen: int
    steps: int
    rates: float
    kept: State = field(default_factory=dict)


class Fit(Protocol):
    """The round's training, as the config has it, on the model as it is."""

    def __call__(self, correct: Correct | None, *names: str, epochs: int | None = None) -> Fitted:
        """names: of the randomness, where it is not the round's main training; epochs: other than the config's."""
        ...


class Plain:
    """FedAvg's ClientUpdate.  McMahan et al. 2017, algorithm 1: nothing but the steps.

    personal: what the site keeps is put into the model that it uses itself.  measures_loss: `Start.loss` is wanted.
    """

    personal = False
    measures_loss = False

    def correct(self, start: Start) -> Correct | None:
        """What is done to the gradients between backward and step; None = nothing."""
        return None

    def train(self, start: Start, fit: Fit) -> Fitted:
        """The steps."""
        return fit(self.correct(start))

    def finish(self, start: Start, fitted: Fitted, home: State) -> tuple[Fields, State]:
        """After training: further fields to send, and the state to keep.
        home: the tensors that stay at the site, as training left them."""
        return {}, {}


def copied(state: State) -> dict[str, Tensor]:
    """The tensors as they are now, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def scaled_update(start: Start, factor: float) -> dict[str, np.ndarray]:
    """factor · (w_i − w) of each trained weight, float32."""
    with torch.no_grad():
        return {name: ((p.cpu() - start.broadcast[name]) * factor).numpy() for name, p in start.weights.items()}


def make_rule(strategy: Any, momentum: float = 0.0) -> Plain:
    """The sites' rule of a strategy's config; momentum: of the local SGD."""
    if strategy.name == "brought":
        return _brought(strategy)
    from clients.algorithms.afl import Afl
    from clients.algorithms.ditto import Ditto
    from clients.algorithms.fedbn import FedBN
    from clients.algorithms.feddyn import FedDyn
    from clients.algorithms.fednova import FedNova
    from clients.algorithms.fedprox import FedProx
    from clients.algorithms.fedrep import FedRep
    from clients.algorithms.qfedavg import QFedAvg
    from clients.algorithms.scaffold import Scaffold

    rules: dict[str, Any] = {
        "fedprox": lambda: FedProx(strategy.mu),
        "scaffold": Scaffold,
        "fedbn": FedBN,
        "fednova": lambda: FedNova(momentum),
        "feddyn": lambda: FedDyn(strategy.alpha),
        "fedrep": lambda: FedRep(strategy.head_epochs),
        "ditto": lambda: Ditto(strategy.mu),
        "qfedavg": lambda: QFedAvg(strategy.q, strategy.lipschitz),
        "afl": Afl,
    }
    rule: Plain = rules.get(strategy.name, Plain)()
    return rule


def _brought(strategy: Any) -> Plain:
    """What strategy.client names, else plain training; ConfigError where it is no rule."""
    if strategy.client is None:
        return Plain()
    rule = make(strategy.client, "strategy.client", "clients", **strategy.options)
    if not isinstance(rule, Plain):
        raise ConfigError(f"strategy.client = {strategy.client!r} returned {type(rule).__name__}; it must be a clients.algorithms.Plain")
    return rule
