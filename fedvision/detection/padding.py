"""Images' boxes as one array, in plain numpy: data sets are opened before torch is needed."""

from collections.abc import Sequence

import numpy as np

NONE = -1.0  # the class of a row that is no box


def padded(rows: Sequence[np.ndarray], most: int | None = None) -> np.ndarray:
    """One image's boxes a row [m,5] (or with masks, [m,5 + P]) -> float32 [B,M,5], M the largest m (at least 1) or `most`; ValueError where
    more are there.

    >>> padded([np.array([[2, 0, 0, 4, 4]]), np.empty((0, 5))])[:, 0, 0]
    array([ 2., -1.], dtype=float32)
    """
    largest = max([1, *(len(boxes) for boxes in rows)])
    if most is not None and largest > most:
        raise ValueError(f"an image has {largest} boxes, and {most} is the most")
    result = np.zeros((len(rows), most or largest, rows[0].shape[1] if len(rows) else 5), np.float32)
    result[:, :, 0] = NONE
    for boxes, place in zip(rows, result, strict=True):
        place[: len(boxes)] = boxes
    return result
