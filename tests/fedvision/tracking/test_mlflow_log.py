"""MLflow is told everything of a run, and can neither delay nor end it."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

from finished_runs import experiment_of, record_of

from fedvision.tracking.folder import RunFolder
from fedvision.tracking.mlflow_log import MlflowLog

SITES = ["a", "b", "c", "d", "e", "f", "g", "h"]


def stored(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of the local store, read without mlflow, which takes seconds to import."""
    with contextlib.closing(sqlite3.connect(folder / "runs" / "mlflow.db")) as store:
        return store.execute(query).fetchall()


def test_a_run_is_logged_locally_resumed_as_the_same_and_marked_when_it_is_killed(tmp_path: Path) -> None:
    folder = RunFolder.create(experiment_of(8, 4), "simulate", tmp_path / "runs" / "first")
    said: list[str] = []

    began = time.monotonic()
    log = MlflowLog(folder, "local", said.append)
    log.log_params(folder.experiment().model_dump())
    for number in (0, 1):
        log.log_round(record_of(number, 4, SITES, 4))
    assert time.monotonic() - began < 1.0  # mlflow alone takes longer to import
    log._stdin.close()  # what the system does when a run is killed
    log._process.wait(60)

    identity = json.loads((folder.path / "mlflow.json").read_text())
    assert stored(tmp_path, "SELECT run_uuid, status FROM runs") == [(identity["run_id"], "KILLED")]

    again = MlflowLog(folder, "local", said.append)
    again.log_params({"seed": 12345})  # a resumed run keeps its parameters
    for number in (1, 2, 3):
        again.log_round(record_of(number, 4, SITES, 4))
    assert again.finish("completed", [folder.path / "config.yaml"], {"accuracy": 0.75}) == []
    assert again.finish("completed") == [] and said == []

    assert stored(tmp_path, "SELECT run_uuid, status, name FROM runs") == [(identity["run_id"], "FINISHED", "first")]
    assert stored(tmp_path, "SELECT value FROM tags WHERE key = 'fedvision.run'") == [(folder.run,)]
    assert stored(tmp_path, "SELECT value FROM params WHERE key = 'seed'") == [("0",)]
    assert stored(tmp_path, "SELECT value FROM params WHERE key = 'partition.alpha'") == [("0.5",)]
    assert stored(tmp_path, "SELECT value FROM metrics WHERE key = 'final/accuracy'") == [(0.75,)]
    history = stored(tmp_path, "SELECT step, value FROM metrics WHERE key = 'server/test/accuracy' ORDER BY step")
    expected = [record_of(number, 4, SITES, 4)["evaluation"]["server"]["test"]["accuracy"] for number in range(4)]
    assert history == list(enumerate(expected))
    (kept,) = (tmp_path / "runs" / "mlartifacts").rglob("config.yaml")
    assert kept.read_bytes() == (folder.path / "config.yaml").read_bytes()


def test_a_server_that_is_down_is_said_once_noted_and_ends_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        uri = f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}"
        folder = RunFolder.create(experiment_of(8, 4), "simulate", tmp_path / "run")
        said: list[str] = []
        log = MlflowLog(folder, uri, said.append)
        for number in range(3):
            log.log_round(record_of(number, 4, SITES, 4))
        notes = log.finish("completed")
    assert len(notes) == 1 and notes == said
    assert "does not take this run's records (Connection refused)" in notes[0] and "the run goes on" in notes[0]
    assert "secret" not in notes[0]


def test_a_logger_that_dies_is_noted_and_ends_nothing(tmp_path: Path) -> None:
    folder = RunFolder.create(experiment_of(8, 4), "simulate", tmp_path / "run")
    said: list[str] = []
    log = MlflowLog(folder, "local", said.append)
    os.kill(log._process.pid, signal.SIGKILL)
    log._process.wait()
    for number in range(3):
        log.log_round(record_of(number, 4, SITES, 4))
    notes = log.finish("completed")
    assert len(said) == 1 and notes == said and "MLflow's logger ended with exit code -9" in notes[0]
