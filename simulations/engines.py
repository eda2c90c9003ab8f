"""The engines: three ways to an Exchange over the same sites, under the same rounds."""

from collections.abc import Callable
from typing import Any, TypeVar

from fedvision.types import Exchange
from simulations.setting import Setting, added_at_once

T = TypeVar("T")


def inline(setting: Setting, conduct: Callable[[Exchange], T]) -> T:
    """A loop in this process."""
    from clients.workbench import Workbench
    from simulations.inline import Inline

    data = setting.data
    bench = Workbench.set_up(setting.experiment, data.shape, data.classes, len(data.sites), setting.states)
    return conduct(Inline(data, bench, straight=added_at_once(setting.experiment)))


def vmap(setting: Setting, conduct: Callable[[Exchange], T]) -> T:
    """Many small sites at once, in this process; within float tolerance of the others."""
    from clients.workbench import Workbench
    from simulations.vmapped import Vmapped

    data = setting.data
    bench = Workbench.set_up(setting.experiment, data.shape, data.classes, len(data.sites), setting.states)
    return conduct(Vmapped(data, bench, straight=added_at_once(setting.experiment)))


def ray(setting: Setting, conduct: Callable[[Exchange], T]) -> T:
    """Our actors on a local or an existing Ray cluster."""
    from simulations.ray_exchange import run_on_ray

    return run_on_ray(setting, conduct)


def flower(setting: Setting, conduct: Callable[[Exchange], T]) -> T:
    """Flower's own runtime."""
    from simulations.flower import run_on_flower

    return run_on_flower(setting, conduct)


Engine = Callable[[Setting, Callable[[Exchange], Any]], Any]
ENGINES: dict[str, Engine] = {"inline": inline, "ray": ray, "flower": flower, "vmap": vmap}
