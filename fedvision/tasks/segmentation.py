"""Segmentation: a class for each pixel; losses per image, and metrics that are sums over pixels, images and borders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedvision.augment import UNKNOWN
from fedvision.data.masks import pixels_by_class
from fedvision.data.site import Examples
from fedvision.errors import ConfigError
from fedvision.learning import Training
from fedvision.segmenting import Segmentation as Settings
from fedvision.tasks import crf, regions, surfaces
from fedvision.tasks.criteria import Criterion, check_weights
from fedvision.tasks.painting import colours, overlaid, painted
from fedvision.tasks.scores import STEPS, mean_of, sum_of


@dataclass(frozen=True)
class Segmentation:
    """Each pixel's class out of `classes`; targets uint8 [B,H,W] or [B,D,H,W], 255 where it is not known."""

    classes: tuple[str, ...]
    settings: Settings = field(default_factory=Settings)
    geometry: ClassVar[str] = "masks"  # a target lies in its image and moves with it
    counts: ClassVar[str] = "pixels"  # what its confusion counts

    def __post_init__(self) -> None:
        if self.settings.background is not None and self.settings.background not in self.classes:
            raise ConfigError(
                f"segmentation.background = {self.settings.background!r} is no class of the data, which are {', '.join(self.classes)}"
            )
        if not self.counted:
            raise ConfigError(f"segmentation.background = {self.settings.background!r} is the only class, so that nothing is left to find")

    @property
    def outputs(self) -> int:
        """Numbers that a model must give for each pixel."""
        return len(self.classes)

    @property
    def counted(self) -> tuple[int, ...]:
        """The numbers of the classes that means are over: all but the background."""
        return tuple(k for k, name in enumerate(self.classes) if name != self.settings.background)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what `sums` gives."""
        k = len(self.classes)
        of_surfaces: dict[str, tuple[int, ...]] = (
            {"borders": (k, 4), "distances": (k, surfaces.DISTANCES)} if self.settings.surfaces else {}
        )
        return {"confusion": (k, k), "images": (1,), "loss": (1,), "image_dice": (k, 2), **of_surfaces}

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted sum of segmentation.losses, per image.  [B,K,...], [B,...] -> [B]."""
        return self._summed(logits, targets, regions.cross_entropy)

    def criterion(self, training: Training, examples: Examples | None = None) -> Criterion:
        """The loss per image that is trained on.  Class weights, label smoothing and focal change its cross-entropy.

        examples: the site's, for balance = loss: class k weighs n / (K n_k), so that the mean weight of a known pixel is 1.
        """
        weights = check_weights(training.class_weights, self.classes)
        if training.balance == "loss" and examples is not None:
            weights = self._balance(examples)
        smoothing, gamma = training.label_smoothing, training.focal
        if weights is None and not smoothing and not gamma:
            return self.loss
        return lambda logits, targets: self._summed(logits, targets, lambda a, b: regions.cross_entropy(a, b, weights, smoothing, gamma))

    def _summed(self, logits: Tensor, targets: Tensor, cross_entropy: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if logits.shape != (len(targets), len(self.classes), *targets.shape[1:]):
            raise ConfigError(
                f"the model gives {list(logits.shape[1:])} for an image whose mask is {list(targets.shape[1:])}, and segmentation needs "
                f"{[len(self.classes), *targets.shape[1:]]}, a number a class and pixel: use one of the models for segmentation (`fedvision list models`)"
            )
        s = self.settings
        named: dict[str, Callable[[], Tensor]] = {
            "cross_entropy": lambda: cross_entropy(logits, targets),
            "dice": lambda: regions.dice(logits, targets, self.counted),
            "tversky": lambda: regions.tversky(logits, targets, self.counted, *s.tversky),
            "boundary": lambda: regions.boundary(logits, targets, self.counted),
        }
        wanted = [(loss, s.losses[name]) for name, loss in named.items() if name in s.losses]  # in one order, for the bytes
        parts = [loss() if weight == 1 else weight * loss() for loss, weight in wanted]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def _balance(self, examples: Examples) -> Tensor:
        """float32 [K], from the site's own pixels; 1/K of all for a class that it does not have."""
        counts = np.zeros(len(self.classes), np.int64)
        for start in range(0, len(examples), 64):
            some = torch.arange(start, min(start + 64, len(examples)))
            counts += pixels_by_class(examples.targets_at(some).numpy(), len(self.classes)).sum(0)
        return torch.from_numpy(counts.sum() / (max(1, (counts > 0).sum()) * counts.clip(1))).float().clamp(max=100.0)

    def possible(self, n: int, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Targets that could be, uint8 [n,H,W] or [n,D,H,W], for images of `shape` [C,...]: for trying a model without data."""
        return torch.randint(0, self.outputs, (n, *shape[1:]), generator=generator).to(torch.uint8)

    def refine(self, logits: Tensor, images: Tensor) -> Tensor:
        """What is measured and shown of a network's logits [B,K,...] for its input [B,C,...]: refined by segmentation.crf."""
        return logits if self.settings.crf is None else crf.refined(logits, images, self.settings.crf)

    def sums(self, logits: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        """What images add up to, int64: `confusion` [K,K] pixels (truth, prediction), `images` with a known pixel, `loss` in 2^-20,
        `image_dice` [K,2] (the sum of each image's Dice in 2^-20, and of how many), and of the borders `borders` and `distances`."""
        logits, targets, k = logits.detach().float(), targets.detach(), len(self.classes)
        said = logits.argmax(1)
        known = (targets != UNKNOWN).flatten(1)
        image = torch.arange(len(targets), device=targets.device)[:, None].expand_as(known)[known] * k
        truth, found = targets.flatten(1)[known].long(), said.flatten(1)[known]
        confusion = torch.bincount(truth * k + found, minlength=k * k).reshape(k, k)

        def by_image(which: Tensor) -> Tensor:
            return torch.bincount(which, minlength=len(targets) * k).reshape(-1, k)

        right = by_image((image + truth)[truth == found])
        both = by_image(image + truth) + by_image(image + found)
        dice = torch.where(both > 0, 2.0 * STEPS * right.double() / both.clamp(min=1), 0.0).round().long()
        return {
            "confusion": confusion.cpu().numpy(),
            "images": known.any(1).sum().cpu().numpy().reshape(1),
            "loss": sum_of(self.loss(logits, targets)),
            "image_dice": torch.stack([dice.sum(0), (both > 0).sum(0)], 1).cpu().numpy(),
            **(self._surfaces(said, targets) if self.settings.surfaces else {}),
        }

    def _surfaces(self, said: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        k = len(self.classes)
        borders, distances = np.zeros((k, 4), np.int64), np.zeros((k, surfaces.DISTANCES), np.int64)
        for truth, found in zip(targets.cpu().numpy(), said.to(torch.uint8).cpu().numpy(), strict=True):
            own, away = surfaces.compared(truth, found, k, self.settings.tolerance)
            borders += own
            distances += away
        return {"borders": borders, "distances": distances}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Each the mean over the classes that are there or said, the background left out: dice and miou (of all pixels together),
        image_dice (of the images' own), boundary_f, hd95 (pixels, where a class is both there and said); and accuracy (of the
        known pixels) and loss (an image)."""
        images, pixels = int(sums["images"][0]), int(sums["confusion"].sum())
        if not images:
            return {}
        own = list(self.counted)
        iou, dice = overlaps(sums["confusion"])
        found: dict[str, float | None] = {
            "dice": mean_of([dice[k] for k in own]),
            "miou": mean_of([iou[k] for k in own]),
            "accuracy": float(np.trace(sums["confusion"]) / pixels),
            "image_dice": mean_of([total / STEPS / n if n else None for total, n in sums["image_dice"][own].tolist()]),
            "loss": float(int(sums["loss"][0]) / STEPS / images),
        }
        if self.settings.surfaces:
            found["boundary_f"] = mean_of(surfaces.f_scores(sums["borders"][own]))
            found["hd95"] = mean_of(surfaces.mean_distance(sums["distances"][own]))
        return {name: value for name, value in found.items() if value is not None}

    def by_class(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """iou_CLASS and dice_CLASS of the classes that are there or said, all pixels together."""
        kinds = zip(("iou", "dice"), overlaps(sums["confusion"]), strict=True)
        return {f"{kind}_{name}": v for kind, values in kinds for name, v in zip(self.classes, values, strict=True) if v is not None}

    def legend(self) -> dict[str, str]:
        """The colour of each class in the pictures, #rrggbb, where they are few; the first one's is clear."""
        table = colours(len(self.classes))
        return {name: "#" + table[k].tobytes().hex() for k, name in enumerate(self.classes) if 0 < k <= 24}

    def laid_over(self, image: np.ndarray, target: np.ndarray) -> np.ndarray:
        """uint8 [H,W,3]: the image with its mask over it."""
        return overlaid(image, target, len(self.classes))

    def panels(self, image: np.ndarray, target: np.ndarray, outputs: Tensor) -> dict[str, np.ndarray]:
        """Pictures of one image, uint8 [H,W,3] by name: as it is, with what is there, with what was said, and where they differ."""
        return painted(image, target, outputs.argmax(0).to(torch.uint8).numpy(), len(self.classes))


def overlaps(confusion: np.ndarray) -> tuple[list[float | None], list[float | None]]:
    """Intersection over union, and Dice, of each class from [K,K] pixels (truth, prediction); None where it is neither there nor said.

    >>> overlaps(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    ([0.75, 0.6666666666666666, None], [0.8571428571428571, 0.8, None])
    """
    rows = list(zip(np.diag(confusion).tolist(), (confusion.sum(0) + confusion.sum(1)).tolist(), strict=True))
    return [right / (both - right) if both else None for right, both in rows], [2 * right / both if both else None for right, both in rows]
