"""A network over an image of any size: windows that overlap, their logits blended, one band of rows in memory at a time.

Along the first axis windows come in order, and what is finished leaves; along the others the image is cut into panels, so that the
logits that wait for a window's overlap, K classes of them, stay within a bound whatever the image's size.  At a panel's edge windows
are computed for both panels: that is the price.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

Read = Callable[[tuple[slice, ...]], Tensor]  # a part of the image -> float32 [C,...], normalised
Write = Callable[[tuple[slice, ...], np.ndarray], None]  # a part of the image, and its labels
Network = Callable[[Tensor], Tensor]  # [1,C,...] -> logits [1,K,...]


@dataclass(frozen=True)
class Windows:
    """size: of a window, pixels a side.  overlap: share of a side that two neighbours have in common.  waiting: bytes of logits
    that may wait."""

    size: tuple[int, ...]
    overlap: float = 0.25
    waiting: int = 192 << 20


def segment(network: Network, sides: Sequence[int], classes: int, windows: Windows, read: Read, write: Write) -> None:
    """Label an image of `sides`, each pixel the class of the largest blended logit; each part is written once.

    A window that is larger than the image is cut to it.  Blending weighs a window by how far a pixel is from its border.
    """
    size = tuple(min(own, side) for own, side in zip(windows.size, sides, strict=True))
    starts = [_starts(side, own, windows.overlap) for side, own in zip(sides, size, strict=True)]
    weight = blending(size)
    for panel in _panels(sides[1:], size, classes, windows.waiting):
        _label_panel(network, sides, classes, size, starts, weight, panel, read, write)


def _label_panel(
    network: Network, sides: Sequence[int], classes: int, size: tuple[int, ...], starts: list[list[int]], weight: Tensor,
    panel: tuple[slice, ...], read: Read, write: Write,
) -> None:  # fmt: skip
    """All rows of one panel, a slice along every axis but the first."""
    wide = tuple(p.stop - p.start for p in panel)
    waiting = torch.zeros(classes, size[0], *wide)
    done = 0  # rows that are written
    across = [_meeting(own, side, p) for own, side, p in zip(starts[1:], size[1:], panel, strict=True)]
    for number, top in enumerate(starts[0]):
        _move(waiting, top - done)
        done = top
        for place in product(*across):
            where = (slice(top, top + size[0]), *(slice(at, at + side) for at, side in zip(place, size[1:], strict=True)))
            logits = network(read(where)[None])[0]
            inside = tuple(slice(max(w.start, p.start), min(w.stop, p.stop)) for w, p in zip(where[1:], panel, strict=True))
            own = tuple(slice(i.start - w.start, i.stop - w.start) for i, w in zip(inside, where[1:], strict=True))
            there = tuple(slice(i.start - p.start, i.stop - p.start) for i, p in zip(inside, panel, strict=True))
            waiting[(slice(None), slice(None), *there)] += logits[(slice(None), slice(None), *own)] * weight[(slice(None), *own)]
        until = starts[0][number + 1] if number + 1 < len(starts[0]) else sides[0]
        labels = waiting[:, : until - top].argmax(0)
        write((slice(top, until), *panel), labels.numpy().astype(np.uint8 if classes <= 256 else np.uint16))


def _move(waiting: Tensor, rows: int) -> None:
    """Let the first `rows` go: what follows moves up, and zeros come in."""
    if rows:
        kept = waiting.shape[1] - rows
        for plane in waiting:  # one class at a time: the ranges overlap, and a copy of all would double the memory
            plane[:kept] = plane[rows:].clone()
            plane[kept:] = 0


def _starts(side: int, size: int, overlap: float) -> list[int]:
    """Where windows begin along an axis: evenly, the last one at its end.

    >>> _starts(10, 4, 0.25), _starts(4, 4, 0.25)
    ([0, 3, 6], [0])
    """
    if side <= size:
        return [0]
    step = max(1, math.floor(size * (1 - overlap)))
    count = math.ceil((side - size) / step) + 1
    return [round(number * (side - size) / (count - 1)) for number in range(count)]


def _meeting(starts: list[int], size: int, panel: slice) -> list[int]:
    """The windows that reach into a panel."""
    return [start for start in starts if start < panel.stop and start + size > panel.start]


def _panels(sides: Sequence[int], size: tuple[int, ...], classes: int, waiting: int) -> Iterator[tuple[slice, ...]]:
    """The image cut across, so that the logits of a band of a panel take at most `waiting` bytes, or are one pixel's column wide."""
    room = max(1, waiting // (4 * classes * size[0]))
    cut, left = [], room
    for side in reversed(sides):
        own = min(side, left)
        cut.append(own)
        left = max(1, left // own)
    steps = list(reversed(cut))
    ranges = [range(0, side, step) for side, step in zip(sides, steps, strict=True)]
    for corner in product(*ranges):
        yield tuple(slice(at, min(at + step, side)) for at, step, side in zip(corner, steps, sides, strict=True))


def blending(size: tuple[int, ...]) -> Tensor:
    """The weight of each pixel of a window, float32: the product over its axes of a ramp up from the border, never 0."""
    weight = torch.ones(size)
    for axis, side in enumerate(size):
        away = torch.arange(1, side + 1, dtype=torch.float32)
        ramp = torch.minimum(away, away.flip(0)) / (side / 2)
        weight = weight * ramp.reshape([-1 if a == axis else 1 for a in range(len(size))])
    return weight
