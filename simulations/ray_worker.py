"""One Ray worker: a workbench and the data, set up once, answering for whichever sites it is given."""

import faulthandler
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from fedvision.data.federation import Federated
    from fedvision.data.partition import Partition
    from fedvision.experiment import Experiment
    from fedvision.sums import Total
    from fedvision.types import Reply, Request, SiteId, State, Subtotal

CRASHES = ".crash-*"
PROBE = ".seen-by-workers"  # file among the sites' states, so that a worker finds out whether its folder is the same one
Arrays = Mapping[str, "np.ndarray"]


@dataclass(frozen=True)
class Own:
    """What of a request is one site's own: the last round of it that counted, the newest entry of its ledger that did, and its messages
    of secure aggregation."""

    counted: int | None = None
    messages: tuple[bytes, ...] = ()
    seen: str = ""


Asked = tuple["SiteId", Own]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of a run.  home: the coordinator's node; probe: what states/PROBE holds."""

    experiment: "Experiment"
    partition: "Partition"
    states: Path
    probe: str
    home: str


@dataclass(frozen=True)
class Ready:
    """A worker that is set up.  environment: only where it may differ, on another node than the coordinator's."""

    node: str
    pid: int
    vector_bytes: int
    device: str
    sees_states: bool
    environment: dict[str, Any] | None


@dataclass(frozen=True)
class Answers:
    """Replies of some sites, the wall seconds that they took, and what was logged meanwhile: (logger, level, text)."""

    replies: list["Reply"]
    seconds: float
    log: list[tuple[str, int, str]]


class Worker:
    """The actor.  Calls run one after the other, in the order in which the coordinator made them."""

    def __init__(self) -> None:
        self._heard: dict[int, Request] = {}
        self._log = _Kept()
        logging.getLogger("fedvision").addHandler(self._log)

    def hello(self) -> None:
        """Import what takes seconds, while the coordinator still opens its data."""
        import clients.answer
        import clients.workbench  # noqa: F401

    def set_up(self, job: Job) -> Ready:
        """Build the workbench and open the data; raises the DataError or ConfigError that this meets."""
        import os

        import ray

        from clients.workbench import Workbench
        from simulations.setting import added_at_once

        self._data = data = _open(job)
        self._bench = bench = Workbench.set_up(job.experiment, data.shape, data.classes, len(data.sites), job.states)
        bench.straight = added_at_once(job.experiment)
        self._total: Total | None = None
        node, sees = ray.get_runtime_context().get_node_id(), _sees(job)
        if sees:
            self._crash = crash_file(job.states, node, os.getpid()).open("w")
            faulthandler.enable(self._crash)
        return Ready(
            node, os.getpid(), bench.layout.size * bench.layout.dtype.itemsize, bench.device.type,
            sees_states=sees, environment=_environment(job) if node != job.home else None,
        )  # fmt: skip

    def hear(self, number: int, request: "Request", names: Sequence[str], *states: Arrays) -> None:
        """Keep request `number`, which the sites named later are asked; its `states` lie in shared memory, unwritable."""
        tensors = dict(zip(names, map(_tensors, states), strict=True))
        self._heard = {number: with_states(request, tensors)}
        self._begin()

    def _begin(self) -> None:
        """An empty sum, where updates are added up here."""
        from fedvision.sums import Total

        self._norms: dict[SiteId, float] = {}
        if self._bench.straight:
            self._total = Total(self._bench.layout, self._bench.experiment.federation.max_update_norm)

    def answer(self, number: int, asked: Sequence[Asked]) -> Answers:
        """The replies of some sites to the request heard last."""
        began = time.perf_counter()
        request = self._heard[number]
        replies = [self._added(self._answer(site, for_site(request, own))) for site, own in asked]
        return Answers(replies, time.perf_counter() - began, self._log.take())

    def trial(self, number: int, asked: Sequence[Asked]) -> "Answers | str":
        """`answer`, for one site whose work is tried in a process of its own first; how that died, where it did."""
        from simulations.ray_trial import fallen

        ((site, own),) = asked
        died = fallen(lambda: self._answer(site, for_site(self._heard[number], own)))
        return self.answer(number, asked) if died is None else died

    def _answer(self, site: "SiteId", request: "Request") -> "Reply":
        from clients.answer import answer_for
        from simulations.conditions import suffer

        suffer(self._bench.experiment.conditions, site, request, self._bench.states.folder)
        return answer_for(request, site, self._data, self._bench)

    def _added(self, reply: "Reply") -> "Reply":
        """What to send for `reply`: an update that is sound stays here, in the sum."""
        from fedvision.errors import OutOfRange, UpdateRefused
        from fedvision.types import Added, ClientUpdate, Declined

        if self._total is None or not isinstance(reply, ClientUpdate):
            return reply
        try:
            self._norms[reply.site] = self._total.add(reply.vector)
        except OutOfRange as error:
            return Declined(reply.site, reply.round, "out_of_range", str(error))
        except UpdateRefused:  # for the coordinator to see and refuse
            return replace(reply, vector=reply.vector.written())
        return Added(reply.site, reply.round)

    def subtotal(self, number: int) -> "Subtotal":
        """The sum of all that was added since the last one."""
        from fedvision.types import Subtotal, TrainRequest

        request = self._heard[number]
        assert self._total is not None
        assert isinstance(request, TrainRequest)
        given = Subtotal(request.round, request.attempt, self._total.sum, self._norms, self._bench.layout.digest)
        self._begin()
        return given


