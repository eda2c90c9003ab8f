"""The two lines between which federated learning must lie: the same data pooled, and each site alone.

Both get as many examples through the model as the federation does on average: a round's epochs (or steps) times the
share of the sites that a round asks.  The optimiser keeps its moments from round to round, as it would without rounds.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from clients.learn import learn
from clients.training import make_optimizer
from clients.workbench import Workbench
from fedvision.data.federation import Federated
from fedvision.data.site import Examples
from fedvision.evaluation import OverSites, Sums, add, criterion, measure
from fedvision.experiment import Experiment
from fedvision.models import build
from fedvision.seeds import seed_torch
from fedvision.tracking.figures import lower_is_better
from fedvision.tracking.folder import RunFolder
from fedvision.tracking.progress import Progress as Display
from fedvision.types import SiteId
from server.checkpoints import Progress
from server.evaluation import Evaluator
from server.run import Assignment, summarise, write_model
from server.stopping import watched
from simulations.inline import Inline
from simulations.pictures import illustrate
from simulations.run import concluded, logged_to, own_examples, set_up


def asked_share(experiment: Experiment, sites: int) -> float:
    """The share of the sites that a round asks, on average."""
    federation = experiment.federation
    if federation.sampling == "fixed" and federation.cohort is not None:
        return min(federation.cohort, sites) / sites
    return federation.rate if federation.sampling == "poisson" and federation.rate is not None else 1.0


def steps_a_round(experiment: Experiment, examples: int, sites: int, trained_by: int) -> int:
    """Steps by which one trainer sees as many examples a round as the federation does.  examples: what it holds;
    sites: of the federation; trained_by: how many sites' data it stands for."""
    training, share = experiment.training, asked_share(experiment, sites)
    if training.steps is not None:
        return max(1, round(training.steps * share * trained_by))
    assert training.batch_size is not None  # null is for private sampling, which set_up refuses here
    return max(1, math.ceil((training.epochs or 1) * examples * share / training.batch_size))


@dataclass
class Trainer:
    """One model on one set of examples, round by round, with an optimiser that remembers."""

    experiment: Experiment
    bench: Workbench
    examples: Examples
    steps: int
    name: str

    def rounds(self) -> Iterator[tuple[int, float]]:
        """Train all rounds; (round, mean training loss) after each."""
        experiment, bench = self.experiment, self.bench
        optimizer = make_optimizer(experiment.training, bench.model)
        plan = experiment.training.model_copy(update={"epochs": None, "steps": self.steps})
        for number in range(experiment.federation.rounds):
            names = (self.name, "round", number)
            seed_torch(experiment.seed, *names)
            yield number, learn(bench, self.examples, names, number, None, optimizer, plan).loss


def plain(experiment: Experiment) -> Experiment:
    """The experiment with nothing federated about its training: FedAvg's model parts, and everybody there."""
    from fedvision.algorithms import FedAvg
    from fedvision.experiment import Conditions

    return experiment.model_copy(update={"strategy": FedAvg(), "conditions": Conditions()})


def centralised(experiment: Experiment, out: Path | None, quiet: bool = False) -> tuple[RunFolder, dict[str, Any]]:
    """All sites' training data in one place."""
    folder, data = set_up(experiment, "centralised", out, None)
    began, started = time.perf_counter(), datetime.now(UTC)
    with Display(experiment.evaluation.best, quiet) as display, logged_to(folder), concluded(experiment, folder, display) as told:
        display.message(f"{experiment.name}: {len(data.sites)} sites' data pooled, run folder {folder.path}")
        bench, other = (_bench(plain(experiment), data, folder) for _ in range(2))  # one trains, one serves the evaluations
        job = Assignment(plain(experiment), folder, data.shape, data.classes, own_examples(experiment, data), data.notes, told)
        measured = build(job.experiment, data.shape, bench.task.outputs)  # a model of its own: measuring touches no trained tensor
        evaluate = Evaluator(job.experiment, job.run_id, Inline(data, other), bench.task, measured, job.own, bench.device, {})
        pooled = data.pooled("train")
        steps = steps_a_round(experiment, len(pooled), len(data.sites), len(data.sites))
        display.start(experiment.federation.rounds)
        last, progress = time.perf_counter(), Progress()
        for number, loss in Trainer(job.experiment, bench, pooled, steps, "pooled").rounds():
            trained = time.perf_counter()
            due = (number + 1) % experiment.evaluation.every == 0 or number + 1 == experiment.federation.rounds
            weights = {name: t.detach().clone() for name, t in bench.model.state_dict().items()}
            evaluation = evaluate(weights, number, {}) if due else None
            record = _record(number, loss, len(pooled), evaluation, trained - last, time.perf_counter() - trained)
            progress, stopped = watched(experiment.evaluation, progress, criterion(evaluation, experiment.evaluation.best))
            if stopped is not None:
                record["stopped"] = stopped
            last = time.perf_counter()
            folder.append_round(record)
            display.round_finished(record)
            for listener in told:
                listener.log_round(record)
            if stopped is not None:
                break
        summary = summarise(job, {"status": "completed", "error": None}, evaluate.last, bench.task, time.perf_counter() - began, started)
        summary |= write_model(folder, {name: t.cpu() for name, t in bench.model.state_dict().items()})
        folder.write_summary(summary)
        illustrate(experiment, folder, data)
    return folder, summary


