"""A simulation that is killed at any moment and resumed ends at the bytes of one that nobody disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from clients.state import SiteStates
from fedvision.types import SiteId

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
        "4",
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
        assert trial["same"] and 0 < trial["killed"][0]["rounds_on_record"] < 12


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
