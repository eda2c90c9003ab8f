"""One federated run at the coordinator, from start or resume to model, figures and report."""

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from fedvision.algorithms import FedBuff, sees_single
from fedvision.data.site import Examples
from fedvision.errors import FedvisionError, RunFolderError
from fedvision.evaluation import Sums, flat
from fedvision.experiment import Experiment, has_site_state, keeps_replies
from fedvision.fields import declare
from fedvision.models import build, parts
from fedvision.protections import Central
from fedvision.tasks import task_of
from fedvision.tracking.folder import RunFolder, write_tensors
from fedvision.tracking.progress import Progress as Display
from fedvision.types import Exchange, SiteId, State
from privacy.amplification import draws_of
from privacy.averaging import delivered
from privacy.check_model import check_experiment
from privacy.ledger.coordinator import CoordinatorLedger
from privacy.on_server import Accounted, promise, protected, words
from privacy.plan import Plan, plan_of
from privacy.secure_aggregation.roster import Roster
from server.acceptance import Judge
from server.checkpoints import Checkpoints, Progress
from server.evaluation import Evaluator
from server.journal import Journal, Listener
from server.masked import MaskedSums
from server.releases import Releases
from server.rounds import Rounds
from server.strategies import Strategy, make_strategy

log = logging.getLogger("fedvision.server")


@dataclass(frozen=True)
class Assignment:
    """What a coordinator needs besides an exchange.  own: its public examples by part ("validation", "test").

    roster: of the sites, where they mask what they send.  ledger: of a private run.
    """

    experiment: Experiment
    folder: RunFolder
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    own: Mapping[str, Examples]
    notes: tuple[str, ...] = ()
    listeners: list[Listener] = field(default_factory=list)
    roster: Roster | None = None
    ledger: CoordinatorLedger | None = None

    @property
    def run_id(self) -> str:
        """What the run calls itself in its messages."""
        return self.folder.run


@dataclass
class Desk:
    """All that a coordinator works with, set up once.  start: the state to begin with, taken out when the rounds take it."""

    task: Any
    plan: Plan | None
    strategy: Strategy
    evaluate: Evaluator
    journal: Journal
    rounds: Rounds
    progress: Progress
    start: list[Any]


def set_up(job: Assignment, exchange: Exchange, display: Display) -> Desk:
    """The desk of a run: its strategy's state is the newest checkpoint's, or made of the model as the config has it."""
    experiment, folder = job.experiment, job.folder
    torch.set_num_threads(experiment.engine.threads)
    task = task_of(experiment, job.classes)
    model = build(experiment, job.shape, task.outputs)
    plan = plan_of(experiment) if experiment.privacy is not None else None
    if plan is not None:
        check_experiment(experiment, job.shape, job.classes)
    strategy = protected(make_strategy(experiment.strategy, exchange.sites()), experiment, plan)
    layout = declare(experiment, model.state_dict(), parts(model, experiment), len(exchange.sites()))
    initial = strategy.init({name: tensor.detach() for name, tensor in model.state_dict().items()})  # shared: neither is changed in place
    checkpoints = Checkpoints(folder.path / "checkpoints", experiment.tracking.checkpoints)
    state, progress = checkpoints.newest(initial) or (initial, Progress())
    folder.truncate_rounds(progress.next_round)
    journal = Journal(folder, checkpoints, display, job.listeners, behind=0 if has_site_state(experiment) or plan is not None else 1)
    device = torch.device("cuda" if experiment.engine.device != "cpu" and torch.cuda.is_available() else "cpu")
    evaluate = Evaluator(experiment, job.run_id, exchange, task, model, job.own, device, {})
    masked = None if job.roster is None else MaskedSums(experiment, job.roster, layout, folder.path / "masked.bin")
    every = experiment.evaluation.every
    recorder = journal if plan is None else Accounted.of(journal, plan, folder.rounds(), exchange.sites(), every)
    judge = Judge(experiment.acceptance, evaluate.held_out)
    draws = draws_of(experiment, job.run_id, job.ledger is not None and job.ledger.asked)
    releases = Releases(checkpoints.folder) if isinstance(experiment.privacy, Central) else None
    counted = last_counted(folder.rounds()) if has_site_state(experiment) or keeps_replies(experiment) else {}
    rounds = Rounds(
        experiment, job.run_id, exchange, strategy, layout, evaluate, recorder, masked, folder.path, job.ledger, judge, draws, releases, counted
    )  # fmt: skip
    return Desk(task, plan, strategy, evaluate, journal, rounds, progress, [state])


def last_counted(records: Iterable[Mapping[str, Any]]) -> dict[SiteId, int]:
    """Site -> the last of these rounds that its reply entered.

    >>> last_counted([{"round": 0, "status": "counted", "answered": ["a", "b"]}, {"round": 1, "status": "counted", "answered": ["b"]}])
    {'a': 0, 'b': 1}
    >>> last_counted([{"round": 0, "status": "skipped", "answered": ["a"]}])
    {}
    """
    return {SiteId(site): r["round"] for r in records if r["status"] == "counted" for site in r["answered"]}


