"""Statistics of private images: one vector a unit, bounded by what is public, summed, and released once under Gaussian noise.

A unit (an image, a subject, or a site, as the run promises) gives the mean over its images of

    1 for itself; and per channel the mean intensity, the mean of its square, and the shares of the 64 cells of intensity; and
    the share of its images in each class

each of the five parts divided by the largest norm that it can have, so that the vector's L2 norm is at most √5 whatever the
images hold.  That is the sensitivity, S: one unit added or removed moves the sum by S or less.  The noise has the standard
deviation σ S in each number.  Dwork, Roth 2014, appendix A; the figure is by the run's accountant, of one step at rate 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fedvision.data.masks import pixels_by_class
from fedvision.data.site import Examples
from fedvision.data.statistics import BINS
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.protections import DpSgd
from fedvision.types import Guarantee
from privacy.accountants import Phase, epsilon
from privacy.ledger.figures import Event
from privacy.ledger.terms import Terms, config_hash
from privacy.noise import Source
from privacy.plan import Plan

PARTS = 5
SENSITIVITY = math.sqrt(PARTS)
SCALE = 1 << 20  # steps of a rounded sum in 1
_AT_ONCE = 256  # images in memory at a time


@dataclass(frozen=True)
class Parts:
    """What the vectors hold, in this order: the unit [1], `sum` [C], `squares` [C], `intensity` [C·BINS], `labels` [K].

    several: whether an image may be of several classes.
    """

    channels: int
    classes: int
    several: bool

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers each part has."""
        return {
            "units": 1,
            "sum": self.channels,
            "squares": self.channels,
            "intensity": self.channels * BINS,
            "labels": self.classes,
        }

    @property
    def largest(self) -> np.ndarray:
        """float64: the largest L2 norm of the part that each number is of: every channel's numbers are at most 1 together."""
        by_channel, by_class = math.sqrt(self.channels), math.sqrt(self.classes) if self.several else 1.0
        norms = {"units": 1.0, "sum": by_channel, "squares": by_channel, "intensity": by_channel, "labels": by_class}
        return np.concatenate([np.full(size, norms[name]) for name, size in self.sizes.items()])

    def taken_apart(self, total: np.ndarray) -> dict[str, np.ndarray]:
        """The parts of a sum, at the scale that they had before they were divided."""
        ends = np.cumsum(list(self.sizes.values()))[:-1]
        return dict(zip(self.sizes, np.split(total * self.largest, ends), strict=True))


def of_site(examples: Examples, parts: Parts, unit: str) -> np.ndarray:
    """float64: the sum over a site's units of their vectors, each clipped to S; ConfigError where units cannot be told apart."""
    total = np.zeros(sum(parts.sizes.values()))
    for rows in _units(examples, unit):
        total += clipped(_mean(examples, rows, parts) / parts.largest)
    return total


def clipped(vector: np.ndarray) -> np.ndarray:
    """`vector`, or shorter in its direction, so that its norm is at most S also when its numbers have been rounded."""
    most = SENSITIVITY - math.sqrt(len(vector)) / 2 / SCALE
    return vector * min(1.0, most / max(float(np.linalg.norm(vector)), 1e-30))


def rounded(total: np.ndarray) -> np.ndarray:
    """int64: `total` in steps of 2⁻²⁰, so that sums of it know no order, and can be masked."""
    return np.rint(total * SCALE).astype(np.int64)


def noisy(total: np.ndarray, noise_multiplier: float, source: Source) -> np.ndarray:
    """`total` with independent N(0, (σ S)²) on each number."""
    noise = torch.zeros(len(total))
    source.add_gaussian(noise, noise_multiplier * SENSITIVITY)
    return total + noise.numpy().astype(np.float64)


def _units(examples: Examples, unit: str) -> Iterator[np.ndarray]:
    """The positions of each unit's images."""
    everything = np.arange(len(examples))
    if unit == "site":
        yield from [everything] if len(examples) else []
    elif unit == "example":
        yield from everything[:, None]
    else:
        subjects = examples.subjects
        if subjects is None:
            raise ConfigError("privacy.unit = subject, and the data set does not say whom its images show; set privacy.unit to example")
        for subject in np.unique(subjects):
            yield np.flatnonzero(subjects == subject)


def _mean(examples: Examples, rows: np.ndarray, parts: Parts) -> np.ndarray:
    """The mean over these images, before any part is divided."""
    total = np.zeros(sum(parts.sizes.values()))
    for start in range(0, len(rows), _AT_ONCE):
        at = rows[start : start + _AT_ONCE]
        images = examples.images(at)
        n, channels = images.shape[:2]
        flat = images.reshape(n, channels, -1).astype(np.int64)
        cells = np.arange(channels)[None, :, None] * BINS + flat * BINS // 256
        shares = np.bincount(cells.ravel(), minlength=channels * BINS) / flat.shape[2]
        light = flat / 255
        numbers = [[float(n)], light.mean(2).sum(0), (light * light).mean(2).sum(0), shares, _labels(examples, at, parts)]
        total += np.concatenate(numbers)
    return total / len(rows)


def _labels(examples: Examples, at: np.ndarray, parts: Parts) -> np.ndarray:
    """How many of these images are of each class; of images with masks, those that show some of it."""
    if not parts.several:
        return np.bincount(examples.labels[at], minlength=parts.classes).astype(np.float64)
    masks = examples.targets_at(torch.from_numpy(at)).numpy()
    return np.asarray((pixels_by_class(masks, parts.classes) > 0).sum(0), np.float64)


def terms_of(experiment: Experiment, noise_multiplier: float) -> tuple[Plan, Terms]:
    """What the release promises and how it is charged: one step over every unit, by the run's δ, unit, relation and accountant."""
    p = experiment.privacy
    if p is None:
        raise ConfigError("privacy = null: there is no promise that the statistics could be a part of")
    phase, unit = Phase(noise_multiplier, 1.0, 1), p.unit if isinstance(p, DpSgd) else "site"
    at = p.sites_per_unit if isinstance(p, DpSgd) else 1

    def promised(times: int) -> Guarantee:
        found = epsilon([Phase(noise_multiplier, 1.0, times)], p.delta, p.accountant, p.relation)
        return Guarantee(found, p.delta, unit, p.relation, p.accountant)

    plan = Plan(p.mechanism, phase, 1, promised(1), promised(at), at)
    event = Event(p.mechanism, noise_multiplier, SENSITIVITY, 1.0, 1, None, "all", unit, p.relation, p.delta)
    terms = Terms(event, 1, at, p.mechanism == "central", False, False, experiment.ledger.pld_every, config_hash(experiment))
    return plan, terms


def together(plan: Plan, experiment: Experiment) -> Guarantee | None:
    """What a unit is promised by a run and the statistics that gave its mean and std; None where they cost nothing."""
    sigma, g = experiment.data.statistics_noise, plan.guarantee
    if sigma is None:
        return None
    run = Phase(plan.noise_multiplier, plan.a_round.sampling_rate, plan.a_round.steps * plan.rounds)
    found = epsilon([run, Phase(sigma, 1.0, 1)], g.delta, g.accountant, g.relation)
    return Guarantee(found, g.delta, g.unit, g.relation, g.accountant)
