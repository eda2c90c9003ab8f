"""Masks of classes from a COCO file: its objects, painted over one another."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.augment import UNKNOWN
from fedvision.data.box_files import LARGEST
from fedvision.data.outlines import shape_of
from fedvision.errors import CorruptImage, DataError

OUTSIDE = 1.0  # pixels by which a polygon may leave its image and is cut off: rounding.  More is a mistake


@dataclass
class Marked:
    """What a COCO file says of one image.  size: (height, width).  objects: (number of the class, what it calls the segmentation,
    whether it is a crowd).  odd: what is said of its objects of no category of the file."""

    name: str
    size: tuple[int, int]
    objects: list[tuple[int, Any, bool]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)


def read(path: Path, classes: Sequence[str], on_bad: str) -> tuple[list[Marked], list[str]]:
    """The images of a COCO JSON, and what a reader of the results must know; DataError for what is no such file.

    classes: the first is what no object covers; each other one must be a category.  Objects of other categories count as the first.
    on_bad: stop where an object's image is not in the file; else such objects are counted.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"data.annotations = {path} has {path.stat().st_size:,} bytes, and {LARGEST:,} is the most")
        content = json.loads(path.read_bytes())
        kinds = {int(kind["id"]): str(kind["name"]) for kind in content["categories"]}
        images = {image["id"]: _marked(image) for image in content["images"]}
        marks = [(images.get(mark["image_id"]), int(mark["category_id"]), mark) for mark in content["annotations"]]
    except OSError as error:
        raise DataError(f"data.annotations = {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"data.annotations = {path} is no COCO file: {type(error).__name__}: {error}") from None
    if unknown := [name for name in classes[1:] if name not in kinds.values()]:
        raise DataError(f"data.classes names {unknown[0]!r}, and the categories of {path} are {', '.join(kinds.values())}")
    others = astray = 0
    for image, kind, mark in marks:
        if image is None:
            if on_bad == "stop":
                raise DataError(
                    f"{path}: an object is of image {mark['image_id']}, which the file does not name; or set data.on_bad to skip"
                )
            astray += 1
        elif kind not in kinds:
            image.odd.append(f"an object of {image.name} is of category {kind}, and the categories are {', '.join(map(str, kinds))}")
        elif kinds[kind] not in classes:
            others += 1
        else:
            image.objects.append((list(classes).index(kinds[kind]), mark.get("segmentation"), bool(mark.get("iscrowd"))))
    said = [f"{others:,} objects of categories that data.classes does not name count as {classes[0]}"] if others else []
    return list(images.values()), said + ([f"{astray:,} objects are of images that the file does not name"] if astray else [])


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
    """bool [H,W]: the pixels of one object.  CorruptImage, saying `where`, for a segmentation that is none, or leaves its image."""
    height, width = size
    try:
        shape = shape_of(segmentation, (width, height))
    except ValueError as error:
        raise CorruptImage(f"{where} has {error}") from None
    for corners in shape.polygons:
        odd = corners[((corners < -OUTSIDE) | (corners > np.array([width, height]) + OUTSIDE)).any(1)]
        if len(odd):
            raise CorruptImage(f"{where} has a corner at ({odd[0][0]:g}, {odd[0][1]:g}), and the image has {width} × {height} pixels")
    return shape.mask(height, width)
