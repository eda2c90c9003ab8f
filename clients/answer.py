"""A site's answer to a request: the one piece of code that runs in a simulation, on Ray, on Flower and in a hospital."""

import logging
import traceback
from dataclasses import replace
from pathlib import Path

from clients.algorithms import Fitted
from clients.learn import learn
from clients.masked import answer_masked
from clients.private import train_at_site
from clients.training import Correct, learning_rate, mean_loss
from clients.workbench import Workbench
from fedvision.data.federation import Federated
from fedvision.data.site import Site
from fedvision.errors import LedgerDamaged, OutOfRange
from fedvision.evaluation import measure
from fedvision.seeds import seed_torch, stream
from fedvision.sums import COUNT
from fedvision.types import ClientUpdate, Declined, EvaluateRequest, Measured, Reply, Request, SecureRequest, SiteId, TrainRequest

log = logging.getLogger("fedvision.site")


def answer(request: Request, site: Site, bench: Workbench) -> Reply:
    """The reply of `site`.  Whatever goes wrong at a site is its `Declined`: where in the code, and nothing of the data;
    the traceback goes to the site's own log."""
    try:
        if bench.experiment.secure_aggregation.enabled and not isinstance(request, SecureRequest):
            return Declined(site.id, request.round, "masked", "what this site gives, it gives under masks alone")
        if isinstance(request, EvaluateRequest):
            if bench.protection is not None:
                return Declined(site.id, request.round, "private", "figures of private images are not given in the clear")
            return _evaluate(request, site, bench)
        train = train_at_site if bench.protection is not None else _train
        if isinstance(request, SecureRequest):
            return answer_masked(request, site, bench, train)
        return train(request, site, bench)
    except LedgerDamaged as error:
        log.error("site %s, round %d: %s", site.id, request.round, error)
        return Declined(site.id, request.round, "ledger", "its record of what was spent is not as it was written, so it spends no more")
    except OutOfRange as error:
        return Declined(site.id, request.round, "out_of_range", str(error))
    except Exception as error:  # the boundary of a site: its failure is a value, so that the other sites go on
        return _failed(site.id, request, "error", error)


def answer_for(request: Request, id: SiteId, data: Federated, bench: Workbench) -> Reply:
    """The reply of the site `id` of `data`, which is opened here: where it cannot be, that is the site's `Declined` too."""
    try:
        site = data.site(id)
    except Exception as error:  # a data set of one's own may raise anything
        return _failed(id, request, "cannot_open", error)
    return answer(request, site, bench)


def _failed(site: SiteId, request: Request, code: str, error: Exception) -> Declined:
    log.exception("site %s, round %d", site, request.round)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Declined(site, request.round, code, f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}")


def _evaluate(request: EvaluateRequest, site: Site, bench: Workbench) -> Measured:
    bench.load(request.model, bench.states.current(site.id, request.counted) if bench.rule.personal else {})
    examples = site.part(request.part)
    return Measured(
        site.id, request.round, measure(bench.model, bench.task, examples, bench.experiment.evaluation.batch_size, bench.device)
    )


def unfit(request: TrainRequest, site: SiteId, n: int, bench: Workbench) -> Declined | None:
    """Why a site of `n` training examples cannot train; None where it can."""
    limit = bench.experiment.federation.max_examples
    if n > limit:
        return Declined(site, request.round, "too_many_examples", f"more than federation.max_examples = {limit}")
    if n == 0 or (n == 1 and not bench.lonely):
        return Declined(site, request.round, "too_few_examples", "BatchNorm needs two examples to train on" if n else "no training data")
    return None


def _train(request: TrainRequest, site: Site, bench: Workbench) -> ClientUpdate | Declined:
    experiment, n = bench.experiment, len(site.train)
    training = experiment.training
    if (declined := unfit(request, site.id, n, bench)) is not None:
        return declined
    own = bench.states.current(site.id, request.counted)
    bench.states.forget_before(site.id, request.counted)
    bench.load(request.model, {name: own[name] for name in bench.parts.home} if own and bench.parts.home else {})
    names = ("site", site.id, "round", request.round)
    rate = learning_rate(training, request.round, experiment.federation.rounds)

    def fit(correct: Correct | None, *part: str, epochs: int | None = None) -> Fitted:
        seed_torch(experiment.seed, *names, *part)
        plan = None if epochs is None else training.model_copy(update={"epochs": epochs, "steps": None})
        return learn(bench, site.train, (*names, *part), request.round, correct, training=plan)

    start = bench.start(site.id, request, own, rate)
    if bench.rule.measures_loss:
        start = replace(start, loss=mean_loss(bench.model, bench.task, site.train, experiment.evaluation.batch_size, bench.device))
    fitted = bench.rule.train(start, fit)
    fields, keep = bench.rule.finish(start, fitted, {name: bench.tensors[name] for name in bench.parts.home})
    count = n if experiment.federation.weighting == "examples" else 1
    values = {**bench.updates(request.model), **fields, "loss": fitted.loss, COUNT: count, "examples": n}
    chance = stream(experiment.seed, *names, "rounding") if experiment.encoding.rounding == "stochastic" else None
    vector = bench.encode(values, count, chance)
    if keep:
        bench.states.keep(site.id, request.round, dict(keep))
    return ClientUpdate(site.id, request.round, request.attempt, vector, bench.layout.digest, fitted.seen)
