"""Mean average precision from sums: of each site only histograms of scores are needed, so that sites add up to one pooled figure.

Detections are matched to boxes within their image, as COCO does; of what is matched and of what is not, by class and by threshold of
IoU, the scores are counted in bins of their log-odds.  Average precision is then read off the counts, 101 recalls as COCO's: in which order
the matches and misses of one bin come is not known, and so it is the mean over some orders drawn by name.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedvision.detection.boxes import Found, areas, ious, overlaps
from fedvision.detection.masks import cover
from fedvision.detection.packing import BOX
from fedvision.seeds import stream

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
BINS = 1024
WIDEST = 16.0  # |log-odds of a score| beyond which scores are alike: 1 − 1e-7, as far as single precision tells them apart
RECALLS = np.linspace(0, 1, 101)
ORDERS = 8  # of the matches and misses of a bin


Overlap = Callable[[Found, Tensor], tuple[Tensor, Tensor]]


def box_overlaps(found: Found, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How far each detection's box and each true one overlap: IoU, and the share of the detection's own area, float64 [B,N,M]."""
    boxes, truth = found.boxes.double(), targets[..., 1:5].double()
    return ious(boxes, truth), overlaps(boxes, truth) / areas(boxes)[..., None].clamp(min=1e-9)


def mask_overlaps(found: Found, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As `box_overlaps`, of masks."""
    assert found.masks is not None
    pairs = []
    for own, rows in zip(found.masks, targets[..., BOX:], strict=True):
        both, a, b = cover(own, rows)
        pairs.append((both / (a + b - both).clamp(min=1), both / a.clamp(min=1)))
    u, inside = zip(*pairs, strict=True)
    return torch.stack(u), torch.stack(inside)


def matched(found: Found, targets: Tensor, overlap: Overlap = box_overlaps) -> Tensor:
    """What each detection is, by threshold: 1 a match, 0 a miss, −1 of no account.  int8 [B,T,N]; targets [B,M,5 or more].

    From the best score down, a detection takes the box (mask) of its class that it overlaps most, if no better one took it; else, what
    lies in a region to be ignored counts for nothing (there the overlap is taken over the detection's own area).
    """
    thresholds = torch.from_numpy(THRESHOLDS).to(found.boxes.device)[None, :, None]
    classes = targets[..., 0].long()
    ignored = classes <= -2
    u, inside = overlap(found, targets)
    u = torch.where(ignored[:, None], inside, u)
    own = torch.where(ignored, -2 - classes, classes)
    u = torch.where((found.labels[..., None] == own[:, None]) & (own >= 0)[:, None], u, -1.0)  # [B,N,M]
    b, n, m = u.shape
    taken = torch.zeros(b, len(THRESHOLDS), m, dtype=torch.bool, device=u.device)
    result = torch.zeros(b, len(THRESHOLDS), n, dtype=torch.int8, device=u.device)
    here = torch.arange(m, device=u.device)
    for d in range(n):
        row = u[:, d, None, :].expand(b, len(THRESHOLDS), m)
        close = row >= thresholds - 1e-10
        free = close & ~taken & ~ignored[:, None]
        best = torch.where(free, row, -1.0).flip(-1).argmax(-1)  # of equals the last, as COCO's
        hit = free.any(-1)
        taken |= hit[..., None] & (here == (m - 1 - best)[..., None])
        result[:, :, d] = torch.where(hit, 1, torch.where((close & ignored[:, None]).any(-1), -1, 0)).to(torch.int8)
    result[(found.labels < 0)[:, None].expand_as(result)] = -1
    return result


def bins_of(scores: Tensor) -> Tensor:
    """The bin of each score in 0..1, int64, of the same shape: equal steps of its log-odds."""
    odds = torch.logit(scores.double().nan_to_num(0.0).clamp(0, 1), eps=1e-9)
    return ((odds / WIDEST + 1) * (BINS / 2)).long().clamp(0, BINS - 1)


def histograms(found: Found, targets: Tensor, classes: int, overlap: Overlap = box_overlaps) -> np.ndarray:
    """Scores of (misses, matches) by threshold and class: int64 [T,K,2,BINS]."""
    what = matched(found, targets, overlap)
    t = len(THRESHOLDS)
    index = torch.arange(t, device=what.device)[None, :, None] * classes + found.labels.clamp(min=0)[:, None]
    index = (index * 2 + what.clamp(min=0)) * BINS + bins_of(found.scores)[:, None]
    counts = torch.bincount(index[what >= 0], minlength=t * classes * 2 * BINS)
    return counts.reshape(t, classes, 2, BINS).cpu().numpy()


def truths(targets: Tensor, classes: int) -> np.ndarray:
    """How many boxes of each class there are to be found, int64 [K]."""
    own = targets[..., 0].long().flatten()
    return torch.bincount(own[own >= 0], minlength=classes).cpu().numpy()


def average_precisions(counts: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Average precision by threshold and class, float64 [T,K], NaN of a class that does not occur.

    counts: as `histograms`.  there: as `truths`.
    """
    result = np.full(counts.shape[:2], np.nan)
    chance = stream(0, "average precision")
    for t, k in np.ndindex(*result.shape):
        if there[k]:
            result[t, k] = average_precision(counts[t, k], int(there[k]), chance)
    return result


def average_precision(counts: np.ndarray, there: int, chance: np.random.Generator) -> float:
    """The mean, over 101 recalls, of the best precision at that recall or a larger one.  counts int64 [2,BINS] of (misses, matches);
    there > 0: boxes to be found.  chance: draws the orders.

    >>> average_precision(np.array([[0, 1, 0], [1, 0, 1]]), 2, stream(0))  # a match, then a miss, then a match: (51 · 1 + 50 · 2/3) / 101
    0.8349834983498351
    """
    misses, matches = counts[:, ::-1]
    if not matches.any():
        return 0.0
    end = np.flatnonzero(matches)[-1] + 1  # what is less sure than the last match lowers no precision
    right = np.repeat([False, True], [misses[:end].sum(), matches[:end].sum()])
    bins = np.repeat(np.tile(np.arange(end), 2), np.concatenate([misses[:end], matches[:end]]))
    return float(np.mean([_in_order(right[np.argsort(bins + chance.random(len(bins)))], there) for _ in range(ORDERS)]))


def _in_order(right: np.ndarray, there: int) -> float:
    """Of detections from the surest on, each a match or not: bool [n]."""
    best = np.maximum.accumulate((right.cumsum() / np.arange(1, len(right) + 1))[right][::-1])[::-1]
    needed = np.maximum(1, np.ceil(RECALLS * there - 1e-9)).astype(int)  # matches, for each recall
    return float(best[needed[needed <= len(best)] - 1].sum() / len(RECALLS))


def recalls(counts: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The share of the boxes that was found at all, by threshold and class: float64 [T,K], NaN of a class that does not occur."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there > 0, counts[:, :, 1].sum(-1) / there, np.nan)
