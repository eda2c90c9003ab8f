"""Masks in rows of numbers, 24 pixels a number, so that an object's box and its mask travel as one row; in plain numpy, as `padding`.

A row of targets with masks is [5 + ⌈H·W/24⌉]: class, corners, and the pixels of the mask from left to right and from top to bottom, the
first of each 24 in the highest bit.  Whole numbers below 2^24 are exact in single precision.
"""

import numpy as np

BOX = 5  # columns of a box: its class and its corners
PIXELS = 24  # of a mask in one number
POWERS = (2.0 ** np.arange(PIXELS - 1, -1, -1)).astype(np.float32)


def columns(height: int, width: int) -> int:
    """How many numbers the mask of an image of that size takes."""
    return -(-height * width // PIXELS)


def packed(masks: np.ndarray) -> np.ndarray:
    """bool [...,H,W] -> float32 [...,⌈H·W/24⌉].

    >>> [f"{int(number):024b}" for number in packed(np.array([[True, False], [False, True]]))]
    ['100100000000000000000000']
    """
    *more, height, width = masks.shape
    n = columns(height, width)
    bits = np.zeros((*more, n * PIXELS), np.float32)
    bits[..., : height * width] = masks.reshape(*more, height * width)
    return bits.reshape(*more, n, PIXELS) @ POWERS


def unpacked(rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 [...,⌈H·W/24⌉] -> bool [...,H,W].

    >>> int(unpacked(packed(np.eye(7, dtype=bool)), 7, 7).sum())
    7
    """
    bits = rows.astype(np.int32)[..., None] >> np.arange(PIXELS - 1, -1, -1) & 1
    flat = bits.reshape(*rows.shape[:-1], rows.shape[-1] * PIXELS)[..., : height * width]
    return flat.reshape(*rows.shape[:-1], height, width).astype(bool)
