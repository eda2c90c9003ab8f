"""A sweep: checked before it begins, resumable after a kill, and its means are those worked out from its runs."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedvision.errors import ConfigError, FedvisionError, RunFolderError
from simulations.sweep import Sweep, grid
from simulations.sweep_command import sweep
from simulations.sweep_runs import run_all, run_one
from simulations.sweep_table import Spread, draw, outcomes, points, warnings, write_tables

CONFIG = """
name: small
data: {dataset: digits}
partition: {scheme: dirichlet, sites: 4, alpha: 1.0}
federation: {rounds: 2}
model: {name: mlp, width: 8}
training: {batch_size: 16, epochs: null, steps: 2}
tracking: {mlflow: null, report: false}
"""
OVER = ["training.learning_rate=0.05,0.5"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


def swept(config: Path, out: Path, jobs: int = 1, over: list[str] = OVER, seeds: int = 2) -> Sweep:
    begun = Sweep.create(config, [], over, seeds, None, out)
    run_all(begun, jobs, lambda run, failed: None)
    return begun


def hashes(begun: Sweep) -> dict[str, str | None]:
    return {outcome.run.folder: outcome.model_sha256 for outcome in outcomes(begun)}


# ------------------------------------------------------------------------------------------------------------ the grid


def test_commas_inside_brackets_and_quotes_do_not_part_values() -> None:
    assert grid(["a.b=[1, 2],null,{x: 1, y: 2}", "name='a,b',c"]) == {"a.b": ["[1, 2]", "null", "{x: 1, y: 2}"], "name": ["'a,b'", "c"]}


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (["training.learning_rate"], "write it as key=a,b"),
        (["training.learning_rate=0.1,,1"], "write it as key=a,b"),
        (["seed=1,2"], "seeds are swept by --seeds N"),
        (["a=1", "a=2"], "--over a is given twice"),
        (["a=1,1"], "has the value 1 twice"),
    ],
)
def test_a_grid_that_is_none_is_refused_with_the_way_out(over: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid(over)
    assert words in str(caught.value)


def test_every_point_that_cannot_run_is_named_before_anything_is_written(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Sweep.create(config, [], ["training.learning_rate=0.1,-1", "strategy.name=fedavg,fedbn"], 2, None, tmp_path / "out")
    said = str(caught.value).splitlines()
    assert said[0].startswith("learning_rate=0.1, strategy=fedbn: ") and "fedbn needs BatchNorm" in said[0]
    assert said[1].startswith("learning_rate=-1, strategy=fedavg; learning_rate=-1, strategy=fedbn: ")
    assert len(said) == 2 and not (tmp_path / "out").exists()


def test_data_that_is_missing_and_a_metric_that_there_is_not_are_said_before_anything_is_written(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"load=/nowhere\.npz: there is no partition /nowhere\.npz"):
        Sweep.create(config, [], ["partition.load=null,/nowhere.npz"], 1, None, tmp_path / "out")
    with pytest.raises(ConfigError, match="--metric acuracy: allowed are accuracy"):
        Sweep.create(config, [], [], 2, "acuracy", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ the runs and the table


def test_the_table_holds_every_run_and_the_mean_and_spread_of_each_point(config: Path, tmp_path: Path) -> None:
    begun = swept(config, tmp_path / "out")
    found = outcomes(begun)
    assert [(o.run.settings["training.learning_rate"], o.run.seed) for o in found] == [("0.05", 0), ("0.05", 1), ("0.5", 0), ("0.5", 1)]
    assert len(set(hashes(begun).values())) == 4 and all([r for r, _ in o.curve] == [1, 2] for o in found)
    write_tables(begun, found)
    rows = list(csv.DictReader((begun.path / "table.csv").open()))
    assert [row["model_sha256"] for row in rows] == [o.model_sha256 for o in found]
    first = [float(row["accuracy"]) for row in rows[:2]]
    point = next(csv.DictReader((begun.path / "points.csv").open()))
    assert float(point["accuracy mean"]) == pytest.approx(sum(first) / 2)
    assert float(point["accuracy std"]) == pytest.approx(statistics.stdev(first)) and point["runs"] == "2"
    draw(begun, found).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000 and warnings(found) == []


def test_the_spread_is_the_sample_standard_deviation_and_of_one_run_it_is_not_known() -> None:
    assert Spread.of([1.0, 2.0, 3.0, 4.0]) == Spread(4, 2.5, pytest.approx(1.2909944487358056), 1.0, 4.0)
    assert Spread.of([0.5]).std is None and str(Spread.of([0.5])) == "0.5000"


def test_runs_two_at_a_time_end_at_the_bytes_of_one_at_a_time(config: Path, tmp_path: Path) -> None:
    assert hashes(swept(config, tmp_path / "two", jobs=2)) == hashes(swept(config, tmp_path / "one"))


def test_a_run_that_fails_is_named_and_the_others_go_on(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    over = ["conditions.misbehaving={},{site-000: nan}"]
    strict = ["federation.on_missing=stop", "federation.min_replies=4"]
    with pytest.raises(FedvisionError, match=r"1 of 2 runs failed: misbehaving=\{site-000: nan\}, seed 0: failed: round 0: 3 sites"):
        sweep(config, over, settings=strict, out=tmp_path / "out", jobs=1, as_json=True)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run["status"] for run in said["runs"]] == ["completed", "failed"] and len(said["warnings"]) == 1
    assert said["points"][0]["metrics"]["accuracy"]["n"] == 1 and said["points"][1]["metrics"] == {}


def test_a_sweep_killed_in_the_middle_goes_on_where_it_was_and_ends_at_the_same_table(config: Path, tmp_path: Path) -> None:
    settings = ["federation.rounds=12"]
    whole = Sweep.create(config, settings, OVER, 2, None, tmp_path / "whole")
    run_all(whole, 1, lambda run, failed: None)
    script = f"""
