"""The coordinator's half of the federated algorithms: pure functions from (state, what the sites sent) to state.

A strategy of kind "sum" is shown the sum over the sites only, so that it works unchanged where the sum is all there is
(secure aggregation).  One of kind "single" is shown each update, and cannot be combined with masking.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Literal, Protocol

from torch import Tensor

from fedvision.brought import make
from fedvision.errors import ConfigError
from fedvision.types import State


class Strategy(Protocol):
    """init, weights, apply; a checkpoint is its state, a frozen dataclass of the paper's symbols."""

    kind: Literal["sum", "single"]

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
        """The state after a round.  sent: Aggregate (kind "sum") or Updates ("single"); sites: of the whole federation."""
        ...


def make_strategy(config: Any) -> Strategy:
    """The strategy of a config."""
    if config.name == "brought":
        return _brought(config)
    from server.strategies.fedadam import FedAdam
    from server.strategies.fedavg import FedAvg
    from server.strategies.fedavgm import FedAvgM
    from server.strategies.median import Median
    from server.strategies.scaffold import Scaffold

    options = {name: value for name, value in config.model_dump().items() if name not in {"name", "mu"}}
    kinds: dict[str, Any] = {
        "fedavg": FedAvg, "fedprox": FedAvg, "fedbn": FedAvg,
        "fedavgm": FedAvgM, "fedadam": FedAdam, "scaffold": Scaffold, "median": Median,
    }  # fmt: skip
    return kinds[config.name](**options)


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


def moved(model: State, *steps: Steps) -> dict[str, Tensor]:
    """The model with each step (float64, used up) added to its tensor; new tensors, in the model's own types, made one at a
    time, so that no second model of float64 is ever held."""
    result = dict(model)
    for name, step in chain.from_iterable(steps):
        result[name] = step.add_(model[name]).to(model[name].dtype)
    return result


def means(sent: Any, field: str, rate: float = 1.0) -> Steps:
    """rate times the mean update of each tensor of a field, float64 and the caller's; nothing where the run has no such field."""
    for name in sent.total.layout.slots.get(field, {}):
        yield name, sent.mean(field, name).mul_(rate)
