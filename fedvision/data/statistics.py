"""Federated statistics of the images: whole numbers that each site counts over its training data and that are only ever summed.

What is said of the sum: mean and standard deviation per channel, exactly those of all images pooled, and histograms of
intensity and of labels, in which a cell is left out where fewer images than a floor stand behind it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedvision.data.masks import pixels_by_class
from fedvision.data.site import Examples
from fedvision.errors import ConfigError, DataError
from fedvision.evaluation import Sums, add

if TYPE_CHECKING:
    from fedvision.data.federation import Federated
    from fedvision.experiment import Experiment

    Summed = Callable[[Federated, Experiment], tuple[Sums, int]]

BINS = 64  # of the intensity histogram: 4 of the 256 values each
FEWEST_SITES = 3  # with two, each would learn the other's from the sum and its own
_AT_ONCE = 256  # images in memory at a time


@dataclass(frozen=True)
class Released:
    """What a private run's statistics were released under.  spread: standard deviation of the noise on the number of units.

    The others are those of a `fedvision.types.Guarantee`, of this release alone.
    """

    noise_multiplier: float
    spread: float
    epsilon: float
    delta: float
    unit: str
    relation: str
    accountant: str


@dataclass(frozen=True)
class Statistics:
    """What is said of the sum.

    mean, std: per channel, on the scale 0..1.  intensity: [C][BINS] shares of the pixels; labels: images by class.
    None stands for a cell with fewer than `floor` images behind it, and for one more where that one alone could be worked out.
    masked: whether the sites' counts left them under masks, so that nobody saw one site's.
    released: None where these are exact.  Else `images` and `labels` count units (images, subjects, or sites, each of which counts as
    one, however many images it holds), all figures have noise in them, and nothing is withheld: floor is 0.
    """

    dataset: str
    fingerprint: str
    sites: int
    images: int
    floor: int
    mean: list[float]
    std: list[float]
    intensity: list[list[float | None]]
    labels: dict[str, int | None]
    masked: bool = False
    released: Released | None = None

    @property
    def withheld(self) -> int:
        """How many cells of both histograms are left out."""
        return sum(value is None for value in self.labels.values()) + sum(value is None for row in self.intensity for value in row)


def counted(examples: Examples, classes: int) -> dict[str, np.ndarray]:
    """What one site adds to the sums, int64: `images` [1], `pixels` [1], `sum` and `squares` [C] of the bytes, `intensity` [C,BINS]
    pixels, `seen` [C,BINS] images with a pixel there, `labels` [classes] images (with masks: images that show some of the class).  {} where it holds nothing."""
    total: dict[str, np.ndarray] = {}
    for start in range(0, len(examples), _AT_ONCE):
        images = examples.images(np.arange(start, min(start + _AT_ONCE, len(examples))))
        total = add(total, _counted(images))
    if total:
        total["labels"] = _by_class(examples, classes)
    return total


def _by_class(examples: Examples, classes: int) -> np.ndarray:
    """int64 [classes]: images of each class; of images with masks, those that show some of it."""
    if not examples.source.dataset.has_masks:
        return np.bincount(examples.labels, minlength=classes).astype(np.int64)
    total = np.zeros(classes, np.int64)
    for start in range(0, len(examples), _AT_ONCE):
        masks = examples.targets_at(torch.arange(start, min(start + _AT_ONCE, len(examples)))).numpy()
        total += (pixels_by_class(masks, classes) > 0).sum(0)
    return total


def _counted(images: np.ndarray) -> dict[str, np.ndarray]:
    n, channels = images.shape[:2]
    flat = images.reshape(n, channels, -1).astype(np.int64)
    cell = (np.arange(n * channels).reshape(n, channels, 1) * BINS) + flat * BINS // 256
    per_image = np.bincount(cell.ravel(), minlength=n * channels * BINS).reshape(n, channels, BINS)
    return {
        "images": np.array([n]),
        "pixels": np.array([n * flat.shape[2]]),
        "sum": flat.sum((0, 2)),
        "squares": (flat * flat).sum((0, 2)),
        "intensity": per_image.sum(0),
        "seen": (per_image > 0).sum(0),
    }


def over(sites: Iterable[Examples], classes: int) -> tuple[dict[str, np.ndarray], int]:
    """The sums of all sites, and how many of them had something to add."""
    total: Sums = {}
    taking_part = 0
    for examples in sites:
        own = counted(examples, classes)
        taking_part += bool(own)
        total = add(total, own)
    return dict(total), taking_part


def federated_statistics(experiment: "Experiment", floor: int, masked: "Summed | None" = None) -> Statistics:
    """The statistics of the experiment's sites, over their training data as their cameras give it.

    masked: what sums them where secure_aggregation is enabled (`simulations.masked_statistics`).  ConfigError where the run is
    to be private, for these sums are not noised; DataError where there are too few.
    """
    from fedvision.data.federation import open_federated

    _refuse_what_they_would_break(experiment, masked)
    data, under_masks = open_federated(experiment), experiment.secure_aggregation.enabled
    if masked is not None and under_masks:
        total, sites = masked(data, experiment)
    else:
        total, sites = over((data.site(id).train for id in data.sites), len(data.dataset.classes))
    images = int(total["images"][0]) if total else 0
    if sites < FEWEST_SITES:
        raise DataError(f"statistics over {sites} sites would tell one of them of the other: it takes at least {FEWEST_SITES}")
    if images < floor:
        raise DataError(f"statistics over {images} images, fewer than the floor of {floor}: lower --floor, or have more images")
    mean, std = moments(total)
    pixels = int(total["pixels"][0])
    rows = (_over_floor(row, seen, floor) for row, seen in zip(total["intensity"], total["seen"], strict=True))
    intensity = [[None if count is None else count / pixels for count in row] for row in rows]
    labels = dict(zip(data.dataset.classes, _over_floor(total["labels"], total["labels"], floor), strict=True))
    return Statistics(data.dataset.name, data.fingerprint, sites, images, floor, mean, std, intensity, labels, under_masks)


def _refuse_what_they_would_break(experiment: "Experiment", masked: "Summed | None") -> None:
    way_out = "use public constants as data.mean and data.std, or say with --set that these data need no protection"
    if experiment.privacy is not None:
        raise ConfigError(
            f"privacy.mechanism = {experiment.privacy.mechanism}: these sums are exact, also under masks, and what they tell of an image would be "
            "in no ledger and no ε of the run; release noisy ones (simulations.private_statistics, as the command does), "
            f"{way_out} (privacy=null)"
        )
    if experiment.secure_aggregation.enabled and masked is None:
        raise ConfigError(
            f"secure_aggregation.enabled = true: these sums would leave the sites in the clear; {way_out} (secure_aggregation.enabled=false)"
        )


def moments(total: Sums) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel on the scale 0..1, from whole numbers, so that they are those of the pooled images."""
    n = int(total["pixels"][0])
    mean, std = [], []
    for channel, (s, q) in enumerate(zip(total["sum"].tolist(), total["squares"].tolist(), strict=True)):
        if n * q == s * s:
            raise DataError(f"channel {channel} is the same value everywhere, so that it has no standard deviation to divide by")
        mean.append(s / n / 255)
        std.append(math.sqrt(n * q - s * s) / n / 255)
    return mean, std


