"""Boxes: x1, y1, x2, y2 in pixels, x to the right and y down; and the form in which a batch of images' boxes travels.

Targets are float32 [B,M,5], a row a box: its class, then x1, y1, x2, y2.  A class of NONE is no box: rows are filled up with it, for
images hold different numbers.  A region to be ignored (COCO's crowd) of class k has −2 − k there: nothing is learned of it, and what
is found in it is neither right nor wrong.  Behind a box a row may hold its object's mask (`fedvision.detection.packing`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedvision.detection.padding import NONE, padded

__all__ = ["NONE", "Found", "areas", "centred", "cornered", "giou_loss", "ious", "overlaps", "padded", "picked", "soft_nms"]


@dataclass(frozen=True)
class Found:
    """What a detector says of B images, N a piece.  boxes [B,N,4] pixels, scores [B,N] in 0..1, falling; labels int64 [B,N], −1 = none;
    masks [B,N,P], as `packing` lays them out, of those that say any."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


def areas(boxes: Tensor) -> Tensor:
    """[...,4] -> [...], square pixels; 0 where an edge is turned round."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Areas of the intersections of each of a [...,N,4] with each of b [...,M,4] -> [...,N,M]."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def ious(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each of a [...,N,4] with each of b [...,M,4] -> [...,N,M]; 0 of empty boxes."""
    both = overlaps(a, b)
    return both / (areas(a)[..., :, None] + areas(b)[..., None, :] - both).clamp(min=1e-9)


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 − generalised IoU of boxes in pairs, [...,4] and [...,4] -> [...], in 0..2.  Rezatofighi et al. 2019."""
    both = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    around = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = areas(a) + areas(b) - both
    return 1 - both / union.clamp(min=1e-7) + (around - union) / around.clamp(min=1e-7)


def centred(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 -> middle x, middle y, width, height.  [...,4] -> [...,4]."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def cornered(boxes: Tensor) -> Tensor:
    """Middle x, middle y, width, height -> x1, y1, x2, y2.  [...,4] -> [...,4]."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def picked(
    boxes: Tensor, scores: Tensor, *, most: int, threshold: float, soft: float | None = None, least: float = 0.01, ahead: int = 400
) -> Found:
    """The detections of a batch, of each image by itself, without those that say the same again.

    boxes [B,A,4] shared by the classes, scores [B,A,K].  Of each image the `ahead` best scores of at least `least` stay for
    non-maximum suppression within each class (IoU above `threshold`), or for soft-NMS of width `soft`; then the `most` best.
    """
    kept = [_of_one(b, s, most, threshold, soft, least, ahead) for b, s in zip(boxes, scores, strict=True)]
    n = max([1, *(len(s) for _, s, _ in kept)])
    result = Found(boxes.new_zeros(len(kept), n, 4), scores.new_zeros(len(kept), n), torch.full((len(kept), n), -1, device=boxes.device))
    for i, (b, s, k) in enumerate(kept):
        result.boxes[i, : len(s)], result.scores[i, : len(s)], result.labels[i, : len(s)] = b, s, k
    return result


def _of_one(
    boxes: Tensor, scores: Tensor, most: int, threshold: float, soft: float | None, least: float, ahead: int
) -> tuple[Tensor, Tensor, Tensor]:
    from torchvision.ops import batched_nms

    flat = scores.nan_to_num(0.0).flatten()
    order = flat.argsort(descending=True, stable=True)[:ahead]
    order = order[flat[order] >= least]
    s, b, k = flat[order], boxes[order // scores.shape[1]].nan_to_num(0.0), order % scores.shape[1]
    if soft is not None:
        keep, s = soft_nms(b, s, k, soft, least)
        return b[keep][:most], s[:most], k[keep][:most]
    keep = batched_nms(b.float(), s.float(), k, threshold)[:most]
    return b[keep], s[keep], k[keep]


def soft_nms(boxes: Tensor, scores: Tensor, labels: Tensor, sigma: float, least: float) -> tuple[Tensor, Tensor]:
    """Soft-NMS: a box that overlaps a better one of its class by IoU u loses its score by exp(−u² / sigma), and is not lost.
    Bodla, Singh, Chellappa, Davis 2017, section 3, Gaussian.

    boxes [N,4], scores [N], labels [N] -> (which, best first, int64 [n]; their new scores [n]); those below `least` are dropped.
    """
    left = scores.clone()
    order, found = [], []
    for _ in range(len(scores)):
        best = int(left.argmax())
        if left[best] < least:
            break
        order.append(best)
        found.append(left[best].clone())
        u = ious(boxes[best][None], boxes)[0]
        left = torch.where(labels == labels[best], left * torch.exp(-(u**2) / sigma), left)
        left[torch.tensor(order, device=left.device)] = -1.0
    return torch.tensor(order, dtype=torch.long, device=boxes.device), torch.stack(found) if found else scores[:0]
