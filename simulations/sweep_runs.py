"""The runs of a sweep: one after the other in this process, or several at once in processes that end with this one."""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from fedvision.errors import ConfigError, EngineError, FedvisionError
from fedvision.experiment import Experiment, load
from fedvision.tracking.folder import RunFolder
from simulations.sweep import Run, Sweep

Say = Callable[[Run, str | None], None]  # (run, what it failed with or None), as each one ends


def at_once(jobs: int | None, experiment: Experiment) -> int:
    """How many runs at a time: --jobs, else one a core and thread; an engine with workers of its own takes one at a time."""
    if experiment.engine.name != "inline":
        if jobs is not None and jobs > 1:
            raise ConfigError(
                f"--jobs {jobs} and engine.name = {experiment.engine.name} exclude each other: it has workers of its own; use inline"
            )
        return 1
    cores = len(os.sched_getaffinity(0))
    return jobs if jobs is not None else max(1, cores // experiment.engine.threads)


def status(folder: Path) -> str:
    """How a run stands: "absent" (not begun, or killed while its folder was made), "running" (begun), or its summary's word."""
    if not (folder / "summary.json").is_file() or not (folder / "config.yaml").is_file():
        return "absent"
    return str(RunFolder.open(folder).summary()["status"])


def run_all(sweep: Sweep, jobs: int, say: Say) -> None:
    """Do what is not done yet.  A run that fails is told and does not stop the others."""
    due = [run for run in sweep.plan.runs if status(sweep.folder(run)) != "completed"]
    if jobs == 1 or len(due) < 2:
        for run in due:
            say(run, run_one(sweep.config(run), sweep.folder(run)))
        return
    waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
    for run in due:
        waiting.put(run)
    crew = [_Worker() for _ in range(min(jobs, len(due)))]
    try:
        _share_out(sweep, waiting, crew, say)
    finally:
        for worker in crew:
            worker.end()


def run_one(config: Path, folder: Path) -> str | None:
    """One run, begun or gone on with; None, or what it failed with."""
    from simulations.run import simulate

    try:
        if status(folder) == "absent":
            shutil.rmtree(folder, ignore_errors=True)
            simulate(load(config), folder, None, quiet=True)
        else:
            simulate(load(config), None, folder, quiet=True)
    except FedvisionError as error:
        return str(error)
    return None


def _share_out(sweep: Sweep, waiting: "queue.SimpleQueue[Run]", crew: Sequence["_Worker"], say: Say) -> None:
    """Each worker takes the next run as it is free; what goes wrong in a thread is raised here."""
    troubles: list[BaseException] = []
    lock = threading.Lock()

    def serve(worker: _Worker) -> None:
        try:
            while not troubles:
                run = waiting.get_nowait()
                failed = worker.do(sweep.config(run), sweep.folder(run))
                with lock:
                    say(run, failed)
        except queue.Empty:
            return
        except BaseException as error:  # raised again by the caller of this thread
            troubles.append(error)

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in crew]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)  # so that Ctrl-C is heard meanwhile
    if troubles:
        raise troubles[0]


class _Worker:
    """A process that does runs one after the other.  It reads what to do from a pipe, and ends at once when that is closed:
    by `end`, or because this process was killed."""

    def __init__(self) -> None:
        said = "from simulations.sweep_runs import work; work()"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", said],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # it imports what this process would
            start_new_session=True,  # Ctrl-C is heard here, once, and ends it through its pipe
        )

    def do(self, config: Path, folder: Path) -> str | None:
        """One run; None, or what it failed with.  EngineError where the process dies over it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([str(config), str(folder)]).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise EngineError(
                f"the process that ran {folder} died ({_how(self._process.wait())}): see its run.log; fewer --jobs need less memory, and --resume goes on"
            )
        failed: str | None = json.loads(line)
        return failed

    def end(self) -> None:
        """Close its pipe, which ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def work() -> None:
    """A worker's whole life: a line in is a run to do, a line out how it ended; the end of the lines is the end."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed goes where people read
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()
    while True:
        config, folder = tasks.get()
        answers.write(json.dumps(run_one(Path(config), Path(folder))).encode() + b"\n")
        answers.flush()


def _listen(pipe: IO[bytes], tasks: "queue.SimpleQueue[Any]") -> None:
    for line in pipe:
        tasks.put(json.loads(line))
    os._exit(0)  # a finished round is on disk; whoever goes on starts from there
