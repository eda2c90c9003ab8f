"""Whatever an algorithm keeps, at the coordinator or at the sites: a run that is cut and resumed ends at the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matrix
import pytest

from fedvision.algorithms import ALGORITHMS
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.types import TrainRequest
from simulations.engines import inline
from simulations.run import simulate

ROOT = Path(__file__).parents[2]


def experiment(name: str) -> Experiment:
    values = matrix.values(name, "lossy", {"name": "inline"})
    values["federation"] |= {"rounds": 4}
    values["conditions"] |= {"speed_sigma": 1.0}
    return validate(Experiment, values, "test")  # type: ignore[no-any-return]


def rounds(folder: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in folder.rounds()]


class PowerCut(Exception):
    """The machine goes down."""


def cut_in_round(number: int, wanted: Experiment, out: Path) -> None:
    """The run, on an engine that breaks down when round `number` is asked to train."""

    def engine(setting: Any, conduct: Any) -> Any:
        def failing(exchange: Any) -> Any:
            ask = exchange.ask

            def until(requests: Any) -> Any:
                if any(isinstance(r, TrainRequest) and r.round == number for r in requests.values()):
                    raise PowerCut
                return ask(requests)

            exchange.ask = until
            return conduct(exchange)

        return inline(setting, failing)

    with pytest.raises(PowerCut):
        simulate(wanted, out, None, quiet=True, engine=engine)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "brought"])
def test_every_algorithm_goes_on_from_where_it_was_cut(name: str, tmp_path: Path) -> None:
    whole, done = simulate(experiment(name), tmp_path / "whole", None, quiet=True)
    cut_in_round(2, experiment(name), tmp_path / "cut")
    cut, resumed = simulate(experiment(name), None, tmp_path / "cut", quiet=True)
    assert resumed["model_sha256"] == done["model_sha256"] and rounds(cut) == rounds(whole)


def test_kill_9_moves_no_byte_of_what_the_newer_algorithms_keep(tmp_path: Path) -> None:
    cases, out = ["feddyn", "fedrep", "ditto", "fedbuff"], tmp_path / "soak.json"
    command = [sys.executable, ROOT / "benchmarks" / "soak_kill.py", "--kills", "1", "--seed", "1", "--cases", *cases, "--out", out]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(out.read_text())["cases"]
    assert set(said) == set(cases) and all(trial["same"] for case in said.values() for trial in case["trials"])
    assert sum(bool(trial["killed"]) for case in said.values() for trial in case["trials"]) >= 3
