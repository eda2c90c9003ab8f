"""Central noise is drawn once a round, wherever the coordinator is killed."""

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedvision.errors import RunFolderError
from fedvision.experiment import Experiment
from fedvision.schema import validate
from simulations.run import simulate

EXPERIMENT: dict[str, Any] = {
    "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 3}, "federation": {"rounds": 3},
    "training": {"epochs": 1, "batch_size": 64}, "model": {"name": "mlp", "width": 8},
    "evaluation": {"every": 1, "server": {"validation": 0.1, "test": 0.1}}, "tracking": {"mlflow": None, "report": False},
    "privacy": {"mechanism": "central", "noise_multiplier": 1.0, "delta": 1e-2, "clip": 0.5},
}  # fmt: skip
REJECTED: dict[str, Any] = EXPERIMENT | {  # noise that no model survives
    "privacy": EXPERIMENT["privacy"] | {"noise_multiplier": 100.0}, "federation": {"rounds": 2},
    "acceptance": {"loss_factor": 1.01},
}  # fmt: skip
WHERE = {  # in round 1: before whose second call the process dies
    "before it is released": "server.releases.Releases.keep",
    "before it is measured": "server.evaluation.Evaluator.__call__",
    "before its checkpoint": "server.checkpoints.Checkpoints.write",
}
AFTER = {where: 1 if where == "before it is released" else 2 for where in WHERE}  # the round to begin whose checkpoint is the release


def _run(out: Path, place: str, blocks: dict[str, Any] = EXPERIMENT) -> None:
    """The run, until it kills itself as a power cut would."""
    module, kind, name = place.rsplit(".", 2)
    owner = getattr(__import__(module, fromlist=[kind]), kind)
    real, calls = getattr(owner, name), []

    def dying(*args: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)

    setattr(owner, name, dying)
    simulate(validate(Experiment, blocks, "test"), out, None, quiet=True)


def _killed(*arguments: Any) -> None:
    process = multiprocessing.get_context("fork").Process(target=_run, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("where", WHERE)
def test_a_run_that_was_killed_goes_on_from_its_last_release_and_draws_none_again(where: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    _killed(out, WHERE[where])
    before, drawn = _lines(out), load_file(out / "checkpoints" / "release.safetensors")
    simulate(validate(Experiment, EXPERIMENT, "test"), None, out, quiet=True)
    after = _lines(out)
    assert [line["round"] for line in after] == [0, 1, 2] and all(line["status"] == "counted" for line in after)
    assert [line["evaluation"] for line in before] == [line["evaluation"] for line in after[: len(before)]]
    following = load_file(out / "checkpoints" / f"round-{AFTER[where]}.safetensors")
    assert drawn.keys() == following.keys() and all(torch.equal(drawn[name], following[name]) for name in drawn)


def test_a_round_whose_noise_was_drawn_and_whose_checkpoint_is_gone_is_not_drawn_again(tmp_path: Path) -> None:
    experiment = validate(Experiment, EXPERIMENT, "test")
    folder, _ = simulate(experiment, tmp_path / "run", None, quiet=True)
    for number in (2, 3):
        (folder.path / "checkpoints" / f"round-{number}.safetensors").unlink()
    with pytest.raises(RunFolderError, match="round 1: its noise was drawn, and its checkpoint is gone"):
        simulate(experiment, None, tmp_path / "run", quiet=True)


def test_a_release_that_was_rejected_before_a_kill_is_rejected_after_it(tmp_path: Path) -> None:
    _killed(tmp_path / "run", WHERE["before its checkpoint"], REJECTED)
    drawn = load_file(tmp_path / "run" / "checkpoints" / "release.safetensors")
    simulate(validate(Experiment, REJECTED, "test"), None, tmp_path / "run", quiet=True)
    assert [line["status"] for line in _lines(tmp_path / "run")] == ["rejected", "rejected"]
    again = load_file(tmp_path / "run" / "checkpoints" / "release.safetensors")
    assert all(torch.equal(drawn[name], again[name]) for name in drawn)