def _over_floor(counts: np.ndarray, behind: np.ndarray, floor: int) -> list[int | None]:
    """`counts`, and None where fewer than `floor` images stand `behind`; never one None alone, which the total would give away.

    >>> _over_floor(np.array([50, 3, 20, 30]), np.array([50, 3, 20, 30]), 10)
    [50, None, None, 30]
    """
    hidden = behind < floor
    if hidden.sum() == 1 and len(counts) > 1:
        hidden[np.where(hidden, np.iinfo(np.int64).max, behind).argmin()] = True
    return [None if gone else int(count) for count, gone in zip(counts, hidden, strict=True)]


# ------------------------------------------------------------------------------------------------- as a file, and back


def written(statistics: Statistics) -> str:
    """The statistics as YAML, for data.statistics of a config."""
    import yaml

    opening = (
        f"# Statistics of {statistics.dataset} over {statistics.sites} sites, of {'masked ' if statistics.masked else ''}sums alone; null = fewer than {statistics.floor} images\n"
        if statistics.released is None
        else f"# Noisy statistics of {statistics.dataset} over {statistics.sites} sites; images and labels count {statistics.released.unit}s\n"
    ) + ("# data.statistics of a config names this file, and its mean and std become the run's constants\n")
    return opening + yaml.safe_dump(asdict(statistics), sort_keys=False, default_flow_style=None, width=140, allow_unicode=True)


def constants(path: Path, dataset: str) -> tuple[list[float], list[float], Released | None]:
    """mean and std of the file that `fedvision statistics` wrote, and what they were released under; ConfigError where it is none, or
    of another data set."""
    from fedvision.schema import read_yaml

    values: dict[str, Any] = read_yaml(path)
    mean, std = values.get("mean"), values.get("std")
    for given in (mean, std):
        if not isinstance(given, list) or not given or not all(isinstance(v, float) and math.isfinite(v) for v in given):
            raise ConfigError(
                f"data.statistics = {str(path)!r} has no mean and std, a number a channel; `fedvision statistics` writes such a file"
            )
    assert isinstance(mean, list) and isinstance(std, list)
    if min(std) <= 0 or len(mean) != len(std):
        raise ConfigError(f"data.statistics = {str(path)!r}: std = {std} must have a value above 0 for each of the {len(mean)} of mean")
    if values.get("dataset") != dataset:
        raise ConfigError(f"data.statistics = {str(path)!r} is of the data set {values.get('dataset')}, and data.dataset = {dataset}")
    return mean, std, _released(path, values.get("released"))


def _released(path: Path, said: Any) -> Released | None:
    """What a file says of its noise."""
    if said is None:
        return None
    try:
        released = Released(**said)
        if not (math.isfinite(released.noise_multiplier) and released.noise_multiplier > 0):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(
            f"data.statistics = {str(path)!r}: `released` does not say under which noise; use the file as it was written"
        ) from None
    return released
