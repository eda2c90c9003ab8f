"""Experiments on digits that are small enough to be run many times."""

from typing import Any

from fedvision.experiment import Experiment
from fedvision.schema import validate

CPUS = 3


def digits(engine: dict[str, Any], **blocks: Any) -> Experiment:
    """Two rounds of two steps over six unequal sites."""
    values = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "dirichlet", "sites": 6, "alpha": 1.0},
        "federation": {"rounds": 2, "sampling": "fixed", "cohort": 5},
        "model": {"name": "cnn", "width": 4, "hidden": 16},
        "training": {"batch_size": 8, "epochs": None, "steps": 2},
        "tracking": {"mlflow": None, "report": False},
        "engine": engine,
    }
    return validate(Experiment, values | blocks, "test")


def workers(number: int, **settings: Any) -> dict[str, Any]:
    """An engine block."""
    return {"name": "ray", "workers": number, **settings}
