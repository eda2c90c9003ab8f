"""Losses of masks, a number an image: what is predicted of an image's pixels against what they are.

outputs: logits [B,K,...]; targets: uint8 [B,...], UNKNOWN where nothing is known, and nothing is learned there.  No image enters
another's loss, so that each gradient can be clipped alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedvision.augment import UNKNOWN
from fedvision.tasks.criteria import focused

SMOOTH = 1.0  # pixels: of a class that is neither there nor said, Dice is 1


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0, gamma: float = 0.0) -> Tensor:
    """Mean over the known pixels of w_k (1 − p)^γ (−log p), nats; 0 where none is known.  [B,K,...], [B,...] -> [B].

    weights: w_k of each class [K].  gamma: of the focal loss; Lin, Goyal, Girshick, He, Dollár 2017.
    """
    known = targets != UNKNOWN
    truth = torch.where(known, targets, 0).long()
    nats = functional.cross_entropy(logits, truth, reduction="none", label_smoothing=smoothing)
    if gamma:
        nats = focused(nats, gamma)
    if weights is not None:
        nats = nats * weights.to(logits)[truth]
    return (nats * known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


def overlaps(logits: Tensor, targets: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Of each image and class, in pixels: what is right, what is said, what is there.  Each [B, len(classes)]."""
    known = (targets != UNKNOWN)[:, None]
    said = logits.softmax(1)[:, list(classes)] * known
    there = (targets[:, None] == _numbers(classes, targets)).to(said)
    return (said * there).flatten(2).sum(2), said.flatten(2).sum(2), there.flatten(2).sum(2)


def dice(logits: Tensor, targets: Tensor, classes: Sequence[int]) -> Tensor:
    """1 − mean over `classes` of (2 Σpg + 1) / (Σp + Σg + 1), per image.  Milletari, Navab, Ahmadi 2016, here without squares."""
    right, said, there = overlaps(logits, targets, classes)
    return 1 - ((2 * right + SMOOTH) / (said + there + SMOOTH)).mean(1)


def tversky(logits: Tensor, targets: Tensor, classes: Sequence[int], alpha: float, beta: float) -> Tensor:
    """1 − mean over `classes` of (TP + 1) / (TP + α FP + β FN + 1), per image.  Salehi, Erdogmus, Gholipour 2017.

    alpha: weight of false pixels; beta: of missed ones.  α = β = 1/2 is Dice, but for the smoothing.
    """
    right, said, there = overlaps(logits, targets, classes)
    return 1 - ((right + SMOOTH) / (right + alpha * (said - right) + beta * (there - right) + SMOOTH)).mean(1)


def boundary(logits: Tensor, targets: Tensor, classes: Sequence[int]) -> Tensor:
    """Mean over pixels and `classes` of φ (p − g), per image, 0 where it is right.  Kervadec et al. 2019.

    φ: signed distance to the class's border, negative inside, in diagonals of the image; 0 where the class is not there.
    """
    known = (targets != UNKNOWN)[:, None]
    there = (targets[:, None] == _numbers(classes, targets)).to(logits)
    away = torch.from_numpy(_signed_distances(targets.detach().cpu().numpy(), classes)).to(logits)
    amount = away * (logits.softmax(1)[:, list(classes)] - there) * known
    return amount.flatten(1).sum(1) / (known.flatten(1).sum(1).clamp(min=1) * len(classes))


def _numbers(classes: Sequence[int], targets: Tensor) -> Tensor:
    """`classes` [1,K,1,...] as the targets' numbers, to be compared with them."""
    return torch.tensor(list(classes), dtype=targets.dtype, device=targets.device).reshape(1, -1, *[1] * (targets.dim() - 1))


def _signed_distances(targets: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """float32 [B,K,...], in diagonals: to the nearest pixel outside, negative, where a class is; to the nearest inside, elsewhere."""
    from scipy.ndimage import distance_transform_edt

    diagonal = float(np.linalg.norm(targets.shape[1:]))
    away = np.zeros((len(targets), len(classes), *targets.shape[1:]), np.float32)
    for image, row in zip(targets, away, strict=True):
        for k, its in zip(classes, row, strict=True):
            inside = image == k
            if inside.any() and not inside.all():
                its[...] = (distance_transform_edt(~inside) - distance_transform_edt(inside)) / diagonal
    return away