from pathlib import Path
from simulations.sweep_command import sweep
sweep(Path({str(config)!r}), {OVER!r}, seeds=2, settings={settings!r}, out=Path({str(tmp_path / "out")!r}), jobs=2)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ) as process:
        until = time.monotonic() + 60
        while not list((tmp_path / "out").glob("runs/*/rounds.jsonl")) and time.monotonic() < until:
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(workers, timeout=60)[1] == [], "its workers see that it is gone"
    begun = Sweep.open(tmp_path / "out")
    before = [outcome.status for outcome in outcomes(begun)]
    assert before.count("completed") < 4
    run_all(begun, 1, lambda run, failed: None)
    assert [outcome.status for outcome in outcomes(begun)] == ["completed"] * 4 and hashes(begun) == hashes(whole)
    assert points(outcomes(begun)) == points(outcomes(whole))


def test_what_is_done_is_not_done_again_and_a_changed_data_set_is_said(config: Path, tmp_path: Path) -> None:
    begun = swept(config, tmp_path / "out", seeds=2, over=[])
    did: list[Any] = []
    run_all(begun, 1, lambda run, failed: did.append(run))
    assert did == []
    record = begun.folder(begun.plan.runs[1]) / "partition.json"
    record.write_text(record.read_text().replace('"fingerprint": "', '"fingerprint": "other'))
    said = warnings(outcomes(begun))
    assert len(said) == 1 and said[0].startswith('data set {"dataset":"digits"') and "changed between the runs" in said[0]


def test_a_brought_file_that_changed_between_two_points_is_said(config: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text("from torch import nn\n\ndef net(shape, outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))\n")
    begun = Sweep.create(config, [f"model={{name: '{net}:net'}}"], ["training.learning_rate=0.1,0.2"], 1, None, tmp_path / "out")
    first, second = begun.plan.runs
    assert run_one(begun.config(first), begun.folder(first)) is None
    net.write_text(net.read_text() + "# changed\n")
    assert run_one(begun.config(second), begun.folder(second)) is None
    said = warnings(outcomes(begun))
    assert len(said) == 1 and f"{net}:net" in said[0] and "changed between the runs, so that they do not compare" in said[0]


def test_a_folder_in_which_another_sweep_is_at_work_is_left_alone(config: Path, tmp_path: Path) -> None:
    begun = Sweep.create(config, [], [], 1, None, tmp_path / "out")
    with begun.alone(), pytest.raises(RunFolderError, match="another `fedvision sweep` is at work"), Sweep.open(begun.path).alone():
        pass
    with pytest.raises(RunFolderError, match=r"is not empty: go on with it with --resume .*out, or give another folder with --out"):
        Sweep.create(config, [], [], 1, None, tmp_path / "out")


def test_the_plan_of_a_begun_sweep_is_fixed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume .* and --over exclude each other"):
        sweep(None, ["a=1"], resume=tmp_path)
    with pytest.raises(RunFolderError, match="holds no sweep"):
        sweep(None, resume=tmp_path)


def test_an_engine_with_workers_of_its_own_takes_one_run_at_a_time(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--jobs 2 and engine\.name = ray exclude each other"):
        sweep(config, settings=["engine.name=ray"], out=tmp_path / "out", jobs=2)
    assert not (tmp_path / "out").exists()