def local(experiment: Experiment, out: Path | None, quiet: bool = False) -> tuple[RunFolder, dict[str, Any]]:
    """Each site alone.  `metrics`: the mean over sites, of the models on the server's test data (or on all sites'), and under
    site_* on each one's own; `sites`: each one's figures there, `at_home`: on its own test data."""
    folder, data = set_up(experiment, "local", out, None)
    began, started = time.perf_counter(), datetime.now(UTC)
    with Display(experiment.evaluation.best, quiet) as display, logged_to(folder), concluded(experiment, folder, display):
        display.message(f"{experiment.name}: {len(data.sites)} sites, each alone, run folder {folder.path}")
        bench = _bench(plain(experiment), data, folder)
        initial = {name: t.detach().clone() for name, t in bench.model.state_dict().items()}
        own = own_examples(experiment, data)
        sites: dict[str, dict[str, float]] = {}
        at_home: dict[str, dict[str, float]] = {}
        pooled: dict[str, np.ndarray] = {}
        early: list[int] = []  # after how many rounds, of the sites that stopped before the last
        display.start(len(data.sites))
        for number, id in enumerate(data.sites):
            display.round_started(number, 1)
            began_site = time.perf_counter()
            bench.load(initial, {})
            loss, rounds = _trained_alone(bench, data, id, own, experiment)
            early += [rounds] if rounds < experiment.federation.rounds else []
            evaluation, sums = _measured_alone(bench, data, id, own)
            sites[id], pooled = evaluation["server"]["test"], add(pooled, sums)
            at_home |= evaluation["sites"]["per_site"]
            display.round_finished(_record(number, loss, 0, evaluation, time.perf_counter() - began_site, 0.0))
        job = Assignment(plain(experiment), folder, data.shape, data.classes, own, (*data.notes, *_said(early, experiment)))
        which = "server test" if own else "sites' test"
        summary = summarise(job, {"status": "completed", "error": None}, {which: pooled}, bench.task, time.perf_counter() - began, started)
        summary |= {"metrics": _over(sites, at_home), "sites": sites, "at_home": at_home, "rounds": experiment.federation.rounds}
        summary |= {"model_sha256": None}  # there is no one model
        folder.write_summary(summary)
    return folder, summary


def _trained_alone(bench: Workbench, data: Federated, id: SiteId, own: Mapping[str, Examples], experiment: Experiment) -> tuple[float, int]:
    """Train on one site's data, as long as evaluation.patience lets it: the last round's mean loss, and how many rounds it were."""
    site, evaluation, progress, loss, rounds = data.site(id), experiment.evaluation, Progress(), math.nan, 0
    steps = steps_a_round(experiment, len(site.train), len(data.sites), 1)
    for number, mean in Trainer(plain(experiment), bench, site.train, steps, f"alone {id}").rounds():
        loss, rounds = mean, number + 1
        if evaluation.patience is None or rounds % evaluation.every:
            continue
        sums = measure(bench.model, bench.task, own["validation"], evaluation.batch_size, bench.device)
        value = criterion({"server": {"validation": bench.task.metrics(sums)}, "sites": None}, evaluation.best)
        progress, stopped = watched(evaluation, progress, value)
        if stopped is not None:
            break
    return loss, rounds


def _said(early: Sequence[int], experiment: Experiment) -> tuple[str, ...]:
    if not early:
        return ()
    sites = f"{len(early)} site{'s' * (len(early) > 1)}"
    return (f"stopped early: {sites}, after {min(early)} to {max(early)} rounds (evaluation.patience = {experiment.evaluation.patience})",)


def _measured_alone(bench: Workbench, data: Federated, id: SiteId, own: Mapping[str, Examples]) -> tuple[dict[str, Any], Sums]:
    """One site's model on the server's test data (or on all sites' test data), and on its own."""
    evaluation = bench.experiment.evaluation
    figures = OverSites(bench.task, evaluation.best)
    figures.add(id, measure(bench.model, bench.task, data.site(id).test, evaluation.batch_size, bench.device))
    wider = own["test"] if "test" in own else data.pooled("test")
    sums = measure(bench.model, bench.task, wider, evaluation.batch_size, bench.device)
    return {"server": {"test": bench.task.metrics(sums)}, "sites": figures.figures()}, sums


def _over(sites: Mapping[str, Mapping[str, float]], at_home: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of `sites`, and the mean, worst and spread of `at_home`, by name."""
    result = {}
    for name in sorted({name for figures in sites.values() for name in figures}):
        result[name] = float(np.mean([figures[name] for figures in sites.values() if name in figures]))
        own = [figures[name] for figures in at_home.values() if name in figures]
        if own:
            worst = (max if lower_is_better(name) else min)(own)
            result |= {f"site_mean_{name}": float(np.mean(own)), f"site_worst_{name}": worst, f"site_spread_{name}": float(np.std(own))}
    return result


def _bench(experiment: Experiment, data: Federated, folder: RunFolder) -> Workbench:
    return Workbench.set_up(experiment, data.shape, data.classes, len(data.sites), folder.path / "sites")


def _record(number: int, loss: float, examples: int, evaluation: Any, train: float, evaluate: float) -> dict[str, Any]:
    seconds = {"send": 0.0, "train": train, "sum": 0.0, "evaluate": evaluate, "total": train + evaluate}
    return {
        "round": number, "attempt": 1, "status": "counted", "asked": ["pooled"], "answered": ["pooled"], "declined": {}, "refused": {}, "missing": {},
        "train": {"loss": loss, "examples": examples}, "update_norm": None, "evaluation": evaluation, "seconds": seconds, "simulated_seconds": None,
    }  # fmt: skip
