"""Flower's simulation runtime under our rounds: our ServerApp and ClientApp on its workers, which are Ray's.

Slower to start than `ray` (about 15 s) and without its replacement of dead workers; it shows that what runs here runs on
Flower unchanged.  `simulations/app.py` is the other way in, `flwr run .`.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from fedvision.brought import vouch
from fedvision.errors import EngineError
from fedvision.types import Exchange
from simulations.setting import Setting

if TYPE_CHECKING:
    from fedvision.wire import Premises

T = TypeVar("T")

ALONE = {  # read when flwr and ray are imported: nobody outside is told of a run, and the start is shorter
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def run_on_flower(setting: Setting, conduct: Callable[[Exchange], T]) -> T:
    """What `conduct` returns over an exchange on Flower's runtime; raises what it raises, or EngineError where the runtime fails."""
    os.environ.update(ALONE)
    import ray

    if ray.is_initialized():
        raise EngineError(
            "engine.name = flower: this process has joined Ray already, and Flower would run on it and shut it down; "
            "call ray.shutdown() first, or run in a process of its own"
        )
    from flwr.simulation import run_simulation

    from clients.app import app as client
    from server.app import Conductor

    engine = setting.experiment.engine
    setting.say(f"starting Flower's runtime with {engine.workers} worker{'s' if engine.workers > 1 else ''} (about 15 s)")
    sites = setting.data.sites
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    started: set[psutil.Process] = set()

    def watched(exchange: Exchange) -> T:
        started.update(_started_since(before))  # while they are still below this process
        return conduct(exchange)

    conductor = Conductor(watched, sites, premises(setting), engine.workers)
    with _quiet(), _environment_kept():
        try:
            run_simulation(conductor.app(), client, len(sites), backend_config=_backend(engine.workers, engine.gpus_per_worker))
        except KeyboardInterrupt as interrupt:
            conductor.halt(interrupt)
        except Exception as error:  # whatever its runtime fails with is of no type: RuntimeError, ValueError, Ray's own
            conductor.halt(EngineError(f"Flower's runtime stopped: {_root(error)}; run.log has what it says"))
        finally:
            _end(started | _started_since(before))
    return conductor.outcome()


def _started_since(before: set[int]) -> set[psutil.Process]:
    """What runs below this process and is not in `before`."""
    return {process for process in psutil.Process().children(recursive=True) if process.pid not in before}


def _end(processes: set[psutil.Process]) -> None:
    """Wait for `processes` a moment, then end them: Ray leaves its workers behind to end themselves, and, interrupted
    while it starts, forgets its own servers."""
    for end in (None, psutil.Process.terminate, psutil.Process.kill):
        if end is not None:
            for process in filter(_alive, processes):
                with suppress(psutil.NoSuchProcess):
                    end(process)
        until = time.monotonic() + 3
        while any(map(_alive, processes)) and time.monotonic() < until:
            time.sleep(0.05)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def premises(setting: Setting) -> "Premises":
    """What the workers need to open the sites: the partition is read from the run's folder, and written there if need be."""
    from fedvision.wire import Premises

    states = setting.states.resolve()
    vouch(setting.experiment, states)
    partition = states.with_name("partition.npz")
    if not partition.exists():
        setting.data.partition.save(partition)
    return Premises(setting.experiment, partition, states)


def _backend(workers: int, gpus: float) -> Any:
    """As many workers as asked for: Flower starts one for each of the processors that Ray is told it has.  A Ray of its own, for one
    that was started on this machine for others would be joined, and told no number."""
    init = {"address": "local", "num_cpus": workers, "include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    return {"init_args": init, "client_resources": {"num_cpus": 1, "num_gpus": gpus}}


@contextmanager
def _quiet() -> Iterator[None]:
    """What Flower says goes to the run's log, and its and Ray's notes to developers nowhere."""
    logger, ours = logging.getLogger("flwr"), logging.getLogger("fedvision")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    logger.handlers, logger.propagate = ours.handlers[:] or [logging.NullHandler()], False
    logger.setLevel(logging.INFO)
    # run_simulation is called deprecated in favour of `flwr run`, which cannot hand a Python value back; the pin on flwr
    # holds it.  The note on it is a log record, and so goes to run.log; Ray's on what it will do with GPUs is a warning.
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Tip: In future versions of Ray", category=FutureWarning)
            yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Flower writes PYTHONPATH into the environment of this process; take it out again."""
    before = os.environ.get("PYTHONPATH")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


def _root(error: BaseException) -> str:
    """The first cause: Flower wraps it twice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
