"""What of an image belongs to an object, as COCO writes it: polygons, or runs of pixels (RLE), plain or compressed.

A polygon is corners x, y in pixels from the image's upper left corner, and holds the pixels whose middles lie inside.  Runs go down the columns
from the left one on, the first one outside the object.  Compressed, each run, from the fourth on less the run two before it, is written in
groups of five bits, the lowest first, a sixth bit saying that more follow, as the characters from "0" on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Shape:
    """polygons: each float64 [n,2], the object being all of them together; or, where there are none, runs in an image of `size` (width,
    height)."""

    size: tuple[int, int]
    polygons: tuple[np.ndarray, ...] = ()
    runs: tuple[int, ...] = ()

    @classmethod
    def of_mask(cls, mask: np.ndarray) -> "Shape":
        """The runs of a mask, bool [H,W].

        >>> Shape.of_mask(np.array([[True, True, False], [False, True, False]])).runs
        (0, 1, 1, 2, 2)
        """
        down = np.concatenate([[False], mask.T.ravel()])  # runs begin outside
        edges = np.flatnonzero(down[1:] != down[:-1])
        return cls((mask.shape[1], mask.shape[0]), runs=tuple(np.diff([0, *edges, mask.size]).tolist()))

    def mask(self, height: int, width: int) -> np.ndarray:
        """bool [height, width]: the object in its image stretched to that size; of runs the nearest pixels."""
        scale = np.array([width / self.size[0], height / self.size[1]])
        if self.polygons:
            return np.logical_or.reduce([filled(corners * scale, height, width) for corners in self.polygons])
        values = np.arange(len(self.runs)) % 2 == 1
        mask = np.repeat(values, self.runs).reshape(self.size[0], self.size[1]).T
        y, x = ((np.arange(n) * 2 + 1) * own // (2 * n) for n, own in ((height, self.size[1]), (width, self.size[0])))
        return np.ascontiguousarray(mask[y[:, None], x[None]])

    def meets(self, box: Sequence[float]) -> bool:
        """Whether something of it may lie in the box x1, y1, x2, y2; of polygons, by the boxes around them."""
        low, high = np.array(box[:2]), np.array(box[2:])
        if self.polygons:
            return any((corners.min(0) < high).all() and (corners.max(0) > low).all() for corners in self.polygons)
        (left, top), (right, bottom) = np.floor(low).astype(int), np.ceil(high).astype(int)
        return bool(self.mask(self.size[1], self.size[0])[top:bottom, left:right].any())

    def written(self, crowd: bool) -> Any:
        """COCO's `segmentation`: polygons, or RLE, which is compressed but for crowds, as in COCO's own files."""
        if self.polygons:
            return [np.asarray(corners).ravel().tolist() for corners in self.polygons]
        return {"size": [self.size[1], self.size[0]], "counts": list(self.runs) if crowd else compressed(self.runs)}


def shape_of(segmentation: Any, size: tuple[int, int]) -> Shape:
    """The shape that a COCO `segmentation` says in an image of `size` (width, height); ValueError, which says what is wrong with it."""
    if isinstance(segmentation, dict):
        return Shape(size, runs=_runs(segmentation, size))
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("no segmentation")
    polygons = []
    for corners in segmentation:
        numbers = [float(v) for v in corners] if isinstance(corners, list) and all(isinstance(v, int | float) for v in corners) else []
        if len(numbers) < 6 or len(numbers) % 2 or not all(math.isfinite(v) for v in numbers):
            raise ValueError(f"a polygon of {len(numbers)} numbers, and three corners or more, x and y, make one")
        polygons.append(np.array(numbers).reshape(-1, 2))
    return Shape(size, polygons=tuple(polygons))


def _runs(segmentation: dict[str, Any], size: tuple[int, int]) -> tuple[int, ...]:
    said, counts = segmentation.get("size"), segmentation.get("counts")
    if said != [size[1], size[0]]:
        raise ValueError(f"an RLE of size {said}, and its image has {[size[1], size[0]]} (height, width)")
    runs = decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(n) is int and n >= 0 for n in runs):
        raise ValueError(f"an RLE whose counts are {str(counts)[:60]}, and no row of runs")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(f"an RLE of {sum(runs):,} pixels, and its image has {size[0] * size[1]:,}")
    return tuple(runs)


def filled(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [height, width]: the pixels whose middles lie inside a polygon [n,2] of x, y, where lines cross by the even-odd rule.

    >>> filled(np.array([[1, 0], [3, 0], [3, 2], [1, 2]]), 2, 4).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0]])
    """
    turns = np.zeros((height, width + 1), np.int64)  # how often an edge is crossed on the way to each pixel from the left
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
        if y1 == y2:
            continue
        (top, bottom) = (y1, y2) if y1 < y2 else (y2, y1)
        rows = np.arange(max(0, math.ceil(top - 0.5)), min(height, math.ceil(bottom - 0.5)))
        at = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
        np.add.at(turns, (rows, np.clip(np.ceil(at - 0.5), 0, width).astype(int)), 1)
    return turns.cumsum(1)[:, :width] % 2 == 1


def compressed(runs: tuple[int, ...]) -> str:
    """Runs as text.

    >>> compressed((6, 1, 40, 5, 4, 8)), decompressed("611")
    ('61X14lN3', [6, 1, 1])
    """
    text = []
    for number, run in enumerate(runs):
        left = run - runs[number - 2] if number > 2 else run
        more = True
        while more:
            group, left = left & 31, left >> 5
            more = left != (-1 if group & 16 else 0)  # the last group's highest bit is the sign
            text.append(chr(48 + group + 32 * more))
    return "".join(text)


def decompressed(text: str) -> list[int]:
    """The runs that text says; ValueError where it is none."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"an RLE with the character {character!r}")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        value -= (group & 16) << (shift - 4)  # the sign
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("an RLE that breaks off")
    return runs
