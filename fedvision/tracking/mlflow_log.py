"""What MLflow is told of a run: parameters, metrics per round, artefacts.  The only import of mlflow in the project.

Importing mlflow and making its SQLite store take seconds of Python, which a thread would take from the training that
runs beside it.  So a process of its own does it: this file, run as a program of low priority, fed through a pipe with
a line of JSON per round.  When the run dies, the pipe closes, and the MLflow run is marked as killed.  A server that
is down ends no run: it is said once and noted, everything is kept back, and offered once more at the end.
"""

import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from fedvision.tracking.figures import flat
from fedvision.tracking.folder import RunFolder, write_atomically

STATUSES = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
IDENTITY = "mlflow.json"  # in the run folder: which MLflow run this is, so that a resumed run goes on with it
PER_CALL = 100  # parameters that one call may hold
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a server that is down is found out in seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


class MlflowLog:
    """Tells MLflow about one run, without ever making it wait.

    uri: "local" = an SQLite store beside the run folders, with artefacts beside it; else a tracking server's URI.
    say: called once, from another thread, with a sentence when MLflow does not take the records.
    notes: such sentences, for the run's summary; [] where all is recorded.
    """

    def __init__(self, folder: RunFolder, uri: str = "local", say: Callable[[str], None] = print):
        self._say = say
        self._where = without_password(uri)
        self.notes: list[str] = []
        self._ended = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process that writes it)
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fedvision.tracking.mlflow_log"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | QUIET | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the run, which then says how it ended
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()
        summary = folder.summary()
        self._tell(
            do="start",
            uri=uri,
            folder=str(folder.path.resolve()),
            experiment=summary["name"],
            tags={
                "fedvision.run": summary["run"],
                "fedvision.kind": summary["kind"],
                "fedvision.folder": str(folder.path.resolve()),
            },
        )

    def log_params(self, config: Mapping[str, Any]) -> None:
        """The config, nested mappings as "a.b"; a resumed run keeps those that it has."""
        self._tell(do="params", params={key: str(value) for key, value in flat(config).items()})

    def log_round(self, record: Mapping[str, Any]) -> None:
        """The figures of a line of rounds.jsonl; a resumed run logs no round twice."""
        self._tell(do="round", round=record["round"], metrics=round_metrics(record))

    def finish(
        self,
        status: str,
        artefacts: Sequence[Path] = (),
        metrics: Mapping[str, float] | None = None,
        timeout: float = 120.0,
    ) -> list[str]:
        """End the MLflow run (completed, failed or interrupted) with its files and final metrics; returns `notes`.

        timeout: seconds that it may take, most of them for copying the artefacts.
        """
        if not self._ended:
            final = _numbers({f"final/{name}": value for name, value in (metrics or {}).items()})
            self._tell(
                do="finish",
                status=STATUSES[status],
                artefacts=[str(path.resolve()) for path in artefacts],
                metrics=final,
            )
            self._ended = True
            self._stop(timeout)
        return self.notes

    def _stop(self, timeout: float) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself: its exit code tells below
            self._stdin.close()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._note(f"MLflow at {self._where} did not take everything within {timeout:g} s; the run folder holds it")
            return
        self._listener.join()
        if code and not self.notes:
            self._note(f"MLflow's logger ended with {self._last_error()}; the run folder holds everything")

    def _tell(self, **command: Any) -> None:
        try:
            self._stdin.write(json.dumps(command).encode() + b"\n")
            self._stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: closed, after it was broken once
            if not self._ended and not self.notes:
                self._note(f"MLflow's logger ended with {self._last_error()}; the run goes on, and its folder holds everything")

    def _listen(self, stdout: IO[bytes]) -> None:
        for line in stdout:
            told = json.loads(line)
            if "problem" in told:
                self._note(
                    f"MLflow at {self._where} does not take this run's records ({told['problem']}); "
                    "the run goes on, and its folder holds everything"
                )
            else:
                self.notes.clear()
                self._say(f"MLflow at {self._where} answered again and has taken everything")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self._say(text)

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.poll()}"


