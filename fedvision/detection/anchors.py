"""Detectors that move and stretch given boxes (anchors): RetinaNet and SSD.

Outputs are [B,A,6+4+K], a row an anchor: width and height of the image and the anchor's x1, y1, x2, y2, in pixels and constant; the
change of its middle, over its sides, and of the logs of its sides; a logit a class (SSD: the first is the background's).
Each image's loss is divided by that image's own matched anchors.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedvision.detection.boxes import Found, areas, centred, cornered, ious, overlaps, picked
from fedvision.detection.points import Truth

PLACE = 6  # columns that say where an anchor is
_LARGEST = math.log(1000 / 16)  # of a change of a side's log: as torchvision's
SSD_SCALE = (0.1, 0.1, 0.2, 0.2)  # what SSD's changes are multiplied by.  Liu et al. 2016, as published


def decoded(outputs: Tensor, scale: tuple[float, ...]) -> Tensor:
    """The boxes, [B,A,4], pixels, cut off at the image's edge."""
    anchors = centred(outputs[..., 2:PLACE])
    change = outputs[..., PLACE : PLACE + 4] * outputs.new_tensor(scale)
    middle = anchors[..., :2] + change[..., :2] * anchors[..., 2:]
    sides = anchors[..., 2:] * change[..., 2:].clamp(max=_LARGEST).exp()
    return torch.minimum(cornered(torch.cat([middle, sides], -1)).clamp(min=0), outputs[..., [0, 1, 0, 1]])


def changes(outputs: Tensor, boxes: Tensor, scale: tuple[float, ...]) -> Tensor:
    """What would make the anchors to `boxes`, both [B,A,4]: the inverse of `decoded`."""
    anchors, wanted = centred(outputs[..., 2:PLACE]), centred(boxes)
    middle = (wanted[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    sides = (wanted[..., 2:].clamp(min=1e-3) / anchors[..., 2:]).log()
    return torch.cat([middle, sides], -1) / outputs.new_tensor(scale)


def assigned(outputs: Tensor, truth: Truth, match: float, miss: float) -> tuple[Tensor, Tensor, Tensor]:
    """Which anchors are a box's, whose, and which are nobody's: bool, int64, bool [B,A].

    An anchor is of the box that it overlaps most where the IoU is `match` or more, or where none overlaps that box more; it is nobody's
    below `miss`, unless more than half of it lies in a region to be ignored; and in between nothing is learned of it.
    """
    anchors = outputs[..., 2:PLACE]
    u = torch.where(truth.real[:, None], ious(anchors, truth.boxes), -1.0)  # [B,A,M]
    best, whose = u.max(-1)
    most = u.amax(1, keepdim=True)
    closest = ((u >= most - 1e-7) & (most > 0)).any(-1)
    positive = (best >= match) | (closest & (best > 0))
    inside = overlaps(anchors, truth.boxes) / areas(anchors)[..., None]
    crowd = ((inside > 0.5) & truth.ignored[:, None]).any(-1)
    return positive, whose, ~positive & (best < miss) & ~crowd


@dataclass(frozen=True)
class RetinaNet:
    """Lin, Goyal, Girshick, He, Dollár: Focal loss for dense object detection, 2017."""

    classes: int
    nms: float = 0.5
    soft: float | None = None
    detections: int = 100
    scale = (1.0, 1.0, 1.0, 1.0)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Focal loss of the classes + absolute error of the changes, over the image's matched anchors (at least 1).
        outputs [B,A,10+K], targets [B,M,5] -> [B]."""
        from torchvision.ops import sigmoid_focal_loss

        truth = Truth.of(targets, outputs)
        positive, whose, negative = assigned(outputs, truth, 0.5, 0.4)
        own = positive.to(outputs)
        wanted = functional.one_hot(truth.classes.gather(1, whose), self.classes).to(outputs) * own[..., None]
        said = sigmoid_focal_loss(outputs[..., PLACE + 4 :], wanted, alpha=0.25, gamma=2.0).sum(-1) * (positive | negative).to(outputs)
        boxes = truth.boxes.gather(1, whose[..., None].expand(-1, -1, 4))
        off = (outputs[..., PLACE : PLACE + 4] - changes(outputs, boxes, self.scale)).abs().sum(-1)
        return (said + torch.where(positive, off, 0.0)).sum(1) / own.sum(1).clamp(min=1)

    def found(self, outputs: Tensor) -> Found:
        """The detections."""
        scores = outputs[..., PLACE + 4 :].sigmoid()
        return picked(decoded(outputs, self.scale), scores, most=self.detections, threshold=self.nms, soft=self.soft)


@dataclass(frozen=True)
class Ssd:
    """Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg: SSD: Single shot multibox detector, 2016.  negatives: a matched anchor, of the
    image's own hardest."""

    classes: int
    negatives: int = 3
    nms: float = 0.5
    soft: float | None = None
    detections: int = 100
    scale = SSD_SCALE

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the matched and of the hardest other anchors + smooth absolute error of the changes, over the image's
        matched anchors (at least 1; an image without boxes learns of its hardest three).  outputs [B,A,11+K], targets [B,M,5] -> [B]."""
        truth = Truth.of(targets, outputs)
        positive, whose, negative = assigned(outputs, truth, 0.5, 0.5)
        count = positive.sum(1, keepdim=True).clamp(min=1)
        wanted = torch.where(positive, truth.classes.gather(1, whose) + 1, 0)
        said = functional.cross_entropy(outputs[..., PLACE + 4 :].transpose(1, 2), wanted, reduction="none")
        hard = torch.where(negative, said.detach().nan_to_num(0.0), -1.0)
        rank = hard.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        taken = positive | (negative & (rank < self.negatives * count))
        boxes = truth.boxes.gather(1, whose[..., None].expand(-1, -1, 4))
        wanted_change = torch.where(positive[..., None], changes(outputs, boxes, self.scale), 0.0)
        off = functional.smooth_l1_loss(outputs[..., PLACE : PLACE + 4], wanted_change, reduction="none").sum(-1)
        return (torch.where(taken, said, 0.0) + torch.where(positive, off, 0.0)).sum(1) / count[:, 0]

    def found(self, outputs: Tensor) -> Found:
        """The detections."""
        scores = outputs[..., PLACE + 4 :].softmax(-1)[..., 1:]
        return picked(decoded(outputs, self.scale), scores, most=self.detections, threshold=self.nms, soft=self.soft)