def federate(job: Assignment, exchange: Exchange, display: Display) -> dict[str, Any]:
    """Run all rounds that are not done yet.  Returns the summary, which is also on disk; raises what ended the run."""
    began, started = time.perf_counter(), datetime.now(UTC)
    desk = set_up(job, exchange, display)
    planned, before = job.experiment.federation.rounds, _seconds_so_far(job.folder)
    if desk.plan is not None:
        promised = words(desk.plan, job.experiment)
        job = replace(job, notes=(*job.notes, *promised))
        display.message("\n".join(promised))
    display.start(planned, desk.progress.next_round)
    outcome: dict[str, Any] = {"status": "completed", "error": None}
    try:
        state = desk.rounds.run(desk.start.pop(), desk.progress)  # popped: nobody holds the first model while the rounds go on
        if not desk.evaluate.last and (desk.progress.stopped or desk.progress.next_round == planned):  # resumed when all was done
            desk.evaluate(delivered(desk.strategy, state), desk.progress.next_round - 1, desk.rounds.counted)
        desk.journal.settle()
    except BaseException as error:  # recorded, then raised again: also Ctrl-C
        interrupted = isinstance(error, KeyboardInterrupt)
        outcome = {"status": "interrupted" if interrupted else "failed", "error": None if interrupted else _said(error)}
        log.error("the run ended: %s", outcome["error"] or "interrupted")
        raise
    finally:
        desk.journal.close()
        summary = summarise(job, outcome, desk.evaluate.last, desk.task, before + time.perf_counter() - began, started)
        if desk.plan is not None:
            summary["privacy"] = promise(desk.plan, job.experiment)
        if outcome["status"] == "completed":
            summary |= write_model(job.folder, delivered(desk.strategy, state))
        job.folder.write_summary(summary)
        display.finish()
    return summary


def summarise(
    job: Assignment, outcome: Mapping[str, Any], last: Mapping[str, Sums], task: Any, seconds: float, started: datetime
) -> dict[str, Any]:
    """What summary.json says of a run, from its rounds."""
    records = job.folder.rounds()
    evaluated = next((r["evaluation"] for r in reversed(records) if r.get("evaluation")), None)
    figures = flat(evaluated)
    which = next((w for w in ("server test", "server validation", "sites' test") if last.get(w)), None)
    counts = {
        "declined": Counter(_code(reason) for r in records for reason in r.get("declined", {}).values()),
        "refused": Counter(_code(reason) for r in records for reason in r.get("refused", {}).values()),
        "missing": Counter(kind for r in records for kind in r.get("missing", {}).values()),
    }
    return {
        "name": job.experiment.name,
        "run": job.run_id,
        "kind": job.folder.kind,
        **outcome,
        "engine": job.experiment.engine.name,
        "rounds": len(records),
        "rounds_planned": job.experiment.federation.rounds,
        "metrics": figures | (task.by_class(last[which]) if which else {}),
        "sites": ((evaluated or {}).get("sites") or {}).get("per_site", {}),
        "confusion": np.asarray(last[which]["confusion"]).tolist() if which and "confusion" in last[which] else None,
        "confusion_of": which,
        "confusion_counts": getattr(task, "counts", "images"),
        "classes": list(job.classes),
        "seconds": seconds,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": [*job.notes, *(r["stopped"] for r in records if "stopped" in r)],
        "counts": {kind: dict(sorted(c.items())) for kind, c in counts.items()},
    }


def write_model(folder: RunFolder, weights: State) -> dict[str, Any]:
    """Write model.safetensors; its SHA-256 is that of the file's bytes, which depend on the tensors alone."""
    path = folder.path / "model.safetensors"
    write_tensors(path, weights)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    trained = sum(t.numel() for t in weights.values() if t.is_floating_point())
    return {"model_sha256": digest.hexdigest(), "model_parameters": trained}


def room_needed(experiment: Experiment, parameters: int, sites: int) -> int:
    """Bytes that a run may write: its checkpoints, the model, the states that live with the sites, and the updates of a round
    where a rule must see each."""
    copies = (experiment.tracking.checkpoints + 3) * 3 + (2 * sites if has_site_state(experiment) else 0)
    asked = min(experiment.federation.cohort or sites, sites)
    apart = 2 * asked if sees_single(experiment.strategy) else 0  # of up to 8 bytes a number
    if isinstance(experiment.strategy, FedBuff):  # each checkpoint holds the updates of those that train
        apart = 2 * experiment.strategy.concurrency * (experiment.tracking.checkpoints + 2)
    return 4 * parameters * (copies + apart) + (16 << 20)


def _seconds_so_far(folder: RunFolder) -> float:
    return sum(record.get("seconds", {}).get("total", 0.0) for record in folder.rounds())


def _code(reason: str) -> str:
    return reason.partition(":")[0]


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{os.strerror(error.errno)}: {error.filename or ''}".rstrip(": ")
    return str(error) if isinstance(error, FedvisionError | RunFolderError) else f"{type(error).__name__}: {error}"