def shared_part(request: "Request") -> tuple["Request", Own]:
    """What many sites are sent alike, and what is this one's own."""
    from fedvision.types import SecureRequest, TrainRequest

    if isinstance(request, TrainRequest):
        return replace(request, counted=None, seen=""), Own(request.counted, seen=request.seen)
    if not isinstance(request, SecureRequest):
        return replace(request, counted=None), Own(request.counted)
    train = request.train
    if train is None:
        return replace(request, messages=()), Own(None, request.messages)
    return replace(request, messages=(), train=replace(train, counted=None, seen="")), Own(train.counted, request.messages, train.seen)


def for_site(request: "Request", own: Own) -> "Request":
    """The request whose parts `shared_part` took apart."""
    from fedvision.types import SecureRequest, TrainRequest

    if isinstance(request, TrainRequest):
        return replace(request, counted=own.counted, seen=own.seen)
    if not isinstance(request, SecureRequest):
        return replace(request, counted=own.counted)
    train = None if request.train is None else replace(request.train, counted=own.counted, seen=own.seen)
    return replace(request, messages=own.messages, train=train)


def states_of(request: "Request") -> dict[str, "State"]:
    """The tensors that a request carries: "model", and the extras of one to train by their names."""
    from fedvision.types import SecureRequest, TrainRequest

    carrier = request.train if isinstance(request, SecureRequest) else request
    if carrier is None:
        return {}
    return {"model": carrier.model, **(carrier.extras if isinstance(carrier, TrainRequest) else {})}


def with_states(request: "Request", states: Mapping[str, "State"]) -> "Request":
    """`request` with `states` in the place of its own."""
    from fedvision.types import SecureRequest, TrainRequest

    if isinstance(request, SecureRequest):
        if request.train is None:
            return request
        train = with_states(request.train, states)
        assert isinstance(train, TrainRequest)
        return replace(request, train=train)
    extras = {name: state for name, state in states.items() if name != "model"}
    if isinstance(request, TrainRequest):
        return replace(request, model=states["model"], extras=extras)
    return replace(request, model=states["model"])


class _Kept(logging.Handler):
    """Keeps what is logged, for the coordinator's log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._records: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record, with its traceback."""
        self._records.append((record.name, record.levelno, self.format(record)))

    def take(self) -> list[tuple[str, int, str]]:
        """What was kept since the last time."""
        taken, self._records = self._records, []
        return taken


def _tensors(arrays: Arrays) -> "State":
    """Tensors over the same memory; nobody writes to what came in a message, as `fedvision.types.State` has it."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _open(job: Job) -> "Federated":
    """This worker's own view of the data, dealt out as the coordinator dealt it."""
    from fedvision.data.federation import dealt, open_dataset
    from fedvision.errors import DataError

    dataset = open_dataset(job.experiment)
    if (found := dataset.fingerprint()) != job.partition.fingerprint:
        raise DataError(
            f"a Ray worker finds other data than the coordinator: {job.experiment.data.dataset} has the fingerprint {found} there, and "
            f"{job.partition.fingerprint} here; give every node the same files"
        )
    return dealt(job.experiment, dataset, job.partition)


def crash_file(states: Path, node: str, process: int) -> Path:
    """Where a worker's process writes of what signal it dies, where that is one that only its own code raises."""
    return states / CRASHES.replace("*", f"{node[:8]}-{process}")


def _sees(job: Job) -> bool:
    try:
        return (job.states / PROBE).read_text() == job.probe
    except OSError:
        return False


def _environment(job: Job) -> dict[str, Any]:
    from fedvision.tracking.environment import environment

    return environment(job.experiment)
