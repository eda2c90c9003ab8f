"""Flower's runtime, for real: each test starts it once, in a process of its own, as a user does."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from flwr.cli.build import build_fab_from_files

from fedvision.experiment import load
from simulations.flower import _backend
from simulations.run import simulate

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CONFIG = """
name: tiny
data: {dataset: digits}
partition: {scheme: iid, sites: 3}
federation: {rounds: 2, on_missing: stop}
strategy: {name: scaffold}
model: {name: mlp, width: 8}
training: {learning_rate: 0.1, batch_size: 32}
evaluation: {server: {test: 0.2}}
tracking: {mlflow: null, report: false}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **more}


def on_flower(config: Path, out: Path, *settings: str) -> "subprocess.Popen[str]":
    command = [BIN / "fedvision", "simulate", config, "--engine", "flower", "--out", out, "--json"]
    given = [word for setting in settings for word in ("--set", setting)]
    elsewhere = environment(RAY_ADDRESS="127.0.0.1:1")  # a Ray that others have: Flower's must be its own
    return subprocess.Popen(
        [*command, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=elsewhere, start_new_session=True
    )


def left_of(session: int) -> list[str]:
    """What still runs of a session, Ray's processes among it, after a moment to end."""
    for _ in range(50):
        left = [" ".join(p.cmdline()) for p in psutil.process_iter() if _in(p, session)]
        if not left:
            return []
        time.sleep(0.1)
    return left


def _in(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


@pytest.mark.flower
def test_flowers_runtime_ends_at_the_bytes_of_a_loop_and_leaves_the_screen_and_the_machine_clean(config: Path, tmp_path: Path) -> None:
    process = on_flower(config, tmp_path / "flower", "engine.workers=2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    _, inline = simulate(load(config), tmp_path / "loop", None, quiet=True)
    said = json.loads(out)
    assert said["model_sha256"] == inline["model_sha256"] and said["metrics"] == inline["metrics"]
    assert not re.search("DEPRECATED|WARNING|Warning|INFO|Tip:", err)
    assert "run_simulation" in (tmp_path / "flower" / "run.log").read_text()
    assert left_of(process.pid) == []


@pytest.mark.flower
def test_ctrl_c_ends_with_130_says_how_to_go_on_and_leaves_no_process(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "flower"
    process = on_flower(config, out, "federation.rounds=5000")
    try:
        until = time.monotonic() + 300
        while not (out / "rounds.jsonl").exists() or not (out / "rounds.jsonl").read_text():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # the whole group, as a terminal does
        _, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and "Traceback" not in err and f"--resume {out}" in err
    assert json.loads((out / "summary.json").read_text())["status"] == "interrupted"
    assert left_of(process.pid) == []


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def flower_home(tmp_path: Path) -> dict[str, str]:
    """An environment for `flwr` without network, home, SuperLink or Ray of anybody else."""
    ports = [free_port(), free_port()]
    return environment(
        FLWR_TELEMETRY_ENABLED="0",
        FLWR_DISABLE_UPDATE_CHECK="1",
        FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ADDRESS="local",
        FLWR_HOME=str(tmp_path / "home"),
        FLWR_LOCAL_SUPERLINK_HTTP_API_PORT=ports[0],
        FLWR_LOCAL_CONTROL_API_PORT=ports[1],
    )


def end_superlink(port: str) -> None:
    """`flwr run` leaves one in the background: end it, and what it started."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any("flower-superlink" in word for word in words) and any(word.endswith(port) for word in words):
            family = [process, *process.children(recursive=True)]
            for member in family:
                member.terminate()
            _, stubborn = psutil.wait_procs(family, timeout=10)
            for member in stubborn:
                member.kill()


PACKAGES = ("fedvision", "privacy", "clients", "server", "simulations")


def test_the_bundle_holds_all_of_our_code_and_configs() -> None:
    ours = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")] + list((ROOT / "configs").glob("*.yaml"))
    files = {file.relative_to(ROOT).as_posix(): file for file in [*ours, ROOT / "pyproject.toml"]}
    bundle, _ = build_fab_from_files(files)
    assert len(bundle) < 10 << 20
    with zipfile.ZipFile(io.BytesIO(bundle)) as content:
        assert set(files) <= set(content.namelist())


@pytest.mark.flower
def test_flwr_run_runs_the_checkouts_quickstart(flower_home: dict[str, str], tmp_path: Path) -> None:
    """On a copy without what git ignores: Flower walks through all of a folder before it looks what to leave out."""
    out, checkout = tmp_path / "run", tmp_path / "fedvision"
    for part in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    settings = "data.dataset=digits,federation.rounds=1,federation.cohort=2,partition.sites=2,tracking.mlflow=null"
    command = [BIN / "flwr", "run", ".", "--stream", "--federation-config", "num-supernodes=2 client-resources-num-cpus=1"]
    try:
        for _ in range(4):  # Flower gives the SuperLink that it starts 15 s, which a busy machine may not have
            done = subprocess.run(
                [*command, "--run-config", f'set="{settings}" out="{out}"'],
                cwd=checkout, env=flower_home, capture_output=True, text=True, timeout=300,
            )  # fmt: skip
            if "Failed to start local SuperLink" not in done.stdout + done.stderr:
                break
    finally:
        end_superlink(flower_home["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"])
    assert f"run folder {out}, model" in done.stdout, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["status"], summary["rounds"], len(summary["sites"])) == ("completed", 1, 2)


def test_flowers_workers_are_asked_for_with_the_share_of_a_gpu_that_rays_get() -> None:
    backend = _backend(3, 0.5)
    assert backend["client_resources"] == {"num_cpus": 1, "num_gpus": 0.5} and backend["init_args"]["num_cpus"] == 3
