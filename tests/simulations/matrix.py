"""Every algorithm with every way of taking part, small; which pairs the config refuses, and by which words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedvision.algorithms import AT_HOME, UNIFORM
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.tracking.folder import RunFolder

SITES = 7
PARTICIPATION: dict[str, dict[str, Any]] = {
    "all": {"sampling": "all"},
    "lossy": {"sampling": "all"},
    "fixed": {"sampling": "fixed", "cohort": 6},
    "poisson": {"sampling": "poisson", "rate": 0.9},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "krum": {"byzantine": 0},
    "multi_krum": {"byzantine": 0, "selected": 2},
    "trimmed_mean": {"trim": 0.25},
    "fedbuff": {"buffer": 3, "concurrency": 4},
}
BATCH_NORM = {"name": "cnn", "width": 2, "hidden": 8, "norm": "batch"}


def values(name: str, participation: str, engine: dict[str, Any]) -> dict[str, Any]:
    """The config of a pair: two rounds of one epoch over seven sites; every tenth reply is lost, but where all take part."""
    federation = {
        "rounds": 2,
        "min_replies": 3,
        "weighting": "uniform" if name in UNIFORM else "examples",
        **PARTICIPATION[participation],
    }
    return {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "dirichlet", "sites": SITES, "alpha": 1.0},
        "federation": federation,
        "conditions": {"dropout": 0.0 if participation == "all" else 0.1},
        "strategy": {"name": name, **OPTIONS.get(name, {})},
        "model": BATCH_NORM if name == "fedbn" else {"name": "mlp", "width": 4},
        "training": {"batch_size": 32, "epochs": 1, "learning_rate": 0.1},
        "evaluation": {"every": 2, "server": None if name in AT_HOME else {"test": 0.2}},
        "tracking": {"mlflow": None, "report": False, "checkpoints": 1},
        "engine": engine,
    }


def experiment(name: str, participation: str, engine: dict[str, Any]) -> Experiment:
    """Raises ConfigError where the pair is refused."""
    return validate(Experiment, values(name, participation, engine), "matrix")


def ended(wanted: Experiment, out: Path, engine: Callable[..., Any] | None = None) -> dict[str, Any]:
    """What a run ends at: the hash of its weights, its figures, and who took part."""
    from simulations.run import simulate

    folder, summary = simulate(wanted, out, None, quiet=True, engine=engine)
    return end(folder.path, summary)


def end(run: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """What of a run must be the same on every engine."""
    who = [(r["answered"], r["missing"], r["declined"], r["refused"], r["train"]) for r in RunFolder(run).rounds()]
    return json.loads(json.dumps({"sha": summary["model_sha256"], "metrics": summary["metrics"], "who": who}))  # type: ignore[no-any-return]
