"""The workers of a run on Ray: set up side by side, replaced when they die, at most engine.max_restarts times in all."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from fedvision.errors import EngineError, FedvisionError
from fedvision.experiment import has_site_state
from fedvision.tracking.environment import differences, environment
from fedvision.types import SiteId
from simulations.ray_cluster import START_SECONDS, Cluster, in_a_line
from simulations.ray_worker import Job, Ready, crash_file
from simulations.setting import Setting

DEATHS = (RayActorError, WorkerCrashedError, ObjectLostError, OutOfMemoryError, NodeDiedError, TaskUnschedulableError)
_LOOK_SECONDS = 2.0  # between two looks at whether a worker is late in coming up

log = logging.getLogger("fedvision.ray")


@dataclass(eq=False)
class Hand:
    """One worker.  coming: what it will answer next on its way to be of use; None once it is.  heard: the last request
    that it was told; late: until when its process has to be there; crash: where it writes
    what kills it, if its own code does; second: whether it took the place of one that did not come up."""

    number: int
    actor: Any
    coming: Any
    late: float | None
    heard: int = -1
    gone: bool = False
    second: bool = False
    who: str = "not up yet"
    crash: Path | None = None


class Crew:
    """Hands that are set up for one run."""

    def __init__(self, cluster: Cluster, setting: Setting, job: Job):
        self.cluster, self.setting = cluster, setting
        self.experiment = setting.experiment
        self._job = ray.put(job)
        self._device: str | None = None
        self._restarts = self._unprovoked = 0
        self.vector_bytes = 0
        self.hands = [self._greeted(number, actor) for number, actor in enumerate(cluster.actors)]
        while any(hand.coming is not None for hand in self.hands):
            self.wait([])

    @property
    def triable(self) -> bool:
        """Whether a site's work can be done twice, in a fork first: not with a GPU, nor where it appends to its ledger."""
        e = self.experiment
        return self._device == "cpu" and e.privacy is None and not e.secure_aggregation.enabled

    def able(self) -> list[Hand]:
        """The hands that can be given work."""
        return [hand for hand in self.hands if hand.coming is None]

    def wait(self, work: Iterable[Any], seconds: float | None = None) -> Any | None:
        """The first of `work`'s references to be there, or None when something else has happened, or `seconds` have passed."""
        coming = {hand.coming: hand for hand in self.hands if hand.coming is not None}
        limits = [limit for limit in (_LOOK_SECONDS if coming else None, seconds) if limit is not None]
        done, _ = ray.wait([*work, *coming], num_returns=1, timeout=min(limits, default=None))
        if done and done[0] not in coming:
            return done[0]
        if done:
            self._came(coming[done[0]])
        for hand in self.hands:
            if hand.coming is not None and hand.late is not None and time.monotonic() > hand.late:
                if not hand.second:  # a process can hang while it starts, and hold its processor
                    self._replace(
                        hand, f"Ray worker {hand.number} was not there after {START_SECONDS / 2:.0f} s and is started once more", True
                    )
                    break
                raise EngineError(
                    f"a Ray worker's process was not there after {START_SECONDS:.0f} s: of engine.workers = {len(self.hands)}, "
                    f"{len(self.able())} are; free of the cluster now: {_shown(ray.available_resources())}; ask for fewer workers, or wait"
                )
        return None

    def died(self, hand: Hand, error: RayError, site: SiteId | None = None) -> None:
        """Put another worker in the place of `hand`; EngineError where that has been done too often.
        site: who may have to answer for it, so that it does not count; `count` is told if not."""
        if hand.gone:
            return
        what = f"Ray worker {hand.number} ({hand.who}) died: {_crash(hand) or in_a_line(error)}"
        most = self.experiment.engine.max_restarts
        if site is None and self._restarts >= most:
            log.warning(what)
            raise EngineError(
                f"{what}; engine.max_restarts = {most} replacements are used up: look whether memory is short (fewer workers, smaller "
                "training.batch_size), or raise it"
            ) from error
        self.count(site is None)
        self._replace(hand, what)
        whose = f"{self._restarts} of at most {most}" if site is None else f"it was alone with {site}"
        self.setting.say(f"worker {hand.number} ({hand.who}) died and is replaced ({whose}); its sites are asked again")

    def count(self, deaths: int) -> None:
        """Count deaths towards engine.max_restarts."""
        self._restarts += deaths

    def unprovoked(self) -> int:
        """How many workers died before they served anybody, since this was last asked."""
        deaths, self._unprovoked = self._unprovoked, 0
        return deaths

    def hung(self, hand: Hand, sites: Sequence[SiteId]) -> None:
        """End a worker that does not come back from `sites`, and put another in its place."""
        which = sites[0] if len(sites) == 1 else f"one of {sites[0]} to {sites[-1]}"
        self._replace(
            hand,
            f"Ray worker {hand.number} ({hand.who}) was ended: site {which} took longer than engine.site_seconds = "
            f"{self.experiment.engine.site_seconds:g}",
        )

    def _replace(self, hand: Hand, what: str, second: bool = False) -> None:
        hand.gone = True
        self.cluster.dismiss(hand.actor)
        log.warning(what)
        self.hands[self.hands.index(hand)] = self._greeted(hand.number, self.cluster.hire(), second)

    def _greeted(self, number: int, actor: Any, second: bool = False) -> Hand:
        return Hand(number, actor, actor.hello.remote(), time.monotonic() + START_SECONDS / 2, second=second)

    def _came(self, hand: Hand) -> None:
        """A hand's process is there, or it is set up, or neither."""
        try:
            said = ray.get(hand.coming)
        except RayTaskError as error:
            raise plain(error) from error
        except DEATHS as error:
            if "Failed to import" in str(error) or "failed to import" in str(error):
                raise EngineError(f"fedvision, in this version, is not installed where a Ray worker runs: {in_a_line(error)}") from error
            self.died(hand, error)
            self._unprovoked += 1
            return
        if hand.late is not None:
            hand.late, hand.coming = None, hand.actor.set_up.remote(self._job)
        else:
            self._check(said)
            hand.who = f"process {said.pid} on node {said.node[:8]}"
            hand.crash = crash_file(self.setting.states, said.node, said.pid) if said.sees_states else None
            hand.coming = None

    def _check(self, ready: Ready) -> None:
        """EngineError where this worker would make other results than the others; a word where it might make other bytes."""
        e = self.experiment
        if (has_site_state(e) or e.privacy is not None) and not ready.sees_states:
            what = f"strategy.name = {e.strategy.name} keeps states" if e.privacy is None else "privacy keeps the ledgers and replies"
            raise EngineError(
                f"{what} of the sites in {self.setting.states}, and the worker on Ray node "
                f"{ready.node[:8]} does not see that folder: put the run (--out) on a file system that all nodes share, or use one node"
            )
        if self._device not in (None, ready.device):
            raise EngineError(
                f"engine.device = {self.experiment.engine.device}: some Ray workers have {self._device} and some {ready.device}, which "
                "compute other bytes; set engine.device to cpu, or engine.gpus_per_worker so that each has a share of a GPU"
            )
        self._device, self.vector_bytes = ready.device, ready.vector_bytes
        if ready.environment is not None:
            for difference in differences(environment(self.experiment), ready.environment):
                self.setting.say(f"note: the bytes may differ from other runs': here and on Ray node {ready.node[:8]}, {difference}")


def death(hand: Hand, error: RayError) -> str:
    """Of what a worker died, as far as that can be known: "crashed", "memory" or "died"."""
    if _crash(hand) is not None:
        return "crashed"
    return "memory" if isinstance(error, OutOfMemoryError) else "died"


def _crash(hand: Hand) -> str | None:
    """What a worker wrote down when its own code killed it; None where something else did, or nobody can know."""
    try:
        written = "" if hand.crash is None else hand.crash.read_text(errors="replace")
    except OSError:
        return None
    return written.partition("\n")[0] or None


def plain(error: RayTaskError) -> BaseException:
    """The error of ours that was raised in a worker; Ray's own, with its traceback, where it was none of ours."""
    cause = error.cause
    return cause if isinstance(cause, FedvisionError) else error


def _shown(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
