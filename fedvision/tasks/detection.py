"""Object detection: a loss an image, and average precision from sums."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedvision.data.site import Examples
from fedvision.detection.anchors import RetinaNet, Ssd
from fedvision.detection.average_precision import (
    BINS,
    THRESHOLDS,
    average_precisions,
    box_overlaps,
    histograms,
    matched,
    recalls,
    truths,
)
from fedvision.detection.boxes import NONE, Found
from fedvision.detection.points import Fcos, OneStage
from fedvision.detection.sets import Detr
from fedvision.errors import ConfigError
from fedvision.learning import Training
from fedvision.tasks.criteria import Criterion
from fedvision.tasks.drawing import IGNORED, MISSED, WRONG, boxed, shaded
from fedvision.tasks.scores import STEPS, sum_of

SHOWN = 0.4  # least score of a detection in the pictures
METHODS: dict[str, Any] = {
    "fcos": Fcos, "retinanet": RetinaNet, "ssdlite": Ssd, "onestage": OneStage, "detr": Detr, "deformable_detr": Detr,
}  # fmt: skip


def method_of(model: str, classes: int, soft: float | None = None) -> Any:
    """How the outputs of the model of that name (detection/NAME) are read and learned; ConfigError for another one."""
    kind, _, name = model.partition("/")
    if kind != "detection" or name not in METHODS:
        raise ConfigError(
            f"model.name = {model!r} and task = detection exclude each other: use one of {', '.join(f'detection/{n}' for n in METHODS)}"
        )
    if METHODS[name] is Detr and soft is not None:
        raise ConfigError(f"evaluation.soft_nms is for detectors that say a thing several times, and {model} says it once: set it to null")
    return METHODS[name](classes) if soft is None else METHODS[name](classes, soft=soft)


@dataclass(frozen=True)
class Detection:
    """Boxes around objects of `classes`.  method: the detector's half of it.  Targets: as `fedvision.detection.boxes` says."""

    classes: tuple[str, ...]
    method: Any

    @property
    def outputs(self) -> int:
        """Kinds of objects that a model must tell apart."""
        return len(self.classes)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what `sums` gives."""
        k = len(self.classes)
        return {"found": (len(THRESHOLDS), k, 2, BINS), "boxes": (k,), "images": (1,), "loss": (1,)}

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The detector's loss per image, divided by what that image holds.  outputs as the model's, targets [B,M,5] -> [B]."""
        result: Tensor = self.method.loss(outputs, targets)
        return result

    def criterion(self, training: Training, examples: Examples | None = None) -> Criterion:
        """The loss that is trained on: the detector's own, whatever else is asked for having been refused."""
        return self.loss

    geometry = "boxes"  # targets lie in the image, and move with it

    def possible(self, n: int, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Targets that could be, [n,3,5]: up to three boxes in images of `shape` [C,H,W], some without any."""
        size = torch.tensor([shape[-1], shape[-2]])
        corners = torch.rand(n, 3, 2, generator=generator) * size / 2
        sides = (0.1 + 0.4 * torch.rand(n, 3, 2, generator=generator)) * size
        classes = torch.randint(0, len(self.classes), (n, 3, 1), generator=generator).float()
        there = torch.arange(3)[None, :, None] < torch.randint(0, 4, (n, 1, 1), generator=generator)
        return torch.cat([torch.where(there, classes, NONE), corners, corners + sides], -1)

    def found(self, outputs: Tensor) -> Found:
        """What the model says, as boxes."""
        result: Found = self.method.found(outputs.float())
        return result

    overlap = staticmethod(box_overlaps)  # by which a detection is a match

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        """What images add up to, int64: `found` [10,K,2,BINS], scores of misses and matches by IoU and class; `boxes` [K] to be found;
        `images`; `loss` in 2^-20."""
        outputs, targets = outputs.detach().float(), targets.detach()
        return {**self.counted(self.found(outputs), targets), "loss": sum_of(self.loss(outputs, targets))}

    def counted(self, found: Found, targets: Tensor) -> dict[str, np.ndarray]:
        """The sums that detections alone add up to."""
        k = len(self.classes)
        return {"found": histograms(found, targets, k), "boxes": truths(targets, k), "images": np.array([len(targets)])}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """map (average precision, mean over ten IoUs from 0.5 to 0.95 and the classes that occur), ap50, ap75, recall (share of the boxes
        found at all at IoU 0.5, mean over classes), each absent where there are no boxes; loss (an image)."""
        n = int(sums["images"][0])
        if n == 0:
            return {}
        result = {"loss": float(int(sums["loss"][0]) / STEPS / n)}
        if sums["boxes"].sum():
            precisions = average_precisions(sums["found"], sums["boxes"])
            result |= {
                "map": float(np.nanmean(precisions)),
                "ap50": float(np.nanmean(precisions[0])),
                "ap75": float(np.nanmean(precisions[5])),
            }
            result["recall"] = float(np.nanmean(recalls(sums["found"], sums["boxes"])[0]))
        return result

    def by_class(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """ap50_CLASS of the classes that occur."""
        there = np.flatnonzero(sums["boxes"])
        precisions = average_precisions(sums["found"][:1], sums["boxes"])
        return {f"ap50_{self.classes[k]}": float(precisions[0, k]) for k in there}

    def legend(self) -> dict[str, str]:
        """What a colour means that no name beside it says."""
        return {name: "#" + bytes(shade).hex() for name, shade in (("missed", MISSED), ("wrongly said", WRONG), ("not counted", IGNORED))}

    def laid_over(self, image: np.ndarray, target: np.ndarray) -> np.ndarray:
        """uint8 [H,W,3]: the image with its boxes."""
        return boxed(image, target, self.classes)

    def panels(self, image: np.ndarray, target: np.ndarray, outputs: Tensor) -> dict[str, np.ndarray]:
        """Pictures of one image, uint8 [H,W,3] by name: what is there, what was said at a score of 40 % or more, and what of both is
        without a counterpart of its class at an IoU of 0.5."""
        said, its = sure(self.found(outputs[None])), torch.from_numpy(target)[None]
        right = matched(said, its, self.overlap)[0, 0].numpy()
        rows = torch.cat([said.labels[0, :, None].float(), said.boxes[0], *(() if said.masks is None else said.masks)], 1).numpy()
        gone = missed(target, rows[right == 1], self.overlap(said, its)[0][0].numpy()[right == 1])
        return {
            "truth": self.laid_over(image, target),
            f"predicted, {100 * SHOWN:.0f} % or more": boxed(image, rows, self.classes, said.scores[0].numpy()),
            "missed and wrong": shaded(image, ((WRONG, rows[right == 0]), (MISSED, gone)), self.classes),
        }


def sure(found: Found) -> Found:
    """Those of one image, B = 1, that pictures show."""
    own = (found.scores[0] >= SHOWN) & (found.labels[0] >= 0)
    masks = None if found.masks is None else found.masks[:, own]
    return Found(found.boxes[:, own], found.scores[:, own], found.labels[:, own], masks)


def missed(target: np.ndarray, right: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """The rows of `target` [M,5 or more] that none of the matches `right` [n,5 or more] is of: each is of that of its class, and not yet
    another's, which it overlaps [n,M] most."""
    left = target[:, 0] >= 0
    for kind, its in zip(right[:, 0], overlap, strict=True):
        own = np.flatnonzero(left & (target[:, 0] == kind))
        if len(own):
            left[own[its[own].argmax()]] = False
    return target[left]
