"""A plan made visible before anything is spent: the figures, what else could be had, and a picture."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedvision.experiment import Experiment
from fedvision.protections import DpSgd
from privacy.plan import Plan, calibrate, noise_to_signal, plan_of

TARGETS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)


@dataclass(frozen=True)
class Facts:
    """A plan and the numbers of its run.  divisor: what a noisy sum is divided by, units; parameters: trained numbers."""

    plan: Plan
    parameters: int
    divisor: float
    clip: float

    @property
    def noise_to_signal(self) -> float:
        """Norm of the noise in one release over the clip norm, after averaging."""
        return noise_to_signal(self.plan, self.parameters, self.divisor)

    def as_json(self) -> dict[str, Any]:
        """One flat object."""
        g = self.plan.guarantee
        return {
            **asdict(g),
            "epsilon_over_sites": self.plan.over_sites.epsilon,
            "sites_per_unit": self.plan.sites_per_unit,
            "mechanism": self.plan.mechanism,
            "noise_multiplier": self.plan.noise_multiplier,
            "sampling_rate": self.plan.a_round.sampling_rate,
            "steps": self.plan.a_round.steps * self.plan.rounds,
            "divisor": self.divisor,
            "clip": self.clip,
            "parameters": self.parameters,
            "noise_to_signal": self.noise_to_signal,
        }


@dataclass(frozen=True)
class Alternative:
    """What another ε would take with the same rate, steps and δ."""

    epsilon: float
    noise_multiplier: float
    noise_to_signal: float

    def as_json(self) -> dict[str, float]:
        """One flat object."""
        return asdict(self)


def facts(experiment: Experiment) -> Facts:
    """The plan of `experiment`, and what its model makes of it.  Opens the data set, for the images' shape alone."""
    from fedvision.data.federation import open_dataset
    from fedvision.models import build, parts
    from fedvision.tasks import task_of

    plan, p = plan_of(experiment), experiment.privacy
    assert p is not None
    dataset = open_dataset(experiment)
    model = build(experiment, dataset.shape, task_of(experiment, dataset.outputs).outputs)
    count = sum(model.get_parameter(name).numel() for name in parts(model, experiment).weights)
    return Facts(plan, count, p.divisor if isinstance(p, DpSgd) else float(asked(experiment)), p.clip)


def asked(experiment: Experiment) -> float:
    """The public number of sites that a round asks; expected, where each is drawn by chance."""
    from fedvision.errors import ConfigError

    f, sites = experiment.federation, experiment.partition.sites
    if f.cohort is not None:
        return f.cohort
    if sites is None:
        raise ConfigError(
            "partition.sites = null: site-level privacy divides by the number of sites, which must be stated; set partition.sites"
        )
    return sites if f.rate is None else f.rate * sites


def alternatives(experiment: Experiment, known: Facts) -> list[Alternative]:
    """The noise that other targets would take."""
    g, phase = known.plan.guarantee, known.plan.a_round
    rows = []
    for target in TARGETS:
        sigma = calibrate(phase.sampling_rate, phase.steps * known.plan.rounds, target, g.delta, g.accountant, g.relation)
        rows.append(Alternative(target, sigma, sigma * math.sqrt(known.parameters) / known.divisor))
    return rows


def told(known: Facts, others: Sequence[Alternative]) -> list[Any]:
    """Lines and a table for a person."""
    from rich.table import Table

    plan, phase = known.plan, known.plan.a_round
    lines: list[Any] = [
        f"promise: {plan.guarantee}",
        f"by: {plan.mechanism}, noise multiplier {plan.noise_multiplier:.4f}, clip norm {known.clip:g}, rate {phase.sampling_rate:g}, "
        f"{phase.steps} steps × {plan.rounds} rounds, sums divided by {known.divisor:g}",
        f"noise to signal: {known.noise_to_signal:.3g} a release (norm of the noise over the clip norm; {known.parameters:,} trained numbers)",
    ]
    if plan.sites_per_unit > 1:
        lines.append(f"held at {plan.sites_per_unit} sites: {plan.over_sites}")
    if plan.mechanism == "central" and known.noise_to_signal > 20:
        lines.append(
            f"warning: the noise is {known.noise_to_signal:.0f} times the largest signal; train fewer parameters, ask more sites, or protect examples"
        )
    table = Table(box=None, title="the same steps at other targets", title_justify="left")
    for name in ("ε", "noise multiplier", "noise to signal"):
        table.add_column(name, justify="right")
    for row in others:
        table.add_row(f"{row.epsilon:g}", f"{row.noise_multiplier:.3f}", f"{row.noise_to_signal:.3g}")
    return [*lines, table]


def draw(experiment: Experiment, known: Facts, others: Sequence[Alternative], path: Path) -> Path:
    """ε over the rounds, and the noise that each ε takes, as a PNG."""
    from matplotlib.figure import Figure

    plan = known.plan
    rounds = sorted({max(1, round(plan.rounds * share)) for share in (0.05, 0.15, 0.3, 0.5, 0.75, 1.0)})
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, *rounds], [0.0, *(plan.spent(r).epsilon for r in rounds)], marker="o", color="#2a6f97")
    left.axhline(
        plan.guarantee.epsilon, color="#c1121f", linewidth=1, linestyle="--", label=f"the promise, ε = {plan.guarantee.epsilon:.2f}"
    )
    left.set(
        xlabel="rounds that a site took part in", ylabel=f"ε at δ = {plan.guarantee.delta:g} per {plan.guarantee.unit}", ylim=(0, None)
    )
    left.set_title(f"{experiment.name}: what is spent ({plan.guarantee.accountant})")
    right.plot([row.epsilon for row in others], [row.noise_to_signal for row in others], marker="o", color="#2a6f97", label="other targets")
    right.plot([plan.guarantee.epsilon], [known.noise_to_signal], marker="D", color="#c1121f", linestyle="", label="this plan")
    right.set(xlabel=f"ε per {plan.guarantee.unit}", ylabel="noise over clip norm, a release", ylim=(0, None))
    right.set_title("what other promises would take")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path
