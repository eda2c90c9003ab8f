"""What the coordinator does for a run's promise: the noise of sums, the average of models, the odometer, and the words."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedvision.experiment import Experiment
from fedvision.protections import Central, DpSgd
from privacy.averaging import Averaged
from privacy.client_level import CentralNoise
from privacy.plan import Plan
from privacy.planning import asked
from privacy.statistics import together


def protected(strategy: Any, experiment: Experiment, plan: Plan | None) -> Any:
    """The run's strategy under its protections; the strategy itself where there are none."""
    p = experiment.privacy
    if p is None or plan is None:
        return strategy
    if isinstance(p, Central):
        strategy = CentralNoise(strategy, p, plan.noise_multiplier, asked(experiment), plan.a_round.sampling_rate)
    return Averaged(strategy, p.ema) if p.ema is not None else strategy


@dataclass
class Accounted:
    """A recorder that adds to each round what has been spent so far: by the site that was asked most often."""

    recorder: Any
    plan: Plan
    rounds: Counter[str]
    every: int

    @classmethod
    def of(cls, recorder: Any, plan: Plan, records: Iterable[Mapping[str, Any]], sites: Iterable[str], every: int) -> "Accounted":
        """records: of the rounds that are done already."""
        counted = cls(recorder, plan, Counter(dict.fromkeys(sites, 0)), every)
        for record in records:
            counted._count(record)
        return counted

    def asked(self, round: int, sites: int) -> None:
        """Requests go out."""
        self.recorder.asked(round, sites)

    def replied(self) -> None:
        """One site has replied."""
        self.recorder.replied()

    def done(self, state: Any, progress: Any, record: dict[str, Any], best: bool) -> None:
        """A round is over."""
        self._count(record)
        if record.get("evaluation") is not None or (record["round"] + 1) % self.every == 0:
            most = min(max(self.rounds.values(), default=0), self.plan.rounds)
            record["privacy"] = {"rounds_spent": most, **asdict(self.plan.spent(most))}
        self.recorder.done(state, progress, record, best)

    def _count(self, record: Mapping[str, Any]) -> None:
        """Where a round took several attempts, each may have asked anyone: every site is taken to have paid them all.
        Central noise is drawn once a round, however often it was tried."""
        attempts = 1 if self.plan.mechanism == "central" else int(record["attempt"])
        self.rounds.update(dict.fromkeys(record["asked"] if attempts == 1 else list(self.rounds), attempts))


def promise(plan: Plan, experiment: Experiment) -> dict[str, Any]:
    """What the summary says of the promise."""
    p, composed = experiment.privacy, together(plan, experiment)
    assert p is not None
    return {
        **asdict(plan.guarantee),
        "text": str(plan.guarantee),
        "mechanism": plan.mechanism,
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": plan.a_round.sampling_rate,
        "steps": plan.a_round.steps * plan.rounds,
        "clip": p.clip,
        "private": p.simulation_only_seed is None,
        "sites_per_unit": plan.sites_per_unit,
        "epsilon_over_sites": plan.over_sites.epsilon,
        "epsilon_with_statistics": None if composed is None else composed.epsilon,
    }


def words(plan: Plan, experiment: Experiment) -> list[str]:
    """The promise in sentences, for the report and the screen."""
    p = experiment.privacy
    assert p is not None
    whom = {
        "dp_sgd": "against everyone outside its site",
        "central": "against all but the coordinator",
        "local": "against everyone outside it",
    }
    lines = [
        f"privacy: {plan.guarantee}, {whom[plan.mechanism]}; noise multiplier {plan.noise_multiplier:.4g}, clip norm {p.clip:g}, "
        f"rate {plan.a_round.sampling_rate:g}, {plan.a_round.steps * plan.rounds} steps"
    ]
    composed = together(plan, experiment)
    if composed is not None:
        lines.append(f"privacy: with the statistics that gave data.mean and data.std, released before on the same data: {composed}")
    if plan.a_round.sampling_rate < 1 and plan.mechanism == "central":
        lines.append(
            f"privacy: a round's sum is over a secret draw, each site with chance {plan.a_round.sampling_rate:g}: every site is asked, trains and has "
            "paid for the whole plan, and the coordinator alone knows whose updates were in"
        )
    if plan.mechanism == "dp_sgd":
        each = {"example": "an example", "subject": "a subject"}[plan.guarantee.unit]
        lines.append(
            f"privacy: this is for {each} held at one site"
            + (
                f"; one held at {plan.sites_per_unit} sites has {plan.over_sites}"
                if plan.sites_per_unit > 1
                else "; held at several, the figures compose"
            )
        )
    if isinstance(p, DpSgd) and p.audit is not None and p.audit.kind == "images":
        lines.append(
            f"privacy: canary images are IN this model: about {p.audit.canaries // 2} at each site, of noise and with labels at random, for the audit"
        )
    if p.simulation_only_seed is not None:
        lines.append("privacy: NOT PRIVATE: the noise comes from privacy.simulation_only_seed, and whoever knows the seed can subtract it")
    return lines
