"""The statistics of a private run's sites: charged at each site before anything is released, and noised as the run is.

Where the run's noise is the sites' own (dp_sgd, local), each site adds it to its sum; where it is the coordinator's
(central), it is added once to the sum of all.  Under masks what leaves a site is masked besides.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fedvision.data.federation import Federated, open_federated
from fedvision.data.statistics import BINS, FEWEST_SITES, Released, Statistics
from fedvision.errors import BudgetExhausted, ConfigError, DataError
from fedvision.experiment import Experiment
from fedvision.holdings import OWN_IMAGES
from fedvision.tracking.folder import RunFolder
from fedvision.types import SiteId, TrainRequest
from privacy.account import request_hash, state_hash
from privacy.noise import Source, for_simulation_only, secret
from privacy.plan import Plan
from privacy.statistics import SCALE, SENSITIVITY, Parts, noisy, of_site, rounded, terms_of
from simulations.each_site import Say, quietly
from simulations.ledgers import Ledgers, ledgers_under
from simulations.masked_statistics import masked_sum

ROUND, ATTEMPT = 0, 1  # of the one request


def private_statistics(experiment: Experiment, noise_multiplier: float, folder: Path, say: Say = quietly) -> Statistics:
    """The statistics of the experiment's sites under its promise, released once with this σ; what was spent is in `folder`.

    ConfigError where the promise cannot be kept for them, DataError where too few sites pay or the noise leaves nothing."""
    plan, terms = terms_of(experiment, noise_multiplier)
    data = open_federated(experiment)
    parts = _parts(experiment, data)
    kept = RunFolder.create(experiment, "statistics", folder)
    ledgers = ledgers_under(kept, kept.path / "sites", experiment, data.sites, plan, terms, say)
    release = _Release(experiment, data, parts, plan, ledgers)
    total, sites = release.total()
    head = ledgers.close(say)
    promised = {**asdict(plan.guarantee), "text": str(plan.guarantee), "noise_multiplier": noise_multiplier, "ledger_head": head}
    kept.write_summary(kept.summary() | {"status": "completed", "rounds": 1, "privacy": promised})
    return _told(experiment, data, parts.taken_apart(total), sites, plan, release.noises(sites))


def _parts(experiment: Experiment, data: Federated) -> Parts:
    """What the vectors hold, all of it public; ConfigError where no bound of one unit's part is known."""
    p, dataset = experiment.privacy, data.dataset
    assert p is not None
    if p.simulation_only_seed is not None and experiment.data.dataset in OWN_IMAGES:
        raise ConfigError("privacy.simulation_only_seed: noise that repeats, on images of one's own; set it to null")
    if len(dataset.labels) and int(dataset.labels.min()) < 0:
        raise ConfigError(f"data.dataset = {dataset.name} has images without a class, so that a histogram of labels is not defined")
    return Parts(data.shape[0], len(dataset.classes), dataset.has_masks)


@dataclass(frozen=True)
class _Release:
    """One release: each site charges, counts, and sends."""

    experiment: Experiment
    data: Federated
    parts: Parts
    plan: Plan
    ledgers: Ledgers

    def total(self) -> tuple[np.ndarray, list[SiteId]]:
        """The noisy sum, and the sites that paid for their part of it."""
        coordinator = self.ledgers.coordinator
        request = TrainRequest(coordinator.run, ROUND, ATTEMPT, {})
        witness = coordinator.request(request, self.data.sites)
        paid = {site: entry for site in self.data.sites if (entry := self._charged(site, request, witness))}
        if len(paid) < FEWEST_SITES:
            raise DataError(
                f"the accounts of {len(paid)} sites pay for the statistics, and {FEWEST_SITES} are needed; see {self.ledgers.states}"
            )
        total = self._sum(list(paid)) / SCALE
        if self._central:
            total = noisy(total, self.plan.noise_multiplier, self._source("coordinator"))
        of = request_hash(request)
        for site in paid:
            self.ledgers.account(site).settle(ROUND, ATTEMPT)
            self.ledgers.of(site).settle(of)
        coordinator.receive(ROUND, ATTEMPT, {str(site): coordinator.checked(str(site), entry, request) for site, entry in paid.items()})
        return total, list(paid)

    def noises(self, sites: Sequence[SiteId]) -> int:
        """How many independent noises are in the sum."""
        return 1 if self._central else len(sites)

    @property
    def _central(self) -> bool:
        return self.plan.mechanism == "central"

    def _charged(self, site: SiteId, request: TrainRequest, witness: str) -> bytes:
        """The site's charge, on disk when this returns; b"" where its account does not hold it."""
        terms, of, ledger = self.ledgers.coordinator.terms, request_hash(request), self.ledgers.of(site)
        try:
            self.ledgers.account(site).reserve(ROUND, ATTEMPT)
            ledger.charge(of, ROUND, ATTEMPT, state_hash(request.model), witness, terms.event.clip)
        except BudgetExhausted:
            return b""
        return ledger.entry(of)

    def _sum(self, sites: Sequence[SiteId]) -> np.ndarray:
        if self.experiment.secure_aggregation.enabled:
            size, layout = sum(self.parts.sizes.values()), f"{self.parts}"
            return masked_sum(self.data, self.experiment, sites, size, layout, self._sent)
        return np.sum([self._sent(site) for site in sites], axis=0)

    def _sent(self, site: SiteId) -> np.ndarray:
        """int64: what leaves the site."""
        own = of_site(self.data.site(site).train, self.parts, self.plan.guarantee.unit)
        return rounded(own if self._central else noisy(own, self.plan.noise_multiplier, self._source(site)))

    def _source(self, who: str) -> Source:
        p = self.experiment.privacy
        assert p is not None
        return secret() if p.simulation_only_seed is None else for_simulation_only(p.simulation_only_seed, "statistics", who)


def _told(
    experiment: Experiment, data: Federated, found: dict[str, np.ndarray], sites: Sequence[SiteId], plan: Plan, noises: int
) -> Statistics:
    """What is said of a noisy sum: computed from it alone."""
    units, g = float(found["units"][0]), plan.guarantee
    spread = plan.noise_multiplier * SENSITIVITY * noises**0.5
    if units < 2 * spread:
        raise DataError(
            f"the noisy number of {g.unit}s is {units:.0f}, and its noise has a standard deviation of {spread:.0f}: nothing can be told of so few; "
            "it was spent all the same; take a smaller --noise, or have more"
        )
    mean = np.clip(found["sum"] / units, 0.0, 1.0)
    variance = found["squares"] / units - mean**2
    if variance.min() <= 0:
        raise DataError(
            "the noise leaves no standard deviation above 0 to divide by; it was spent all the same; take a smaller --noise, or have more"
        )
    shares = np.maximum(found["intensity"].reshape(-1, BINS), 0.0)
    labels: dict[str, int | None] = {
        name: max(0, round(float(count))) for name, count in zip(data.dataset.classes, found["labels"], strict=True)
    }
    return Statistics(
        data.dataset.name, data.fingerprint, len(sites), max(0, round(units)), 0, mean.tolist(), np.sqrt(variance).tolist(),
        (shares / shares.sum(1, keepdims=True)).tolist(), labels, experiment.secure_aggregation.enabled,
        Released(plan.noise_multiplier, spread, **asdict(g)),
    )  # fmt: skip
