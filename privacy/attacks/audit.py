"""The audit of a finished run: the stored scores of its canaries against what it claims.

Canaries of several sites are judged together: each is held at one site, so all of them together are m canaries of one private
run.  Each site is also judged by itself, at a confidence that holds for all sites at once.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from safetensors.torch import load_file
from torch import nn

from fedvision.data.dataset import Dataset
from fedvision.data.datasets import DATASETS
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.models import build
from fedvision.protections import Central, DpSgd
from fedvision.tasks import task_of
from fedvision.tracking.folder import RunFolder, write_atomically
from fedvision.types import Guarantee, SiteId
from privacy.attacks.canaries import FILE, Canaries, Shadow, traces_of
from privacy.attacks.images import FILE as IMAGES
from privacy.attacks.images import read_pictures, scored
from privacy.attacks.one_run import CONFIDENCE, RESULT, Bound, Traces, judged, planned_guesses
from privacy.client_level import CANARIES, noise_of_updates
from privacy.ledger.spent import books
from privacy.plan import Plan, plan_of

COORDINATOR = SiteId("the coordinator")
BLIND = 0.25  # of canary images that are guessed: what they leave in a model cannot be rehearsed


@dataclass(frozen=True)
class Found:
    """What an attack found, beside what was claimed of the same steps."""

    bound: Bound
    claimed: Guarantee

    @property
    def alarm(self) -> bool:
        """Whether the claim is refuted."""
        return self.bound.epsilon > self.claimed.epsilon

    @property
    def blind(self) -> bool:
        """Whether no outcome could have refuted the claim."""
        return self.bound.most <= self.claimed.epsilon

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {"bound": asdict(self.bound), "claimed": asdict(self.claimed), "alarm": self.alarm, "blind": self.blind}


@dataclass(frozen=True)
class Verdict:
    """together: over all sites' canaries.  sites: each by itself, at a confidence that holds for all of them at once."""

    together: Found
    sites: Mapping[SiteId, Found]
    private: bool

    @property
    def alarm(self) -> bool:
        """Whether any claim is refuted."""
        return self.together.alarm or any(found.alarm for found in self.sites.values())

    def as_json(self) -> dict[str, Any]:
        """One object."""
        each = {site: found.as_json() for site, found in self.sites.items()}
        return {**self.together.as_json(), "alarm": self.alarm, "sites": each, "private": self.private}

    def words(self) -> list[str]:
        """For the screen and the run's notes: claim and bound side by side, and what they mean."""
        bound, claimed = self.together.bound, self.together.claimed
        lines = [f"audit: claimed {claimed} | found {bound}"]
        refuted = [site for site, found in self.sites.items() if found.alarm]
        if self.alarm:
            where = f" at {', '.join(refuted)}" if refuted else ""
            lines.append(
                f"audit: ALARM: the bound is above what is claimed{where}: the run does not keep its promise; stop, and find out why"
            )
        elif self.together.blind:
            lines.append(
                f"audit: {bound.canaries:,} canaries show no ε above {bound.most:.2f}, which is under the claim: no fault could have been seen; "
                "more of them show more while their number times δ is far below 1, so raise privacy.audit.canaries or lower privacy.delta"
            )
        else:
            lines.append(
                f"audit: no alarm; faults that let out more than ε = {bound.most:.2f} could have been seen, smaller ones not surely"
            )
        return lines


def audited(run: Path) -> Verdict:
    """The verdict on a run folder, which is also left in it; ConfigError (exit 2) where the run had no canaries."""
    folder = RunFolder.open(run)
    experiment = folder.experiment()
    spec = experiment.privacy
    if not isinstance(spec, DpSgd | Central) or spec.audit is None:
        raise ConfigError(
            f"{run} had no canaries: train it again with --set privacy.audit.canaries=1000 (privacy.mechanism = dp_sgd or central)"
        )
    plan = plan_of(experiment)
    kept = canaries_of(folder, experiment, plan)
    if not kept:
        raise ConfigError(f"{run}: no site has scored its canaries yet: no round was trained, or its folder of sites was left out")
    paid = {SiteId(book.site): 0 if book.last is None else book.last.rounds for book in books(folder.path)}
    paid[COORDINATOR] = max(paid.values())  # what a site spends that was asked each time
    verdict = Verdict(*_judge(kept, paid, plan, spec.audit.kind), private=spec.simulation_only_seed is None)
    write_atomically(folder.path / RESULT, json.dumps(verdict.as_json(), indent=2).encode())
    return verdict


