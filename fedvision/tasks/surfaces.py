"""How well the borders of classes were found: what adds up over images.

The border of a class is its pixels that have a neighbour (4 in the plane, 6 in space) of another class, or lie at the image's edge.
"""

import math

import numpy as np

from fedvision.augment import UNKNOWN

FINE, LINEAR, OCTAVE = 4, 256, 32  # bins a pixel; bins of equal width, up to 64 pixels; bins an octave beyond
DISTANCES = 512  # bins: up to 16,384 pixels
_FIRST = LINEAR / FINE  # pixels


def bin_of(distance: float) -> int:
    """The bin of a distance, pixels.

    >>> bin_of(0.0), bin_of(1.0), bin_of(64.0), bin_of(1e9)
    (0, 4, 256, 511)
    """
    if distance < _FIRST:
        return min(round(distance * FINE), LINEAR)
    return min(LINEAR + round(OCTAVE * math.log2(distance / _FIRST)), DISTANCES - 1)


def middles() -> np.ndarray:
    """The distance that each bin stands for, pixels [DISTANCES]: within 1/8 pixel, and beyond 64 pixels within 1.1 %."""
    beyond = _FIRST * 2.0 ** (np.arange(DISTANCES - LINEAR) / OCTAVE)
    return np.concatenate([np.arange(LINEAR) / FINE, beyond])


def mean_distance(histograms: np.ndarray) -> list[float | None]:
    """The mean of each class's distances from their histograms [K,DISTANCES], pixels; None of none."""
    counts = histograms.sum(1)
    totals = histograms @ middles()
    return [float(total / n) if n else None for total, n in zip(totals, counts.tolist(), strict=True)]


def borders(labels: np.ndarray) -> np.ndarray:
    """bool, as `labels` [H,W] or [D,H,W]: which pixels are on the border of their class."""
    on = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        along = np.moveaxis(labels, axis, 0)
        its = np.moveaxis(on, axis, 0)
        differs = along[1:] != along[:-1]
        its[1:] |= differs
        its[:-1] |= differs
        its[0] = its[-1] = True
    return on


def compared(truth: np.ndarray, said: np.ndarray, classes: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Of one image's borders, by class, int64: [K,4] pixels (right of those said, said, found of those there, there), and
    [K,DISTANCES], a count at the 95 % Hausdorff distance where a class is both there and said.

    The distance is the larger of the two ways' 95th percentiles.  tolerance: pixels up to which a border pixel is right, or found.
    """
    from scipy.spatial import cKDTree

    said = np.where(truth == UNKNOWN, UNKNOWN, said)
    counts, distances = np.zeros((classes, 4), np.int64), np.zeros((classes, DISTANCES), np.int64)
    there, wanted = _points(truth), _points(said)
    for k in (there.keys() | wanted.keys()) - {UNKNOWN}:
        own, its = there.get(k), wanted.get(k)
        if own is None or its is None:
            counts[k] = (0, 0 if its is None else len(its), 0, 0 if own is None else len(own))
            continue
        to_truth, to_said = cKDTree(own).query(its)[0], cKDTree(its).query(own)[0]
        counts[k] = ((to_truth <= tolerance).sum(), len(its), (to_said <= tolerance).sum(), len(own))
        distances[k, bin_of(float(max(np.percentile(to_truth, 95), np.percentile(to_said, 95))))] += 1
    return counts, distances


def f_scores(counts: np.ndarray) -> list[float | None]:
    """The boundary F-score of each class from [K,4] as `compared` counts them; None where the class is neither there nor said.
    Csurka, Larlus, Perronnin 2013, here pooled over images."""
    result: list[float | None] = []
    for right, said, found, there in counts.tolist():
        precision, recall = right / max(1, said), found / max(1, there)
        both = precision + recall
        result.append(None if said + there == 0 else 2 * precision * recall / both if both else 0.0)
    return result


def _points(labels: np.ndarray) -> dict[int, np.ndarray]:
    """The border pixels of each class that there is, [n, 2 or 3]."""
    points = np.argwhere(borders(labels))
    own = labels[tuple(points.T)]
    order = np.argsort(own, kind="stable")
    numbers, starts = np.unique(own[order], return_index=True)
    return {int(k): rows for k, rows in zip(numbers, np.split(points[order], starts[1:]), strict=True)}
