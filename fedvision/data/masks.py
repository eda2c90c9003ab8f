"""Masks: a class for each pixel of an image, uint8 [N,H,W] or [N,D,H,W], UNKNOWN where it is not known."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fedvision.augment import UNKNOWN
from fedvision.errors import DataError

if TYPE_CHECKING:
    from fedvision.data.dataset import Dataset

_AT_ONCE = 1 << 20  # pixels


def check_masks(dataset: "Dataset", whose: str) -> None:
    """DataError where the targets are no masks of the images, or name a class that there is not."""
    masks = dataset.targets
    if masks is None or masks.dtype != np.uint8:
        has = "no targets" if masks is None else f"targets of {masks.dtype} {list(masks.shape[1:])} an image"
        raise DataError(
            f"{whose} has {has}, and each image needs a mask: uint8 {list(dataset.images.shape[2:])}, the number of a class a pixel"
        )
    if masks.shape != (len(dataset), *dataset.images.shape[2:]):
        raise DataError(
            f"{whose}: masks are {list(masks.shape)}, and the images {list(dataset.images.shape)}: one mask of its size an image"
        )
    k = len(dataset.classes)
    if k > UNKNOWN:
        raise DataError(f"{whose} has {k} classes, and a mask holds up to {UNKNOWN}: put some together")
    for start, piece in _pieces(masks):
        wrong = np.argwhere((piece >= k) & (piece != UNKNOWN))
        if len(wrong):
            where, value = wrong[0], piece[tuple(wrong[0])]
            raise DataError(
                f"{whose}: the mask of image {start + where[0]} holds {value} at {where[1:].tolist()}, and its {k} classes are 0 to {k - 1}, "
                f"{UNKNOWN} standing for what is not known"
            )


def pixels_by_class(masks: np.ndarray, classes: int) -> np.ndarray:
    """int64 [N, classes]: how many pixels of each image are of each class; those that are not known count nowhere."""
    counts = np.zeros((len(masks), 256), np.int64)
    for row, mask in zip(counts, masks, strict=True):
        flat = np.asarray(mask).reshape(-1)
        for start in range(0, len(flat), _AT_ONCE):
            row += np.bincount(flat[start : start + _AT_ONCE], minlength=256)
    return counts[:, :classes]


def main_class(masks: np.ndarray, classes: int) -> np.ndarray:
    """int64 [N]: the class that each image is richest in, in proportion to how common the class is over all of them; what it
    counts under where images are dealt out by class.

    >>> main_class(np.array([[[0, 0, 0, 1]], [[0, 0, 0, 0]]], np.uint8), 2)
    array([1, 0])
    """
    counts = pixels_by_class(masks, classes)
    return (counts / np.maximum(counts.sum(0), 1)).argmax(1).astype(np.int64)


def _pieces(masks: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first, some masks), so that a mapped file need not fit in memory."""
    step = max(1, _AT_ONCE // max(1, masks[:1].size))
    for start in range(0, len(masks), step):
        yield start, np.asarray(masks[start : start + step])
