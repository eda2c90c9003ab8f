"""Figures from histograms of scores, which can be summed over sites: areas, operating points, calibration.

A histogram is over asinh(8 (log-odds − their middle)): fine where a model says little more than chance, as young ones do, and
not blind where it is sure.
"""

import numpy as np
import torch
from torch import Tensor

BINS = 1024
FINE = 8.0  # bins are of equal width up to about 1/8 of a nat from the middle, and of equal ratios beyond it
LARGEST = 12.0  # |asinh(8 x)| beyond which scores are alike: log-odds of 10,000
CALIBRATION_BINS = 15  # of the confidence, equally wide (Guo et al. 2017)
STEPS = 2.0**20  # losses and confidences are summed in steps of 2^-20, so that their sums are exact in any order
LARGEST_LOSS = 1e6  # of one image: a diverged model is recorded as this, not as infinity


def bins_of(odds: Tensor, middle: float = 0.0) -> Tensor:
    """The bin of each log-odds, int64, of the same shape.  middle: the log-odds of chance."""
    scaled = torch.asinh(FINE * (odds.double() - middle)).nan_to_num(0.0, LARGEST, -LARGEST)
    return ((scaled / LARGEST + 1) * (BINS / 2)).long().clamp(0, BINS - 1)


def histograms(odds: Tensor, own: Tensor, known: Tensor | None = None, middle: float = 0.0) -> Tensor:
    """Of each class's log-odds over (other, own) images.  odds, own [B,K], own in {0,1} int64; known: which count, all
    where None -> int64 [K,2,BINS]."""
    k = odds.shape[1]
    index = (torch.arange(k, device=odds.device) * 2 + own) * BINS + bins_of(odds, middle)
    return torch.bincount(index.flatten() if known is None else index[known], minlength=k * 2 * BINS).reshape(k, 2, BINS)


def calibration(confidence: Tensor, right: Tensor) -> Tensor:
    """By bin of the confidence: how many, how many right, and their confidences' sum in 2^-20.  [N], [N] -> int64 [15,3]."""
    confidence = confidence.double().nan_to_num(0.0).clamp(0, 1)
    at = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    total = torch.zeros(CALIBRATION_BINS, 3, dtype=torch.long, device=confidence.device)
    return total.index_add_(0, at, torch.stack([torch.ones_like(at), right.long(), (confidence * STEPS).round().long()], 1))


def sum_of(losses: Tensor) -> np.ndarray:
    """Losses [N] added up in steps of 2^-20: int64 [1]."""
    clamped = losses.double().nan_to_num(LARGEST_LOSS, LARGEST_LOSS).clamp(max=LARGEST_LOSS)
    return (clamped * STEPS).round().long().sum().cpu().numpy().reshape(1)


def areas(scores: np.ndarray) -> list[float | None]:
    """Area under the ROC curve of each class from score histograms [K,2,BINS] over (negatives, positives), ties within a bin
    counted half (Hanley, McNeil 1982); None where one side is empty."""
    negatives, positives = scores[:, 0], scores[:, 1]
    upto = negatives.cumsum(1)
    above = (positives * (upto - negatives / 2)).sum(1)
    pairs = upto[:, -1] * positives.sum(1)
    return [float(a / n) if n else None for a, n in zip(above, pairs.tolist(), strict=True)]


def sensitivities(scores: np.ndarray, specificity: float) -> list[float | None]:
    """The share of each class's positives found at the lowest threshold whose specificity is at least that; None where one
    side is empty.

    scores: histograms [K,2,BINS] over (negatives, positives).  Inside the bin of the threshold both are taken as evenly spread:
    of m negatives there, the first one too many stands, on average, (k + 1) / (m + 1) of the way down, where k are allowed.
    """
    down = scores[:, :, ::-1].cumsum(2)  # from the highest scores
    result: list[float | None] = []
    for (false, true), (n, p) in zip(down, down[:, :, -1].tolist(), strict=True):
        if not n or not p:
            result.append(None)
            continue
        allowed = int((1 - specificity) * n + 1e-9)  # false positives
        at = int(np.searchsorted(false, allowed, side="right"))  # the bin in which there is one too many
        before, found = (int(false[at - 1]), int(true[at - 1])) if at else (0, 0)
        share = (allowed - before + 1) / (int(false[at]) - before + 1)
        result.append(float(found + (int(true[at]) - found) * share) / p)
    return result


def calibration_error(table: np.ndarray) -> float | None:
    """Expected calibration error: Σ n_b / n |right_b / n_b − mean confidence_b|.  Naeini, Cooper, Hauskrecht 2015; Guo et al.
    2017.  None of nothing.

    >>> calibration_error(np.array([[4, 1, int(4 * 0.5 * STEPS)], [0, 0, 0]]))  # says 1/2, right in 1/4
    0.25
    """
    n = int(table[:, 0].sum())
    return float(np.abs(table[:, 1] - table[:, 2] / STEPS).sum() / n) if n else None


def mean_of(values: list[float | None]) -> float | None:
    """The mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
