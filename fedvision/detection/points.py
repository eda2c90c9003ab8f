"""Detectors that say, at points of a grid, how far the box around each reaches: FCOS, and a one-stage net of our own.

Outputs are [B,A,5+4+K(+1)], a row a point: width and height of the image, x and y of the point and the stride of its grid, in pixels
and constant; the distances to the left, upper, right and lower edge, in strides; a logit a class; and, of FCOS, the centre-ness'.
Each image's loss is divided by what that image holds, never by what the batch holds: none enters another's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedvision.detection.boxes import Found, areas, giou_loss, ious, picked

PLACE = 5  # columns that say where a point is


@dataclass(frozen=True)
class Truth:
    """The boxes of B images beside their points: real bool [B,M] and ignored bool [B,M], classes int64 [B,M], boxes [B,M,4]."""

    real: Tensor
    ignored: Tensor
    classes: Tensor
    boxes: Tensor

    @classmethod
    def of(cls, targets: Tensor, like: Tensor) -> "Truth":
        """targets [B,M,5] -> the same in the precision of `like`."""
        classes = targets[..., 0].long()
        return cls(classes >= 0, classes <= -2, classes.clamp(min=0), targets[..., 1:5].to(like))


def decoded(outputs: Tensor) -> Tensor:
    """The boxes that the points say, [B,A,4], pixels, cut off at the image's edge."""
    return torch.minimum(_reaching(outputs).clamp(min=0), outputs[..., [0, 1, 0, 1]])


def _reaching(outputs: Tensor) -> Tensor:
    reach = outputs[..., PLACE : PLACE + 4] * outputs[..., 4:5]
    return torch.cat([outputs[..., 2:4] - reach[..., :2], outputs[..., 2:4] + reach[..., 2:]], -1)


def edges(outputs: Tensor, boxes: Tensor) -> Tensor:
    """How far each point [B,A] is from the left, upper, right, lower edge of each box [B,M,4], inwards positive: [B,A,M,4] pixels."""
    points = outputs[..., None, 2:4]
    return torch.cat([points - boxes[:, None, :, :2], boxes[:, None, :, 2:] - points], -1)


def taught(outputs: Tensor, truth: Truth, positive: Tensor) -> Tensor:
    """Which points are learned from, bool [B,A]: all but those that lie in a region to be ignored, and in no box."""
    inside = (edges(outputs, truth.boxes).amin(-1) > 0) & truth.ignored[:, None]
    return positive | ~inside.any(-1)


