"""A site's private training: what it does with the model in one round, and what of it may leave.

What leaves is the update alone, after noise (dp_sgd, local) or clipped for the coordinator's noise (central): no loss, no
count, no size, and no refusal that depends on them.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from clients.algorithms import Fields, Fitted
from clients.learn import learn
from clients.training import learning_rate
from clients.workbench import Workbench
from fedvision.algorithms import SITE_STATE
from fedvision.data.site import Site
from fedvision.errors import BudgetExhausted
from fedvision.experiment import keeps_replies
from fedvision.holdings import OWN_IMAGES
from fedvision.protections import Central, DpSgd
from fedvision.seeds import seed_torch, stream
from fedvision.sums import COUNT
from fedvision.types import ClientUpdate, Declined, SiteId, State, TrainRequest
from privacy.account import Replies, request_hash, state_hash
from privacy.attacks.canaries import Canaries
from privacy.attacks.images import pictures_at
from privacy.budget import RunAccount
from privacy.client_level import EXTRA, UNCLIPPED, clipped, noisy, rounding_of
from privacy.ledger.site import SiteLedger
from privacy.membership import ledger_key
from privacy.noise import Source, for_simulation_only, secret
from privacy.site_account import site_account
from privacy.training import train_privately


def ledger_of(run: str, site: SiteId, bench: Workbench) -> SiteLedger:
    """The site's chain of this run, opened once a worker."""
    assert bench.protection is not None
    known = bench.ledgers.get(site)
    if known is None or known.run != run:
        key = ledger_key(bench.states.folder, run, site)
        known = bench.ledgers[site] = SiteLedger.of(bench.states.folder, key, site, account_of(run, site, bench))
    return known


def charged(request: TrainRequest, site: SiteId, bench: Workbench) -> bytes:
    """The line of the site's ledger that charges `request`; none where it was not charged."""
    ledger, asked = ledger_of(request.run, site, bench), request_hash(request)
    return ledger.entry(asked) if ledger.has(asked) else b""


def train_at_site(request: TrainRequest, site: Site, bench: Workbench) -> ClientUpdate | Declined:
    """The site's reply: the one that it gave already, or a new one, charged before it is computed."""
    experiment, p = bench.experiment, bench.experiment.privacy
    assert p is not None and bench.protection is not None
    if p.simulation_only_seed is not None and experiment.data.dataset in OWN_IMAGES:
        return Declined(site.id, request.round, "not_private", "privacy.simulation_only_seed: noise that repeats, on images of one's own")
    kept = Replies(bench.states.folder, site.id) if keeps_replies(experiment) else None
    ledger, asked = ledger_of(request.run, site.id, bench), request_hash(request)
    if why := ledger.gone_back(request.seen):
        return Declined(site.id, request.round, "ledger", why)
    if kept is not None:
        kept.forget(request.counted)
        vector = kept.find(request, bench.layout.digest)
        if vector is not None:
            return _update(request, site, bench, vector, ledger.entry(asked))
    clip = float(request.extras[EXTRA]["clip"]) if isinstance(p, Central) else p.clip
    account = account_of(request.run, site.id, bench)
    ledger.require_paid(account.paid)
    try:
        account.reserve(request.round, request.attempt)
        ledger.charge(asked, request.round, request.attempt, state_hash(request.model), request.witness, clip)
    except BudgetExhausted as error:
        return Declined(site.id, request.round, "budget", str(error))
    reply = replace(_train(request, site, bench), entry=ledger.entry(asked))
    if kept is not None:
        kept.keep(request, reply)
    account.settle(request.round, request.attempt)
    ledger.settle(asked)
    return reply


def account_of(run: str, site: SiteId, bench: Workbench) -> RunAccount:
    """The account that pays for the site's part in this run, opened once a worker."""
    assert bench.protection is not None
    known = bench.accounts.get(site)
    if known is None or known.run != run:
        known = bench.accounts[site] = site_account(
            bench.states.folder, site, run, bench.experiment, bench.protection.plan, bench.protection.terms
        )
    return known


def _train(request: TrainRequest, site: Site, bench: Workbench) -> ClientUpdate:
    experiment, p = bench.experiment, bench.experiment.privacy
    assert p is not None and bench.protection is not None
    training = experiment.training
    own = bench.states.current(site.id, request.counted) if experiment.strategy.name in SITE_STATE else {}
    bench.load(request.model, {})
    names = ("site", site.id, "round", request.round)
    source = secret() if p.simulation_only_seed is None else for_simulation_only(p.simulation_only_seed, *names, "attempt", request.attempt)
    seed_torch(experiment.seed, *names)
    rate = learning_rate(training, request.round, experiment.federation.rounds)
    start = bench.start(site.id, request, own, rate)
    fields: Fields = {}
    keep: State = {}
    if isinstance(p, DpSgd):
        assert bench.protection.stepper is not None
        steps, optimizer = training.steps or 1, bench.fresh_optimizer(rate)
        canaries = Canaries(bench.states.folder, site.id)
        shadow = canaries.shadow(p, bench.protection.plan.noise_multiplier)
        examples = site.train
        if p.audit is not None and p.audit.kind == "images":
            examples = pictures_at(bench.states.folder, site.id, p).among(examples, len(bench.task.classes))
        train_privately(bench.model, bench.protection.stepper, examples, steps, optimizer, source, bench.rule.correct(start), shadow)
        if shadow is not None:
            canaries.scored(shadow, request.round, request.attempt)
        fields, keep = bench.rule.finish(start, Fitted(float("nan"), 0, steps, rate * steps), {})
        values: dict[str, Any] = {**bench.updates(request.model), **fields}
    else:
        if len(site.train):
            learn(bench, site.train, names, request.round, bench.rule.correct(start))
        values = _clipped(request, bench, source)
    values[COUNT] = 1
    chance = stream(experiment.seed, *names, "rounding") if experiment.encoding.rounding == "stochastic" else None
    vector = bench.encoder.encode(values, 1, chance)
    if keep:
        bench.states.keep(site.id, request.round, dict(keep))
    return _update(request, site, bench, vector)


def _clipped(request: TrainRequest, bench: Workbench, source: Source) -> dict[str, Any]:
    """The update, clipped for central noise, or clipped and noised here."""
    p = bench.experiment.privacy
    assert p is not None and bench.protection is not None
    update = {n: bench.tensors[n].cpu().numpy() - request.model[n].numpy() for n in bench.parts.weights}
    clip = float(request.extras[EXTRA]["clip"]) if isinstance(p, Central) else p.clip
    bounded, within = clipped(update, clip, rounding_of(bench.layout))
    if isinstance(p, Central):
        bits = {UNCLIPPED: float(within)} if p.adaptive is not None else {}
        return {"weights": bounded, **bits}
    return {"weights": noisy(bounded, bench.protection.plan.noise_multiplier * clip, source)}


def _update(request: TrainRequest, site: Site, bench: Workbench, vector: np.ndarray, entry: bytes = b"") -> ClientUpdate:
    """The reply.  Its `work`, which the simulated clock runs on, is a public number too."""
    p, steps = bench.experiment.privacy, bench.experiment.training.steps or 1
    work = round(steps * p.divisor * p.views) if isinstance(p, DpSgd) else steps * (bench.experiment.training.batch_size or 1)
    return ClientUpdate(site.id, request.round, request.attempt, vector, bench.layout.digest, work, entry)
