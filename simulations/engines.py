"""The engines: three ways to an Exchange over the same sites, under the same rounds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fedvision.algorithms import SEES_SINGLE_UPDATES
from fedvision.data.federation import Federated
from fedvision.experiment import Experiment
from fedvision.types import Exchange

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What an engine needs to open the sites of a simulation.

    states: folder where sites keep what is theirs, on this machine.  say: for a word to the user.
    """

    experiment: Experiment
    data: Federated
    states: Path
    say: Callable[[str], None]


def inline(setting: Setting, conduct: Callable[[Exchange], T]) -> T:
    """A loop in this process."""
    from clients.workbench import Workbench
    from simulations.inline import Inline

    data = setting.data
    bench = Workbench.set_up(setting.experiment, data.shape, data.classes, len(data.sites), setting.states)
    return conduct(Inline(data, bench, straight=added_at_once(setting.experiment)))


def added_at_once(experiment: Experiment) -> bool:
    """Whether nobody holds an update on its way into the sum: no fault to play, no rule on single updates, nothing asynchronous, no
    mask."""
    held = experiment.conditions.any or experiment.secure_aggregation.enabled or experiment.privacy is not None
    return not held and experiment.strategy.name not in SEES_SINGLE_UPDATES | {"fedbuff"}


def ray(setting: Setting, conduct: Callable[[Exchange], T]) -> T:
    """Our actors on a local or an existing Ray cluster."""
    from simulations.ray_exchange import run_on_ray

    return run_on_ray(setting, conduct)


def flower(setting: Setting, conduct: Callable[[Exchange], T]) -> T:
    """Flower's own runtime."""
    from simulations.flower import run_on_flower

    return run_on_flower(setting, conduct)


Engine = Callable[[Setting, Callable[[Exchange], Any]], Any]
ENGINES: dict[str, Engine] = {"inline": inline, "ray": ray, "flower": flower}
