"""COCO's ways of saying which pixels an object has: polygons, and lengths of runs, plain or packed into text."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.augment import UNKNOWN
from fedvision.data.box_files import LARGEST
from fedvision.errors import CorruptImage, DataError

OUTSIDE = 1.0  # pixels by which a polygon may leave its image and is cut off: rounding.  More is a mistake


@dataclass
class Marked:
    """What a COCO file says of one image.  size: (height, width).  objects: (number of the class, what it calls the segmentation,
    whether it is a crowd)."""

    name: str
    size: tuple[int, int]
    objects: list[tuple[int, Any, bool]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)


def read(path: Path, classes: Sequence[str]) -> tuple[list[Marked], list[str]]:
    """The images of a COCO JSON, and what a reader of the results must know; DataError for what is no such file.

    classes: the first is what no object covers; each other one must be a category.  Objects of other categories count as the first.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"data.annotations = {path} has {path.stat().st_size:,} bytes, and {LARGEST:,} is the most")
        content = json.loads(path.read_bytes())
        kinds = {int(kind["id"]): str(kind["name"]) for kind in content["categories"]}
        images = {image["id"]: _marked(image) for image in content["images"]}
        marks = [(images[mark["image_id"]], int(mark["category_id"]), mark) for mark in content["annotations"]]
    except OSError as error:
        raise DataError(f"data.annotations = {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"data.annotations = {path} is no COCO file: {type(error).__name__}: {error}") from None
    if unknown := [name for name in classes[1:] if name not in kinds.values()]:
        raise DataError(f"data.classes names {unknown[0]!r}, and the categories of {path} are {', '.join(kinds.values())}")
    others = 0
    for image, kind, mark in marks:
        if kind not in kinds:
            raise DataError(f"{path}: an object of {image.name} is of category {kind}, and the categories are {', '.join(map(str, kinds))}")
        if kinds[kind] not in classes:
            others += 1
            continue
        image.objects.append((list(classes).index(kinds[kind]), mark.get("segmentation"), bool(mark.get("iscrowd"))))
    said = [f"{others:,} objects of categories that data.classes does not name count as {classes[0]}"] if others else []
    return list(images.values()), said


def _marked(image: dict[str, Any]) -> Marked:
    known = {"id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured"}
    columns = {key: str(value) for key, value in image.items() if key not in known and isinstance(value, str | int)}
    return Marked(str(image["file_name"]), (int(image["height"]), int(image["width"])), columns=columns)


def painted(marked: Marked) -> np.ndarray:
    """The mask of one image, int64 [H,W]: 0 where there is no object, UNKNOWN where two classes claim a pixel or a crowd does alone.

    CorruptImage for an object that cannot be.
    """
    mask = np.zeros(marked.size, np.int64)
    crowds = np.zeros(marked.size, bool)
    for number, (k, segmentation, crowd) in enumerate(marked.objects):
        its = pixels(segmentation, marked.size, f"object {number} of {marked.name}")
        if crowd:
            crowds |= its
        else:
            mask[its] = np.where((mask[its] == 0) | (mask[its] == k), k, UNKNOWN)
    mask[crowds & (mask == 0)] = UNKNOWN
    return mask


def pixels(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """bool [H,W]: the pixels of one object.  segmentation: a list of polygons [x1, y1, x2, y2, ...] in pixels from the upper left
    corner, or {"size": [H, W], "counts": run lengths}, a list or packed text.  CorruptImage, saying `where`, for what is neither."""
    if isinstance(segmentation, dict):
        return _of_runs(segmentation, size, where)
    if not isinstance(segmentation, list) or not segmentation:
        raise CorruptImage(f"{where} has no polygon and no run lengths: {str(segmentation)[:60]!r}")
    inside = np.zeros(size, bool)
    for polygon in segmentation:
        inside |= filled(_corners(polygon, size, where), size)
    return inside


def _corners(polygon: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """float64 [n,2] of (x, y)."""
    try:
        numbers = np.array([float(value) for value in polygon])
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise CorruptImage(f"{where} has a polygon of {len(numbers)} numbers, and it needs three corners or more, x and y each")
    corners = numbers.reshape(-1, 2)
    if corners.min() < -OUTSIDE or (corners > np.array([size[1], size[0]]) + OUTSIDE).any():
        odd = corners[((corners < -OUTSIDE) | (corners > np.array([size[1], size[0]]) + OUTSIDE)).any(1)][0]
        raise CorruptImage(f"{where} has a corner at ({odd[0]:g}, {odd[1]:g}), and the image has {size[1]} × {size[0]} pixels")
    return corners


def filled(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [H,W]: the pixels whose centres lie in the polygon, by the even-odd rule.

    >>> filled(np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 1.0], [1.0, 1.0]]), (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    height, width = size
    crossed = np.zeros((height, width + 1), np.int32)  # borders that lie left of a pixel's centre, and not left of the one before
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
        rows = np.arange(*(min(max(math.ceil(y - 0.5), 0), height) for y in sorted((y1, y2))))
        if len(rows):
            at = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            np.add.at(crossed, (rows, np.clip(np.ceil(at - 0.5), 0, width).astype(int)), 1)
    return (np.cumsum(crossed, 1)[:, :width] % 2).astype(bool)


def _of_runs(segmentation: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    """Runs of outside and inside in turn, down the columns."""
    said, given = segmentation.get("size"), segmentation.get("counts")
    if list(said or []) != list(size):
        raise CorruptImage(f"{where} has run lengths of {said} pixels, and the image has {list(size)} (height, width)")
    runs = unpacked(given, where) if isinstance(given, str) else given if isinstance(given, list) else [-1]
    whole = all(isinstance(n, int) and n >= 0 for n in runs)
    if not whole or sum(runs) != size[0] * size[1]:
        told = f"add up to {sum(runs):,}" if whole else "are no whole numbers from 0"
        raise CorruptImage(f"{where} has run lengths that {told}, and the image has {size[0] * size[1]:,} pixels")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(inside.reshape(size, order="F"))


def unpacked(text: str, where: str) -> list[int]:
    """Run lengths from COCO's text: groups of five bits, the lowest first, a sixth bit where more follow; each number from the fourth
    on is the difference from the last but one.

    >>> unpacked("042N", "an object")
    [0, 4, 2, 2]
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise CorruptImage(f"{where} has run lengths with {letter!r}, which is no letter of theirs")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise CorruptImage(f"{where} has run lengths that are cut off")
    return counts
