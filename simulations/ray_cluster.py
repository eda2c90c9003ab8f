"""Ray itself: started here and quiet, or joined where a cluster is up; and the workers' processes on it.

Ray takes seconds to start, most of them waiting.  `ahead` lets them pass while the caller imports torch and opens its
data.  Whatever this process started ends with it, also when it is killed.
"""

import contextlib
import logging
import math
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fedvision.errors import EngineError
from fedvision.experiment import Engine
from simulations.ray_bare import start

START_SECONDS = 180.0  # for a worker's process to be there, on a busy machine; one that is not after half of it is started once more
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without a share of a GPU sees what the inline engine sees
    "RAY_task_events_report_interval_ms": "0",  # a record of each call, which only a dashboard would read
    "RAY_enable_metrics_collection": "0",
}
_ALONE = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}  # how long Ray's helpers outlive a run that was killed; as shipped, 60


@dataclass
class Cluster:
    """A Ray that this process has joined, and the actors that it has there."""

    engine: Engine
    ours: bool  # whether this process joined it, and has to leave it
    folder: str | None = None  # of the session's sockets and logs, where Ray was started here
    actors: list[Any] = field(default_factory=list)

    def hire(self) -> Any:
        """One more worker's process; comes up on its own time."""
        import ray

        from simulations.ray_worker import Worker

        remote = ray.remote(num_cpus=1, num_gpus=self.engine.gpus_per_worker, scheduling_strategy="SPREAD", max_restarts=0)(Worker)
        actor = remote.remote()
        self.actors.append(actor)
        return actor

    def dismiss(self, actor: Any) -> None:
        """End one worker's process."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(actor, no_restart=True)
        self.actors = [other for other in self.actors if other is not actor]

    def leave(self) -> None:
        """End our actors, and Ray where it is ours to end."""
        import ray

        if not ray.is_initialized():
            return
        for actor in list(self.actors):
            self.dismiss(actor)
        if self.ours:
            ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def join(engine: Engine) -> Cluster:
    """Ray, started here or joined at engine.address or already joined by this process, with engine.workers actors coming
    up; EngineError where it cannot hold them."""
    if engine.gpus_per_worker > 1 and not float(engine.gpus_per_worker).is_integer():
        raise EngineError(f"engine.gpus_per_worker = {engine.gpus_per_worker:g}: above 1, Ray gives whole GPUs only")
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray._private.worker._worker_logs_enabled = False  # else a worker's death is printed to stdout; Ray has no public switch
    if ray.is_initialized():
        cluster = Cluster(engine, ours=False)
    elif engine.address is None:
        cluster = _start(engine)
    else:
        _connect(engine.address)
        cluster = Cluster(engine, ours=True)
    try:
        check_room(engine, ray.nodes())
        for _ in range(engine.workers):
            cluster.hire()
    except BaseException:
        cluster.leave()
        raise
    return cluster


def _start(engine: Engine) -> Cluster:
    """A Ray of our own, with as many CPUs as workers: whether they are more than the cores is the user's affair."""
    import ray

    os.environ.update({name: value for name, value in _ALONE.items() if name not in os.environ})
    folder = tempfile.mkdtemp(prefix="fv-ray-")
    try:
        start(num_cpus=engine.workers, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL, _temp_dir=folder)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if ray.is_initialized():
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        raise EngineError(
            f"engine.name = ray: Ray could not be started here: {in_a_line(error)}; engine.name = inline needs none"
        ) from error
    return Cluster(engine, ours=True, folder=folder)


def _connect(address: str) -> None:
    import ray

    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit() and "/" not in address):
        raise EngineError(f"engine.address = {address!r}: give host:port of the cluster's head, for example 10.0.0.1:6379, or auto")
    try:
        if address != "auto":  # Ray would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError, OverflowError, ray.exceptions.RayError) as error:
        raise EngineError(
            f"engine.address = {address}: no Ray cluster answers there ({in_a_line(error)}); start one with `ray start --head`, "
            "or set engine.address to null to start one here"
        ) from error


def check_room(engine: Engine, nodes: list[dict[str, Any]]) -> None:
    """EngineError where the living `nodes` could never hold engine.workers at once; Ray would wait for ever."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    share, total = engine.gpus_per_worker, {kind: sum(r.get(kind, 0) for r in resources) for kind in ("CPU", "GPU")}
    fits = sum(min(int(r.get("CPU", 0)), _on_gpus(r.get("GPU", 0), share)) for r in resources)
    if fits >= engine.workers:
        return
    wanted = f"engine.workers = {engine.workers} with one CPU" + (f" and {share:g} of a GPU" if share else "") + " each"
    there = f"{total['CPU']:g} CPUs and {total['GPU']:g} GPUs on {len(resources)} node{'s' * (len(resources) != 1)}"
    way_out = "ask for fewer workers or a smaller engine.gpus_per_worker" if share else "ask for fewer workers"
    raise EngineError(f"{wanted}: Ray has {there}, room for {fits} such workers; {way_out}")


def _on_gpus(gpus: float, share: float) -> int:
    if share == 0:
        return 1 << 30
    return int(gpus) * math.floor(1 / share + 1e-9) if share <= 1 else int(gpus // share)


class _Ahead:
    """Ray being joined on a thread, which lives on until it is let go: Linux ends Ray's processes with the thread that
    started them, and that is also what leaves none behind after a kill -9."""

    def __init__(self, engine: Engine):
        self.engine, self.taken = engine, False
        self._cluster: Cluster | None = None
        self._error: BaseException | None = None
        self._up, self._let_go = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="ray", daemon=True).start()

    def _run(self) -> None:
        try:
            self._cluster = join(self.engine)
        except BaseException as error:  # carried to the thread that waits for it
            self._error = error
        self._up.set()
        self._let_go.wait()

    def cluster(self) -> Cluster:
        """The cluster, once it is there; raises what kept it from being there."""
        self._up.wait()
        if self._error is not None:
            raise self._error
        assert self._cluster is not None
        return self._cluster

    def end(self) -> None:
        """Leave the cluster if nobody took it."""
        self._up.wait()
        if self._cluster is not None and not self.taken:
            self._cluster.leave()
        self._let_go.set()


_ahead: _Ahead | None = None  # one process joins one Ray; `joined` finds it here


@contextlib.contextmanager
def ahead(engine: Engine) -> Iterator[None]:
    """Join Ray on the side; a `joined` inside, for the same engine, waits for it instead of beginning then."""
    global _ahead
    _ahead = started = _Ahead(engine)
    try:
        yield
    finally:
        _ahead = None
        started.end()


@contextlib.contextmanager
def joined(engine: Engine) -> Iterator[Cluster]:
    """The cluster with its first actors; left at the end, whatever happens."""
    began = _ahead if _ahead is not None and _ahead.engine == engine and not _ahead.taken else None
    if began is not None:
        cluster, began.taken = began.cluster(), True
    else:
        cluster = join(engine)
    try:
        yield cluster
    finally:
        cluster.leave()


def in_a_line(error: BaseException, most: int = 300) -> str:
    """The last line of what `error` says, where Ray puts the reason, not longer than `most`."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
    return text if len(text) <= most else text[: most - 1] + "…"
