"""A simulation that is killed at any moment and resumed ends at the bytes of one that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from clients.state import SiteStates
from fedvision.types import SiteId
from server.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]


def test_runs_that_are_killed_and_resumed_end_at_the_bytes_of_undisturbed_ones(tmp_path: Path) -> None:
    """What benchmarks/soak_kill.py does at length, once for each kind of state that lives with the sites."""
    out = tmp_path / "soak.json"
    command = [
        sys.executable,
        ROOT / "benchmarks" / "soak_kill.py",
        "--kills",
        "1",
        "--seed",
        "0",
        "--cases",
        "scaffold",
        "fedbn",
        "--out",
        out,
    ]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    cases = json.loads(out.read_text())["cases"]
    assert set(cases) == {"scaffold", "fedbn"}
    for said in cases.values():
        (trial,) = said["trials"]
        assert trial["same"] and trial["killed"]


def test_ctrl_c_ends_a_run_cleanly_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable,
        "-c",
        "from fedvision.cli import main; main()",
        "simulate",
        ROOT / "configs" / "digits_iid.yaml",
        "--out",
        run,
    ]
    settings = ["--set", "federation.rounds=100000", "--set", "tracking.mlflow=null", "--json"]
    process = subprocess.Popen(
        [*command, *settings], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    ends = time.monotonic() + 90
    while time.monotonic() < ends and not ((run / "rounds.jsonl").exists() and (run / "rounds.jsonl").read_bytes().count(b"\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert f"fedvision simulate --resume {run}" in err and "Traceback" not in err
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert (run / "report.html").exists()


def test_what_a_kill_in_the_middle_of_a_checkpoint_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".round-3.safetensors.x1y2z3").write_bytes(b"torn")
    (tmp_path / "round-2.safetensors").write_bytes(b"whole")
    Checkpoints(tmp_path, keep=3)
    assert [path.name for path in tmp_path.iterdir()] == ["round-2.safetensors"]


def test_a_state_is_only_forgotten_when_the_coordinator_can_not_go_back_behind_it(tmp_path: Path) -> None:
    states, site = SiteStates(tmp_path), SiteId("a")
    for number in (3, 5):
        states.keep(site, number, {"x": torch.tensor([float(number)])})
    assert states.current(site, 5)["x"].item() == 5  # the evaluation of round 5, whose checkpoint is not written yet
    assert states.current(site, 3)["x"].item() == 3  # a crash: the coordinator is back at round 3
    states.forget_before(site, 5)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["5.safetensors"]
    states.forget_before(site, None)
    assert states.current(site, None) == {}
