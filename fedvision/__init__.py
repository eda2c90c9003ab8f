"""Federated training of vision models whose cost in privacy can be proved.

    from fedvision import Experiment, from_values, load

What runs an experiment stands above this package: `from simulations.results import run`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedvision.experiment import Experiment, from_values, load

__all__ = ["Experiment", "from_values", "load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only when it is: the command line starts without it."""
    if name in __all__:
        from fedvision import experiment

        return getattr(experiment, name)
    raise AttributeError(f"module 'fedvision' has no attribute {name!r}")
