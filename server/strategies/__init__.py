"""The coordinator's half of the federated algorithms: pure functions from (state, what the sites sent) to state.

A strategy of kind "sum" is shown the sum over the sites only, so that it works unchanged where the sum is all there is
(secure aggregation).  One of kind "single" is shown each update, and cannot be combined with masking; one of kind "buffer"
is shown the sums over those that happened to arrive, by how late they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fedvision.brought import make
from fedvision.errors import ConfigError
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
    if config.name == "brought":
        return _brought(config)
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


def _brought(config: Any) -> Strategy:
    """What strategy.source names; ConfigError where it is no strategy, or is shown something else than strategy.sees says."""
    made = make(config.source, "strategy.source", "strategies", **config.options)
    lacking = [name for name in ("kind", "init", "weights", "extras", "apply") if not hasattr(made, name)]
    if lacking:
        raise ConfigError(f"strategy.source = {config.source!r} returned {type(made).__name__}, which has no {', '.join(lacking)}")
    if made.kind != config.sees:
        raise ConfigError(f"strategy.sees = {config.sees}, and {config.source!r} says kind = {made.kind!r}; set strategy.sees to that")
    strategy: Strategy = made
    return strategy


Steps = Iterator[tuple[str, Tensor]]
Shifts = Iterator[tuple[str, Callable[[Tensor], Tensor]]]


def moved(model: State, *steps: Steps | Shifts) -> dict[str, Tensor]:
    """The model with each step (float64, used up) added to its tensor, or each shift applied to it; new tensors, in the model's
    own types, made one at a time, so that no second model of float64 is ever held."""
    result = dict(model)
    for kind in steps:
        for name, step in kind:
            before = model[name]
            result[name] = step.add_(before).to(before.dtype) if isinstance(step, Tensor) else step(before)
    return result


def means(sent: Any, field: str) -> Steps:
    """The mean update of each tensor of a field, float64 and the caller's; nothing where the run has no such field."""
    for name in sent.total.layout.slots.get(field, {}):
        yield name, sent.mean(field, name)


def shifts(sent: Any, field: str, rate: float = 1.0) -> Shifts:
    """rate times the mean update of each tensor of a field, to be added to it in `moved`; nothing where the run has no such field."""
    for name in sent.total.layout.slots.get(field, {}):
        yield name, partial(sent.shifted, field, name, rate)


def combined(sent: Any, field: str, rule: Callable[[np.ndarray], np.ndarray], rate: float = 1.0) -> Steps:
    """rate times what `rule` makes of the sites' own updates, [sites, k] -> [k], block by block; nothing where the run has
    no such field."""
    for name, slot in sent.layout.slots.get(field, {}).items():
        whole = np.empty(slot.stop - slot.start)
        for piece, numbers in sent.blocks(field, name):
            whole[piece] = rule(numbers)
        yield name, rate * torch.from_numpy(whole.reshape(slot.shape))