def canaries_of(folder: RunFolder, experiment: Experiment, plan: Plan) -> dict[SiteId, Shadow]:
    """The canaries of each site with their scores: kept at the sites, or where they are images, of the delivered model."""
    spec, states = experiment.privacy, folder.path / "sites"
    if isinstance(spec, Central):
        return _at_the_coordinator(folder, spec, plan)
    assert isinstance(spec, DpSgd) and spec.audit is not None
    traces = traces_of(spec, plan.noise_multiplier)
    if spec.audit.kind == "gradients":
        sites = [SiteId(unquote(path.parent.name)) for path in sorted(states.glob(f"*/{FILE}"))]
        read = {site: Canaries(states, site).read(traces) for site in sites}
        return {site: shadow for site, shadow in read.items() if shadow is not None and shadow.steps > 0}
    pictures = {SiteId(unquote(path.parent.name)): read_pictures(path) for path in sorted(states.glob(f"*/{IMAGES}"))}
    if not pictures or not (folder.path / "model.safetensors").exists():
        return {}
    model, dataset = _delivered(folder, experiment)
    return {site: Shadow(p.took_part, scored(p, model, dataset), traces, 1) for site, p in pictures.items() if p is not None}


def _at_the_coordinator(folder: RunFolder, spec: Central, plan: Plan) -> dict[SiteId, Shadow]:
    """The canaries in the newest checkpoint's state."""
    files = sorted((folder.path / "checkpoints").glob("round-*.safetensors"), key=lambda path: int(path.stem.removeprefix("round-")))
    if not files:
        return {}
    tensors = load_file(files[-1])
    traces = Traces(noise_of_updates(plan.noise_multiplier, spec.adaptive), plan.a_round.sampling_rate, spec.relation == "replace_one")
    took_part, scores = (tensors[f"{CANARIES}/{name}"].numpy() for name in ("took_part", "scores"))
    return {COORDINATOR: Shadow(took_part, scores, traces, int(tensors["clip/round"]))}


def _delivered(folder: RunFolder, experiment: Experiment) -> tuple[nn.Module, Dataset]:
    dataset = DATASETS[experiment.data.dataset].open(experiment.data)
    model = build(experiment, dataset.shape, task_of(experiment, dataset.classes).outputs)
    model.load_state_dict(load_file(folder.path / "model.safetensors"))
    return model, dataset


def _judge(kept: Mapping[SiteId, Shadow], paid: Mapping[SiteId, int], plan: Plan, kind: str) -> tuple[Found, dict[SiteId, Found]]:
    claimed = {site: plan.spent(paid[site]) for site in kept}
    strictest = 1 - (1 - CONFIDENCE) / len(kept)
    alone = {site: Found(_bound([shadow], plan, strictest, kind), claimed[site]) for site, shadow in kept.items()}
    most = max(claimed.values(), key=lambda g: g.epsilon)
    return Found(_bound(list(kept.values()), plan, CONFIDENCE, kind), most), alone


def _bound(kept: list[Shadow], plan: Plan, confidence: float, kind: str) -> Bound:
    scores = np.concatenate([shadow.scores for shadow in kept])
    took_part = np.concatenate([shadow.took_part for shadow in kept])
    delta = plan.guarantee.delta
    rehearsed = planned_guesses(kept[0].traces, kept[0].steps, len(scores), delta, confidence)
    guesses = rehearsed if kind == "gradients" else max(1, round(BLIND * len(scores)))
    return judged(scores, took_part, guesses, delta, confidence)
