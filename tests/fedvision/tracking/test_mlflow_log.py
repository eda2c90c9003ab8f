"""MLflow is told everything of a run, and can neither delay nor end it."""

import json
import os
import signal
import socket
import time
from pathlib import Path

from conftest import experiment_of, record_of

from fedvision.tracking.folder import RunFolder
from fedvision.tracking.mlflow_log import MlflowLog

SITES = ["a", "b", "c", "d", "e", "f", "g", "h"]


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

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    identity = json.loads((folder.path / "mlflow.json").read_text())
    assert client.get_run(identity["run_id"]).info.status == "KILLED"

    again = MlflowLog(folder, "local", said.append)
    again.log_params({"seed": 12345})  # a resumed run keeps its parameters
    for number in (1, 2, 3):
        again.log_round(record_of(number, 4, SITES, 4))
    assert again.finish("completed", [folder.path / "config.yaml"], {"accuracy": 0.75}) == []
    assert again.finish("completed") == [] and said == []

    experiment = client.get_experiment_by_name("mnist-dirichlet")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "first"
    assert run.data.tags["fedvision.run"] == folder.run
    assert run.data.params["seed"] == "0" and run.data.params["partition.alpha"] == "0.5"
    assert run.data.metrics["final/accuracy"] == 0.75
    history = client.get_metric_history(run.info.run_id, "server/test/accuracy")
    expected = [record_of(number, 4, SITES, 4)["evaluation"]["server"]["test"]["accuracy"] for number in range(4)]
    assert [(metric.step, metric.value) for metric in history] == list(enumerate(expected))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
    assert (tmp_path / "runs" / "mlartifacts").is_dir()


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
    assert "does not take this run's records" in notes[0] and "the run goes on" in notes[0]
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
