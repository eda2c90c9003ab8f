"""What is brought from outside ends at the same bytes on every engine, after a break too, and its files are in the run's record."""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from flower_runs import FlowerRuns

from fedvision.errors import DataError
from fedvision.experiment import load
from fedvision.tracking.compare import compare
from fedvision.tracking.environment import differences, environment
from fedvision.tracking.folder import RunFolder
from fedvision.tracking.report import draw_report
from simulations.run import simulate

FEDVISION = Path(sys.executable).with_name("fedvision")
EXAMPLES = Path(__file__).parents[2] / "examples"
BROUGHT = {  # all five at once
    "data": {"dataset": "brought", "source": "own_data.py:shapes", "options": {"hands": 4, "drawings": 24}},
    "partition": {"scheme": "brought", "source": "own_partition.py:ring", "options": {"reach": 1}, "sites": 4},
    "federation": {"rounds": 2},
    "strategy": {
        "name": "brought", "source": "own_strategy.py:nesterov", "client": "own_strategy.py:normalised",
        "options": {"beta": 0.5, "length": 2.0},
    },
    "task": "own_task.py:Focal",
    "model": {"name": "own_model.py:separable", "options": {"width": 4}},
    "tracking": {"mlflow": None, "report": False},
}  # fmt: skip


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A config that brings all five, with the files beside it."""
    folder = tmp_path / "brought"
    folder.mkdir()
    for name in ("own_data", "own_model", "own_task", "own_strategy", "own_partition"):
        shutil.copy(EXAMPLES / f"{name}.py", folder)
    (folder / "everything.yaml").write_text(yaml.safe_dump(BROUGHT))
    return folder / "everything.yaml"


def trained(config: Path, out: Path, *settings: str) -> dict[str, Any]:
    return simulate(load(config, list(settings)), out, None, quiet=True)[1]


@pytest.mark.ray
@pytest.mark.usefixtures("a_ray")
def test_all_that_is_brought_ends_at_the_same_bytes_inline_and_on_ray(everything: Path, tmp_path: Path) -> None:
    inline = trained(everything, tmp_path / "inline")
    ray = trained(everything, tmp_path / "ray", "engine.name=ray", "engine.workers=2")
    assert inline["rounds"] == 2 and inline["model_sha256"] == ray["model_sha256"]


@pytest.mark.flower
def test_all_that_is_brought_ends_at_the_same_bytes_on_flower(on_flower: FlowerRuns, everything: Path, tmp_path: Path) -> None:
    inline = trained(everything, tmp_path / "inline")
    flower = on_flower.run(everything, tmp_path / "flower")
    assert inline["model_sha256"] == flower["model_sha256"]
    assert not any(record["declined"] for record in RunFolder(tmp_path / "flower").rounds())


def test_a_run_records_the_hash_of_each_file_that_it_brings_and_says_when_one_changed(everything: Path, tmp_path: Path) -> None:
    folder, _ = simulate(load(everything), tmp_path / "run", None, quiet=True)
    recorded = folder.environment()["brought"]
    network = everything.parent / "own_model.py"
    assert set(recorded) == {"data.source", "partition.source", "strategy.source", "strategy.client", "task", "model.name"}
    assert recorded["model.name"] == hashlib.sha256(network.read_bytes()).hexdigest()
    before = folder.environment()
    network.write_text(network.read_text() + "\n# another thought\n")
    said = differences(before, environment(folder.experiment()))
    assert len(said) == 1 and said[0].startswith(f"the file that model.name names: {recorded['model.name'][:12]}… and ")
    page = draw_report(folder.path).read_text()
    assert "own_model.py, which model.name names, has changed since this run" in page.replace("Own_model", "own_model")
    assert "own_strategy.py:nesterov trained the model own_model.py:separable on own_data.py:shapes" in page
    assert folder.partition()["fingerprint"] in page and recorded["task"] in page


def test_a_resumed_run_of_brought_code_ends_at_the_bytes_of_an_uninterrupted_one(everything: Path, tmp_path: Path) -> None:
    whole = trained(everything, tmp_path / "whole")
    folder, _ = simulate(load(everything), tmp_path / "run", None, quiet=True)
    (folder.path / "checkpoints" / "round-2.safetensors").unlink()  # as if it had ended after the first round
    experiment = load(folder.path / "config.yaml")
    assert simulate(experiment, None, folder.path, quiet=True)[1]["model_sha256"] == whole["model_sha256"]


def test_images_that_changed_between_two_runs_are_said_by_compare_and_stop_a_resumed_run(tmp_path: Path) -> None:
    data = tmp_path / "data.py"
    data.write_text((EXAMPLES / "own_data.py").read_text())
    config = tmp_path / "own.yaml"
    config.write_text((EXAMPLES / "own_data.yaml").read_text().replace("own_data.py", "data.py"))
    short = ["federation.rounds=1", "tracking.mlflow=null", "tracking.report=false"]
    first, _ = simulate(load(config, short), tmp_path / "first", None, quiet=True)
    data.write_text(data.read_text().replace("rng.normal(20, 8", "rng.normal(30, 8"))
    second, _ = simulate(load(config, short), tmp_path / "second", None, quiet=True)
    said = compare([first.path, second.path], tmp_path / "page.html").warnings
    assert any(text.startswith("The data set brought changed between first and second: its SHA-256 was ") for text in said)
    with pytest.raises(DataError, match="partitions another data set"):
        simulate(load(first.path / "config.yaml"), None, first.path, quiet=True)
