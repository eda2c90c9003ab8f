"""Every algorithm with every way of taking part, small; which pairs the config refuses, and by which words."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedvision.algorithms import AT_HOME, UNIFORM
from fedvision.experiment import Experiment
from fedvision.schema import validate

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
    who = [(r["answered"], r["missing"], r["declined"], r["refused"], r["train"]) for r in folder.rounds()]
    return json.loads(json.dumps({"sha": summary["model_sha256"], "metrics": summary["metrics"], "who": who}))  # type: ignore[no-any-return]


def on_flower(pairs: list[list[str]], folder: Path) -> dict[str, Any]:
    """All pairs on one start of Flower's runtime: its workers read in each message which run it is of."""
    from flwr.simulation import run_simulation

    from clients.app import app as client
    from fedvision.data.federation import open_federated
    from fedvision.errors import EngineError
    from server.app import Conductor
    from server.exchange import GridExchange
    from simulations.flower import _backend, _environment_kept, _quiet, premises

    block = {"name": "flower", "workers": 1}
    ends: dict[str, Any] = {}

    def conduct(first: Any) -> dict[str, Any]:
        def on_grid(setting: Any, inner: Callable[..., Any]) -> Any:
            exchange = GridExchange.__new__(GridExchange)  # the roll has been called: which node is which site stays as it is
            exchange.__dict__ |= first.__dict__ | {"premises": premises(setting)}
            return inner(exchange)

        for name, participation in pairs:
            ends[f"{name} {participation}"] = ended(experiment(name, participation, block), folder / f"{name}-{participation}", on_grid)
        return ends

    data = open_federated(experiment(*pairs[0], block))
    from simulations.engines import Setting

    setting = Setting(experiment(*pairs[0], block), data, folder / "first" / "sites", print)
    (folder / "first").mkdir()
    conductor = Conductor(conduct, data.sites, premises(setting), 1)
    with _quiet(), _environment_kept():
        try:
            run_simulation(conductor.app(), client, SITES, backend_config=_backend(1, 0.0))
        except Exception as error:  # else its own thread would wait for the workers for ever
            conductor.halt(EngineError(f"Flower's runtime stopped: {error!r}, because of {error.__cause__!r}"))
    return conductor.outcome()


if __name__ == "__main__":  # pairs as JSON, a folder for the runs; prints what they ended at
    import os

    from simulations.flower import ALONE

    os.environ.update(ALONE)
    found = on_flower(json.loads(sys.argv[1]), Path(sys.argv[2]))
    (Path(sys.argv[2]) / "ends.json").write_text(json.dumps(found))
