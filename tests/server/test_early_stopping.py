"""A run ends when the server's criterion stops getting better, and resumes to the same end."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.learning import Evaluation, ServerData
from fedvision.schema import validate
from server.checkpoints import Progress
from server.stopping import watched
from simulations.baselines import centralised, local
from simulations.run import simulate


def experiment(**changes: Any) -> Experiment:
    values = {
        "data": {"dataset": "digits", "test": 0.0},
        "partition": {"scheme": "iid", "sites": 3},
        "federation": {"rounds": 12},
        "model": {"name": "mlp", "width": 4},
        "training": {"epochs": None, "steps": 1, "learning_rate": 1e-6},
        "evaluation": {"sites": "none", "server": {"validation": 0.1, "test": 0.1}, "best": "loss", "patience": 3, "min_gain": 0.5},
        "tracking": {"mlflow": None, "report": False},
        **changes,
    }
    return validate(Experiment, values, "test")


def after(values: list[float | None], **changes: Any) -> list[tuple[int, bool]]:
    evaluation = Evaluation(server=ServerData(validation=0.1), **{"best": "accuracy", "patience": 2, **changes})
    progress, seen = Progress(), []
    for value in values:
        progress, said = watched(evaluation, progress, value)
        seen.append((progress.stale, said is not None))
    return seen


def test_evaluations_that_are_not_better_are_counted_and_a_better_one_starts_anew() -> None:
    assert after([0.5, 0.4, 0.6, 0.6, None, 0.5]) == [(0, False), (1, False), (0, False), (1, False), (1, False), (2, True)]
    assert after([0.5, 0.55, 0.58], min_gain=0.1) == [(0, False), (1, False), (2, True)]
    assert after([0.5, 0.55, 0.61], min_gain=0.1) == [(0, False), (1, False), (0, False)]
    assert after([2.0, 1.0, 1.5, 1.2], best="loss") == [(0, False), (0, False), (1, False), (2, True)]


def test_a_run_that_learns_nothing_stops_when_its_patience_is_over_and_says_so(tmp_path: Path) -> None:
    folder, summary = simulate(experiment(), tmp_path / "run", None, quiet=True)
    assert (summary["status"], summary["rounds"], summary["rounds_planned"]) == ("completed", 4, 12)
    records = folder.rounds()
    assert [("stopped" in r) for r in records] == [False, False, False, True]
    assert records[-1]["stopped"].startswith("stopped early: loss on the server's validation data was not better than 2.")
    assert summary["notes"][-1] == records[-1]["stopped"]


def test_a_stopped_run_that_is_resumed_stays_stopped_at_the_same_model(tmp_path: Path) -> None:
    folder, summary = simulate(experiment(), tmp_path / "run", None, quiet=True)
    _, again = simulate(experiment(), None, folder.path, quiet=True)
    assert (again["rounds"], again["model_sha256"], again["metrics"]) == (4, summary["model_sha256"], summary["metrics"])


def test_a_run_cut_in_the_middle_of_its_patience_stops_where_the_whole_one_does(tmp_path: Path) -> None:
    whole, summary = simulate(
        experiment(tracking={"mlflow": None, "report": False, "checkpoints": 9}), tmp_path / "whole", None, quiet=True
    )
    for checkpoint in (whole.path / "checkpoints").glob("round-[34].safetensors"):
        checkpoint.unlink()
    _, resumed = simulate(experiment(tracking={"mlflow": None, "report": False, "checkpoints": 9}), None, whole.path, quiet=True)
    assert (resumed["rounds"], resumed["model_sha256"]) == (4, summary["model_sha256"])
    assert len((whole.path / "rounds.jsonl").read_text().splitlines()) == 4
    assert json.loads((whole.path / "rounds.jsonl").read_text().splitlines()[-1])["stopped"]


def test_pooled_training_and_each_site_alone_stop_by_the_same_rule(tmp_path: Path) -> None:
    folder, summary = centralised(experiment(), tmp_path / "pooled", quiet=True)
    assert summary["rounds"] == len(folder.rounds()) == 4
    assert summary["notes"][-1] == folder.rounds()[-1]["stopped"] and "better than 2." in summary["notes"][-1]
    _, alone = local(experiment(), tmp_path / "alone", quiet=True)
    assert alone["notes"][-1] == "stopped early: 3 sites, after 4 to 4 rounds (evaluation.patience = 3)"
    patient = {"sites": "none", "server": {"validation": 0.1, "test": 0.1}, "best": "loss", "patience": 12}
    _, through = local(experiment(evaluation=patient), tmp_path / "through", quiet=True)
    assert not [note for note in through["notes"] if "stopped early" in note]


def test_patience_without_validation_data_of_the_server_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation.patience = 3 stops by the server's validation data, and there is none"):
        experiment(evaluation={"server": {"test": 0.1}, "patience": 3})
