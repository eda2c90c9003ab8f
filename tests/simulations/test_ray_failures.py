"""What cannot be had from Ray is one clear error, and nothing is left running."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_runs import CPUS, digits, workers

from fedvision.errors import ConfigError, DataError, EngineError
from simulations.ray_cluster import check_room, join


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}


@pytest.mark.parametrize(
    ("asked", "share", "nodes"),
    [
        (3, 0.0, [node(2), node(1)]),
        (4, 0.5, [node(8, gpus=2)]),
        (2, 0.6, [node(8, gpus=2)]),
        (3, 2.0, [node(8, gpus=4), node(2, gpus=3)]),
        (10, 0.1, [node(16, gpus=1)]),
    ],
)
def test_workers_that_fit_are_let_through(asked: int, share: float, nodes: list[Any]) -> None:
    check_room(digits(workers(asked, gpus_per_worker=share)).engine, nodes)


@pytest.mark.parametrize(
    ("asked", "share", "nodes", "room"),
    [
        (4, 0.0, [node(2), node(1), node(64, alive=False)], 3),
        (5, 0.5, [node(8, gpus=2)], 4),
        (3, 0.6, [node(8, gpus=2)], 2),  # 0.4 of each GPU stay free, and no worker runs on two halves
        (4, 2.0, [node(8, gpus=4), node(2, gpus=3)], 3),
        (1, 0.5, [node(8)], 0),
    ],
)
def test_workers_that_ray_would_wait_for_for_ever_are_refused(asked: int, share: float, nodes: list[Any], room: int) -> None:
    with pytest.raises(EngineError, match=rf"engine.workers = {asked} .* room for {room} such workers; ask for fewer"):
        check_room(digits(workers(asked, gpus_per_worker=share)).engine, nodes)


def test_one_and_a_half_gpus_are_refused() -> None:
    with pytest.raises(EngineError, match=r"engine.gpus_per_worker = 1.5: above 1, Ray gives whole GPUs only"):
        join(digits(workers(1, gpus_per_worker=1.5)).engine)


@pytest.mark.ray
def test_two_workers_that_share_a_gpu_end_at_the_bytes_of_a_loop_and_a_third_finds_no_room(a_ray: Any, run: Callable[..., Any]) -> None:
    """Ray deals out the shares of a GPU that it is told of; where torch finds none, device auto is the CPU."""
    _, loop = run("loop", {"name": "inline"})
    _, shared = run("shared", workers(2, gpus_per_worker=0.5))
    assert shared["model_sha256"] == loop["model_sha256"]
    with pytest.raises(EngineError, match=r"engine.workers = 3 with one CPU and 0.5 of a GPU each: .* room for 2 such workers"):
        run("three", workers(3, gpus_per_worker=0.5))


@pytest.mark.ray
def test_more_workers_than_the_cluster_has_are_refused_at_once(a_ray: Any, run: Callable[..., Any]) -> None:
    with pytest.raises(EngineError, match=rf"engine.workers = {CPUS + 1} with one CPU each: Ray has {CPUS} CPUs"):
        run("many", workers(CPUS + 1))


@pytest.mark.ray
def test_flower_is_refused_where_it_would_shut_down_a_ray_that_this_process_has_joined(a_ray: Any, run: Callable[..., Any]) -> None:
    with pytest.raises(EngineError, match=r"engine.name = flower: this process has joined Ray already.*ray.shutdown\(\) first"):
        run("flower", {"name": "flower"})
    assert a_ray.is_initialized()


@pytest.mark.ray
def test_what_a_worker_meets_while_it_is_set_up_is_raised_here(a_ray: Any, run: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = tmp_path / "start.safetensors"
    experiment = {"model": {"name": "mlp", "width": 8, "weights": str(weights)}}
    from fedvision.models import build

    save_file(build(digits({"name": "inline"}, model={"name": "mlp", "width": 8}), (1, 8, 8), 10).state_dict(), weights)
    from fedvision.data.federation import open_federated
    from simulations.ray_exchange import run_on_ray
    from simulations.setting import Setting

    setting = Setting(digits(workers(2), **experiment), open_federated(digits(workers(2))), tmp_path / "states", print)
    weights.unlink()
    with pytest.raises(ConfigError, match=r"^model.weights = '.*start.safetensors' cannot be read") as caught:
        run_on_ray(setting, lambda exchange: None)
    assert "Traceback" not in str(caught.value)


@pytest.mark.ray
def test_other_data_at_a_worker_than_at_the_coordinator_is_refused(a_ray: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    from fedvision.data.federation import Federated, open_federated
    from simulations.ray_exchange import run_on_ray
    from simulations.setting import Setting

    data = open_federated(digits(workers(1)))
    other = Federated(data.dataset, replace(data.partition, fingerprint="0" * 64))
    with pytest.raises(DataError, match="a Ray worker finds other data than the coordinator: digits"):
        run_on_ray(Setting(digits(workers(1)), other, tmp_path, print), lambda exchange: None)


def command(out: Path, *settings: str) -> list[str]:
    """The command line of a run that would take minutes."""
    import yaml

    config = out.with_suffix(".yaml")
    values = digits({"name": "inline"}).model_dump() | {"federation": {"rounds": 20000}}
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    words = [sys.executable, "-c", "from fedvision.cli import main; main()", "simulate", str(config), "--out", str(out), "--engine", "ray"]
    return [*words, *(word for setting in settings for word in ("--set", setting))]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("ray://head:10001", "give host:port"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
    ],
)
def test_an_address_without_a_cluster_is_one_message(tmp_path: Path, address: str, says: str) -> None:
    done = subprocess.run(command(tmp_path / "run", f"engine.address={address}"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"engine.address = {address!r}".replace("'", "") in done.stderr.replace("'", "") and says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_nothing_of_ray_is_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    """A run of its own Ray, ended in the middle: the processes and the session's folder go with it."""
    out = tmp_path / "run"
    environment = os.environ | {"TMPDIR": str(short := Path("/tmp") / f"fvt{os.getpid()}")}
    short.mkdir()
    process = subprocess.Popen(command(out, "engine.workers=1"), env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _until(lambda: (out / "rounds.jsonl").exists() and (out / "rounds.jsonl").read_text().count("\n") >= 2, 240)
        of_ray = psutil.Process(process.pid).children(recursive=True)
        assert len(of_ray) >= 3  # the head, the node, the worker
        process.send_signal(how)
        said = process.communicate(timeout=120)[1]
        _until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in of_ray), 90)
        if how == signal.SIGINT:
            assert process.returncode != 0 and "Traceback" not in said
            assert json.loads((out / "summary.json").read_text())["status"] == "interrupted"
            assert not list(short.glob("fv-ray-*"))
    finally:
        process.kill()
        subprocess.run(["rm", "-rf", str(short)], check=True)


def _until(true: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.05)