def without_password(uri: str) -> str:
    """A URI as it may be shown.

    >>> without_password("https://me:secret@tracking.example:5000/x")
    'https://tracking.example:5000/x'
    """
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def round_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """A round's figures by name, without those of single sites, which would be thousands.

    >>> round_metrics({"answered": ["a", "b"], "evaluation": {"server": {"test": {"accuracy": 1.0}}}})
    {'answered': 2.0, 'server/test/accuracy': 1.0}
    """
    counts = {name: len(record[name]) for name in ("asked", "answered", "declined", "refused", "missing") if name in record}
    train = {f"train/{name}": value for name, value in (record.get("train") or {}).items()}
    single = {name: record.get(name) for name in ("update_norm", "simulated_seconds")}
    seconds = {f"seconds/{name}": value for name, value in (record.get("seconds") or {}).items()}
    evaluation = record.get("evaluation") or {}
    measured = {
        f"{where}/{part}/{name}": value
        for where in ("server", "sites", "shared")
        for part, metrics in (evaluation.get(where) or {}).items()
        if part != "per_site"
        for name, value in (metrics or {}).items()
    }
    return _numbers(counts | train | single | seconds | measured)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers, under names that MLflow takes."""
    finite = {name: float(value) for name, value in values.items() if isinstance(value, int | float) and abs(value) < float("inf")}
    return {re.sub(r"[^\w\-. /]", "_", name): value for name, value in finite.items()}


# ------------------------------------------------------------------------------- the other process, which knows mlflow


class _Store:
    """The MLflow run that the commands go to."""

    def __init__(self) -> None:
        self._client: Any = None  # mlflow's MlflowClient
        self._run = ""
        self._is_new = True
        self._last_round = -1

    def obey(self, command: Mapping[str, Any]) -> None:
        """Do what one line says."""
        {"start": self._start, "params": self._params, "round": self._round, "finish": self._finish}[command["do"]](command)

    def _start(self, command: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        folder = Path(command["folder"])
        if command["uri"] == "local":
            with _alone(folder.parent / "mlflow.db.lock"):  # two runs that make the store's tables at once break each other
                self._client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
                experiment = self._experiment(command["experiment"], (folder.parent / "mlartifacts").as_uri())
        else:
            self._client = MlflowClient(tracking_uri=command["uri"])
            experiment = self._experiment(command["experiment"], None)
        identity = {"uri": without_password(command["uri"]), "experiment": experiment}
        self._run = self._known_run(folder, identity) or self._new_run(folder, identity, command["tags"])

    def _experiment(self, name: str, artefacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artefacts))
            except MlflowException:  # another run made it in the meantime, or it cannot be made: then the next line tells
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _known_run(self, folder: Path, identity: Mapping[str, str]) -> str | None:
        from mlflow.exceptions import MlflowException

        kept = RunFolder(folder).json(IDENTITY) or {}
        if {key: kept.get(key) for key in identity} != dict(identity):
            return None
        try:
            self._client.update_run(kept["run_id"], status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # it was deleted there: begin a new one
        history = self._client.get_metric_history(kept["run_id"], "rounds")
        self._is_new, self._last_round = False, max((metric.step for metric in history), default=-1)
        return str(kept["run_id"])

    def _new_run(self, folder: Path, identity: dict[str, str], tags: Mapping[str, str]) -> str:
        run = self._client.create_run(identity["experiment"], run_name=folder.name, tags=dict(tags))
        write_atomically(folder / IDENTITY, json.dumps(identity | {"run_id": run.info.run_id}).encode())
        return str(run.info.run_id)

    def _params(self, command: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        if not self._is_new:
            return
        params = [Param(key, value[:6000]) for key, value in command["params"].items()]
        for start in range(0, len(params), PER_CALL):
            self._client.log_batch(self._run, params=params[start : start + PER_CALL])

    def _round(self, command: Mapping[str, Any]) -> None:
        if command["round"] > self._last_round:
            self._metrics(command["metrics"] | {"rounds": command["round"] + 1}, command["round"])

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def _finish(self, command: Mapping[str, Any]) -> None:
        if command.get("metrics"):
            self._metrics(command["metrics"], max(0, self._last_round))
        for artefact in map(Path, command.get("artefacts", ())):
            if artefact.is_dir():
                self._client.log_artifacts(self._run, str(artefact), artefact.name)
            else:
                self._client.log_artifact(self._run, str(artefact))
        self._client.set_terminated(self._run, command["status"])


class _alone:
    """Holds a lock file: one process at a time is inside."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        import fcntl

        self._file = open(self._path, "w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _commands(lines: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The commands as they come, read by a thread, so that who sends them never waits; at last always a "finish"."""
    arrived: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in lines:
            if line.endswith(b"\n"):  # a sender that is killed may leave half a line
                arrived.put(json.loads(line))
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (command := arrived.get()) is not None:
        yield command
        if command["do"] == "finish":
            return
    yield {"do": "finish", "status": "KILLED"}


def _serve(lines: IO[bytes], replies: IO[str]) -> None:
    """Do all commands; on a failure say so once, keep the rest back, and try again at the end."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    store, waiting, secret, down = _Store(), [], "", False
    for command in _commands(lines):
        waiting.append(command)
        secret = urlsplit(command.get("uri", "")).netloc.rpartition("@")[0] or secret
        if down and command["do"] != "finish":
            continue
        try:
            while waiting:
                store.obey(waiting[0])
                waiting.pop(0)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if not down:
                reason = _reason(error)
                print(
                    json.dumps({"problem": reason.replace(f"{secret}@", "") if secret else reason}),
                    file=replies,
                    flush=True,
                )
            down = True
        else:
            if down:
                print(json.dumps({"recovered": True}), file=replies, flush=True)


def _reason(error: BaseException) -> str:
    """What went wrong, in a line: the system's own word ("Connection refused") where it is at the bottom of it."""
    bottom: BaseException | None = error
    while bottom is not None:
        if isinstance(bottom, OSError) and bottom.strerror:
            return bottom.strerror
        bottom = bottom.__cause__ or bottom.__context__
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def main() -> None:
    """Read commands from stdin until "finish" or the end."""
    import logging

    os.nice(5)  # training goes first
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what mlflow prints is no reply
    logging.disable(logging.WARNING)
    _serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
