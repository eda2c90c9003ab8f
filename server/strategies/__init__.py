"""The coordinator's half of the federated algorithms: pure functions from (state, what the sites sent) to state.

A strategy of kind "sum" is shown the sum over the sites only, so that it works unchanged where the sum is all there is
(secure aggregation).  One of kind "single" is shown each update, and cannot be combined with masking; one of kind "buffer"
is shown the sums over those that happened to arrive, by how late they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fedvision.types import State


class Strategy(Protocol):
    """init, weights, apply; a checkpoint is its state, a frozen dataclass of the paper's symbols."""

    kind: Literal["sum", "single", "buffer"]

    def init(self, model: State) -> Any:
        """The state before the first round."""
        ...

    def weights(self, state: Any) -> State:
        """What the sites load."""
        ...

    def extras(self, state: Any) -> Mapping[str, State]:
        """The algorithm's own fields of a request."""
        ...

    def apply(self, state: Any, sent: Any, sites: int) -> Any:
        """The state after a round.  sent: Aggregate (kind "sum"), Updates ("single") or Arrivals ("buffer"); sites: of the whole federation."""
        ...


def make_strategy(config: Any, sites: Sequence[str] = ()) -> Strategy:
    """The strategy of a config, in a federation of `sites`."""
    from server.strategies.afl import Afl
    from server.strategies.fedadagrad import FedAdagrad
    from server.strategies.fedadam import FedAdam
    from server.strategies.fedavg import FedAvg
    from server.strategies.fedavgm import FedAvgM
    from server.strategies.fedbuff import FedBuff
    from server.strategies.feddyn import FedDyn
    from server.strategies.fednova import FedNova
    from server.strategies.fedyogi import FedYogi
    from server.strategies.krum import Krum
    from server.strategies.median import Median
    from server.strategies.qfedavg import QFedAvg
    from server.strategies.scaffold import Scaffold
    from server.strategies.trimmed_mean import TrimmedMean

    kinds: dict[str, Any] = {
        "fedavg": FedAvg, "fedprox": FedAvg, "fedbn": FedAvg, "fedrep": FedAvg, "ditto": FedAvg,
        "fedavgm": FedAvgM, "fedadam": FedAdam, "fedyogi": FedYogi, "fedadagrad": FedAdagrad,
        "scaffold": Scaffold, "feddyn": FedDyn, "fednova": FedNova, "qfedavg": QFedAvg, "afl": Afl,
        "fedbuff": FedBuff, "median": Median, "trimmed_mean": TrimmedMean, "krum": Krum, "multi_krum": Krum,
    }  # fmt: skip
    kind = kinds[config.name]
    options = config.model_dump() | {"sites": tuple(sorted(sites))}
    strategy: Strategy = kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})
    return strategy


Steps = Iterator[tuple[str, Tensor]]


def moved(model: State, *steps: Steps) -> dict[str, Tensor]:
    """The model with each step (float64, used up) added to its tensor; new tensors, in the model's own types, made one at a
    time, so that no second model of float64 is ever held."""
    result = dict(model)
    for name, step in chain.from_iterable(steps):
        result[name] = step.add_(model[name]).to(model[name].dtype, copy=True)  # never a piece of the sum's memory
    return result


def means(sent: Any, field: str, rate: float = 1.0) -> Steps:
    """rate times the mean update of each tensor of a field, float64, in the memory of the sum, to be used up at once; nothing where
    the run has no such field."""
    for name in sent.total.layout.slots.get(field, {}):
        yield name, sent.take_mean(field, name).mul_(rate)


def combined(sent: Any, field: str, rule: Callable[[np.ndarray], np.ndarray], rate: float = 1.0) -> Steps:
    """rate times what `rule` makes of the sites' own updates, [sites, k] -> [k], block by block; nothing where the run has
    no such field."""
    for name, slot in sent.layout.slots.get(field, {}).items():
        whole = np.empty(slot.stop - slot.start)
        for piece, numbers in sent.blocks(field, name):
            whole[piece] = rule(numbers)
        yield name, rate * torch.from_numpy(whole.reshape(slot.shape))