@dataclass(frozen=True)
class Fcos:
    """FCOS.  Tian, Shen, Chen, He: FCOS: Fully convolutional one-stage object detection, 2019; centre sampling and GIoU as in their
    2020 version.  classes: K.  radius: strides around a box's middle within which points are its own."""

    classes: int
    radius: float = 1.5
    nms: float = 0.6
    soft: float | None = None
    detections: int = 100

    def assigned(self, outputs: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
        """Whether each point is a box's, bool [B,A], and whose, int64 [B,A].

        A point is of a box that it lies in, near the middle, whose furthest edge is as far as its grid is for: up to 8 strides, and
        from 4 on but for the finest grid, without end for the coarsest.  Of several the smallest.
        """
        away = edges(outputs, truth.boxes)
        stride = outputs[..., None, 4]
        middle = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
        near = ((outputs[..., None, 2:4] - middle[:, None]).abs() < self.radius * stride[..., None]).all(-1)
        furthest = away.amax(-1)
        low = torch.where(stride == stride.amin(1, keepdim=True), 0.0, 4 * stride)
        high = torch.where(stride == stride.amax(1, keepdim=True), torch.inf, 8 * stride)
        its = (away.amin(-1) > 0) & near & (furthest >= low) & (furthest < high) & truth.real[:, None]
        size = torch.where(its, areas(truth.boxes)[:, None], torch.inf)
        return its.any(-1), size.argmin(-1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Focal loss of the classes + GIoU loss of the boxes + cross-entropy of the centre-ness, over the image's positive points
        (at least 1).  outputs [B,A,10+K], targets [B,M,5] -> [B]."""
        from torchvision.ops import sigmoid_focal_loss

        k = self.classes
        truth = Truth.of(targets, outputs)
        positive, whose = self.assigned(outputs, truth)
        own = positive.to(outputs)
        logits, centre = outputs[..., PLACE + 4 : PLACE + 4 + k], outputs[..., -1]
        wanted = functional.one_hot(truth.classes.gather(1, whose), k).to(outputs) * own[..., None]
        said = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0).sum(-1) * taught(outputs, truth, positive).to(outputs)
        boxes = truth.boxes.gather(1, whose[..., None].expand(-1, -1, 4))
        away = (torch.cat([outputs[..., 2:4] - boxes[..., :2], boxes[..., 2:] - outputs[..., 2:4]], -1)).clamp(min=0)
        inner = torch.where(positive, self._centreness(away), 0.0)
        at = functional.binary_cross_entropy_with_logits(centre, inner, reduction="none") * own
        shape = giou_loss(_reaching(outputs), torch.where(positive[..., None], boxes, _reaching(outputs).detach())) * own
        return (said + shape + at).sum(1) / own.sum(1).clamp(min=1)

    @staticmethod
    def _centreness(away: Tensor) -> Tensor:
        """1 in the middle of a box, 0 at its edge.  Equation 3."""
        across, down = away[..., 0::2], away[..., 1::2]
        share = (across.amin(-1) / across.amax(-1).clamp(min=1e-6)) * (down.amin(-1) / down.amax(-1).clamp(min=1e-6))
        return share.clamp(min=0).sqrt()

    def found(self, outputs: Tensor) -> Found:
        """The detections; a score is the geometric mean of the class's and of the centre-ness."""
        k = self.classes
        scores = (outputs[..., PLACE + 4 : PLACE + 4 + k].sigmoid() * outputs[..., -1:].sigmoid()).sqrt()
        return picked(decoded(outputs), scores, most=self.detections, threshold=self.nms, soft=self.soft)


@dataclass(frozen=True)
class OneStage:
    """A one-stage net without anchors whose points are dealt to boxes by how well they already do.  Feng, Zhong, Gao, Scott, Huang:
    TOOD: Task-aligned one-stage object detection, 2021, section 3.3.  Alignment t = s^alpha · IoU^beta; each box takes its `top`
    points; a score's target is t, scaled so that the best point of a box has its IoU."""

    classes: int
    top: int = 10
    alpha: float = 1.0
    beta: float = 6.0
    nms: float = 0.6
    soft: float | None = None
    detections: int = 100

    def assigned(self, outputs: Tensor, truth: Truth) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each point is a box's [B,A], whose [B,A], and its score's target [B,A].  By the image's own outputs alone."""
        a = outputs.shape[1]
        scores = outputs[..., PLACE + 4 :].sigmoid().gather(2, truth.classes[:, None].expand(-1, a, -1))  # [B,A,M]
        u = ious(_reaching(outputs), truth.boxes)
        inside = (edges(outputs, truth.boxes).amin(-1) > 0) & truth.real[:, None]
        aligned = torch.where(inside, scores.nan_to_num(0.0) ** self.alpha * u.nan_to_num(0.0) ** self.beta, -1.0)
        best = aligned.topk(min(self.top, a), 1)
        chosen = torch.zeros_like(inside).scatter(1, best.indices, best.values >= 0)
        whose = torch.where(chosen, u.nan_to_num(0.0), -1.0).argmax(-1)
        chosen &= functional.one_hot(whose, chosen.shape[-1]).bool()  # a point is one box's, the one that it overlaps most
        t = torch.where(chosen, aligned, 0.0)
        most, widest = t.amax(1, keepdim=True), torch.where(chosen, u.nan_to_num(0.0), 0.0).amax(1, keepdim=True)
        return chosen.any(-1), whose, (t / most.clamp(min=1e-9) * widest).amax(-1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the scores + 2 · GIoU loss of the boxes, over the image's summed targets (at least 1).
        outputs [B,A,9+K], targets [B,M,5] -> [B]."""
        truth = Truth.of(targets, outputs)
        with torch.no_grad():
            positive, whose, aligned = self.assigned(outputs, truth)
        wanted = functional.one_hot(truth.classes.gather(1, whose), self.classes).to(outputs) * aligned[..., None]
        said = functional.binary_cross_entropy_with_logits(outputs[..., PLACE + 4 :], wanted, reduction="none").sum(-1)
        said = said * taught(outputs, truth, positive).to(outputs)
        boxes = truth.boxes.gather(1, whose[..., None].expand(-1, -1, 4))
        reaching = _reaching(outputs)
        shape = giou_loss(reaching, torch.where(positive[..., None], boxes, reaching.detach())) * positive.to(outputs)
        weight = torch.where(positive, aligned.clamp(min=0.1), 0.0)  # a box that nothing reaches yet is learned too
        return (said + 2 * shape * weight).sum(1) / aligned.sum(1).clamp(min=1)

    def found(self, outputs: Tensor) -> Found:
        """The detections."""
        return picked(decoded(outputs), outputs[..., PLACE + 4 :].sigmoid(), most=self.detections, threshold=self.nms, soft=self.soft)
