"""Files that name images and the boxes in them: COCO's JSON, also with objects' masks, and Pascal VOC's XML, read and written.

Inside, a box is a row (class, x1, y1, x2, y2) in pixels of the image as it is on disk, from its upper left corner; a region to be ignored
(COCO's crowd, VOC's difficult) of class k has −2 − k for a class.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from fedvision.data.outlines import Shape, shape_of
from fedvision.errors import DataError

OUTSIDE = 1.0  # pixels by which a box may leave its image and is cut off: rounding.  More is a mistake
LARGEST = 1 << 28  # bytes of a file of boxes


@dataclass
class Problems:
    """Boxes and images that cannot be used: each is named; the first ends the reading where `stop`, else all are left out and counted."""

    stop: bool
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def met(self, kind: str, said: str) -> None:
        """One thing of this kind, and what is wrong with it; DataError where the config says to stop."""
        if self.stop:
            raise DataError(f"{said}; mend it, or set data.on_bad_box = skip to leave such boxes out")
        self.counts[kind] += 1
        self.first.setdefault(kind, said)

    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know."""
        return tuple(f"{n} left out, being {kind}; the first: {self.first[kind]}" for kind, n in sorted(self.counts.items()))


@dataclass
class Annotated:
    """Images by name, their sizes (width, height) in pixels, and their boxes float64 [m,5], in the same order.

    columns: what else is said of each image.  shapes: of each image's boxes what belongs to the object; [] where that is not read.
    """

    classes: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    shapes: list[list[Shape]] = field(default_factory=list)
    problems: Problems = field(default_factory=lambda: Problems(stop=True))


def usable(corners: Sequence[float], size: tuple[int, int], where: str, problems: Problems) -> list[float] | None:
    """The box (x1, y1, x2, y2), cut off at the image's edge; None, and a problem, where it is none or leaves the image.

    >>> usable([-0.5, 2, 8, 9], (8, 10), "box 1 of a.png", Problems(stop=True))
    [0.0, 2.0, 8.0, 9.0]
    """
    if len(corners) != 4 or not all(math.isfinite(v) for v in corners):
        problems.met("no box", f"{where}: {list(corners)} is no box of four numbers")
        return None
    x1, y1, x2, y2 = (float(v) for v in corners)
    if x2 <= x1 or y2 <= y1:
        problems.met("of no area", f"{where} is from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}), which holds nothing")
        return None
    if min(x1, y1) < -OUTSIDE or x2 > size[0] + OUTSIDE or y2 > size[1] + OUTSIDE:
        problems.met(
            "outside the image", f"{where} is from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}), and the image has {size[0]} × {size[1]} pixels"
        )
        return None
    cut = [max(0.0, x1), max(0.0, y1), min(float(size[0]), x2), min(float(size[1]), y2)]
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        problems.met(
            "outside the image", f"{where} is from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}), and the image has {size[0]} × {size[1]} pixels"
        )
        return None
    return cut


def _text(path: Path, what: str) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{what} = {path} has {path.stat().st_size:,} bytes, and {LARGEST:,} is the most")
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{what} = {path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{what} = {path} cannot be read: {error.strerror}") from None


def _rows(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 5)


# --------------------------------------------------------------------------------------------------------------- COCO


def read_coco(path: Path, wanted: Sequence[str] | None, stop: bool, *, masks: bool = False) -> Annotated:
    """The images and boxes of a COCO JSON.  wanted: classes in their order, null = the file's, by their ids.  masks: whether what belongs to
    each object is read too.

    A field of an image that is plain text or a number, other than COCO's own, is a column (site, subject).
    DataError for what is no such file; a box that cannot be used is a problem.
    """
    try:
        content = json.loads(_text(path, "data.annotations"))
        images, marks, kinds = (list(content[key]) for key in ("images", "annotations", "categories"))
        kinds = sorted(((int(kind["id"]), str(kind["name"])) for kind in kinds), key=lambda kind: kind[0])
        ids = [image["id"] for image in images]
        for what, values in (("category id", [k for k, _ in kinds]), ("class", [name for _, name in kinds]), ("image id", ids)):
            _only_once(path, what, values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DataError(f"data.annotations = {path} is no COCO file: {type(error).__name__}: {error}") from None
    result = Annotated(tuple(wanted or (name for _, name in kinds)), problems=Problems(stop))
    for image in images:
        _take_image(image, result, path)
    _only_once(path, "image", result.names)
    reader = _Marks(dict(kinds), {number: place for place, number in enumerate(ids)}, result, masks)
    for mark in marks:
        reader.take(mark)
    result.boxes = [_rows(rows) for rows in reader.rows]
    result.shapes = reader.shapes if masks else []
    _same_columns(result, images)
    return result


def _only_once(path: Path, what: str, values: Sequence[Any]) -> None:
    twice = [value for value, n in Counter(values).items() if n > 1]
    if twice:
        raise DataError(f"data.annotations = {path} has the {what} {twice[0]!r} twice, and each counts once")


@dataclass
class _Marks:
    """Annotations as they are read: rows and shapes of each image.  kinds: names by id; places: of images by id."""

    kinds: dict[int, str]
    places: dict[Any, int]
    result: Annotated
    masks: bool
    seen: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rows: list[list[list[float]]] = [[] for _ in self.places]
        self.shapes: list[list[Shape]] = [[] for _ in self.places]
        self.known = {number: self.result.classes.index(name) for number, name in self.kinds.items() if name in self.result.classes}

    def take(self, mark: Any) -> None:
        """One annotation; a problem where it cannot be used."""
        problems = self.result.problems
        try:
            own, image, kind = mark.get("id"), self.places.get(mark["image_id"]), mark["category_id"]
            x, y, w, h = (float(v) for v in mark["bbox"] if not isinstance(v, str))
            crowd, named, twice = bool(mark.get("iscrowd", 0)), kind in self.kinds, own is not None and own in self.seen
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problems.met("no box", f"an annotation is no box: {type(error).__name__}: {error}: {str(mark)[:120]}")
            return
        where = f"box {'?' if own is None else own}"
        if image is None:
            problems.met("of an unknown image", f"{where} is of the image {mark['image_id']!r}, which is not in the file")
            return
        where = f"{where} of {self.result.names[image]}"
        if twice:
            problems.met("of an id that another box has", f"{where} has the id {own!r}, which another box has too")
        elif not named:
            problems.met("of an unknown class", f"{where} has the class {kind!r}, and there are {sorted(self.kinds)}")
        elif kind in self.known:  # another class than those that are wanted is no mistake
            self.seen.add(own)
            corners = usable([x, y, x + w, y + h], self.result.sizes[image], where, problems)
            shape = self._shape(mark, corners, self.result.sizes[image], where) if self.masks and corners is not None else None
            if corners is not None and (shape is not None or not self.masks):
                self.rows[image].append([-2.0 - self.known[kind] if crowd else self.known[kind], *corners])
                self.shapes[image] += [shape] if shape is not None else []

    def _shape(self, mark: Any, corners: list[float], size: tuple[int, int], where: str) -> Shape | None:
        """What belongs to the object; None, and a problem, where it is broken or has nothing to do with the box."""
        try:
            shape = shape_of(mark.get("segmentation"), size)
        except ValueError as error:
            self.result.problems.met("of a broken mask", f"{where} has {error}")
            return None
        if not shape.meets(corners):
            self.result.problems.met("of a mask outside its box", f"{where} has a mask that is empty or lies outside its box")
            return None
        return shape


def _take_image(image: Any, result: Annotated, path: Path) -> None:
    name, number = image.get("file_name"), image.get("id")
    size = (image.get("width"), image.get("height"))
    if not isinstance(name, str) or not all(type(n) is int and n > 0 for n in size):
        raise DataError(f"{path}: the image {number!r} needs file_name, width and height, and has {name!r}, {size[0]!r}, {size[1]!r}")
    result.names.append(name)
    result.sizes.append((size[0], size[1]))


_OWN = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url", "date_captured"}


def _same_columns(result: Annotated, images: list[Any]) -> None:
    plain = [{k: str(v) for k, v in image.items() if k not in _OWN and isinstance(v, str | int | float)} for image in images]
    shared = set.intersection(*(set(row) for row in plain)) if plain else set()
    result.columns = {name: [row[name] for row in plain] for name in sorted(shared)}


def write_coco(path: Path, annotated: Annotated) -> None:
    """The same as a COCO JSON, ids from 1."""
    kinds = [{"id": k + 1, "name": name} for k, name in enumerate(annotated.classes)]
    images: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for place, (name, (width, height), boxes) in enumerate(zip(annotated.names, annotated.sizes, annotated.boxes, strict=True)):
        more = {column: values[place] for column, values in annotated.columns.items()}
        images.append({"id": place + 1, "file_name": name, "width": width, "height": height, **more})
        for row, (kind, x1, y1, x2, y2) in enumerate(boxes.tolist()):
            crowd = kind <= -2
            marks.append({
                "id": len(marks) + 1, "image_id": place + 1, "category_id": int(-2 - kind if crowd else kind) + 1, "iscrowd": int(crowd),
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
            })  # fmt: skip
            if annotated.shapes:
                shape = annotated.shapes[place][row]
                marks[-1] |= {"segmentation": shape.written(crowd), "area": float(shape.mask(height, width).sum())}
    path.write_text(json.dumps({"images": images, "annotations": marks, "categories": kinds}), "utf-8")


# ---------------------------------------------------------------------------------------------------------------- VOC


def read_voc(folder: Path, wanted: Sequence[str] | None, stop: bool, *, first: int = 1) -> Annotated:
    """The images and boxes of a folder of VOC XML files, one an image, in the order of their names.

    first: number of the first pixel, 1 as in VOC, whose xmax and ymax lie inside the box; 0 where corners are as ours.
    wanted: classes in their order; null = those that occur, sorted.
    """
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise DataError(f"data.annotations = {folder} holds no .xml file")
    roots = [(file, _root(file)) for file in files]
    classes = tuple(wanted or sorted({kind for _, root in roots for o in root.iter("object") if (kind := _kind(o))}))
    result = Annotated(classes, problems=Problems(stop))
    for file, root in roots:
        name = root.findtext("filename") or ""
        size = tuple(_whole(root, f"size/{side}", file) for side in ("width", "height"))
        if PurePosixPath(name).name != name or not name:
            raise DataError(f"{file}: filename = {name!r} must be the plain name of an image")
        rows = [_marked(mark, number, name, (size[0], size[1]), first, result) for number, mark in enumerate(root.iter("object"), 1)]
        result.names.append(name)
        result.sizes.append((size[0], size[1]))
        result.boxes.append(_rows([row for row in rows if row is not None]))
    _only_once(folder, "image", result.names)
    return result


def _root(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(_text(file, "annotation"))
    except ElementTree.ParseError as error:
        raise DataError(f"{file} is no XML: {error}") from None


def _whole(root: ElementTree.Element, path: str, file: Path) -> int:
    text = (root.findtext(path) or "").strip()
    if not text.isdigit() or int(text) == 0:
        raise DataError(f"{file}: {path} = {text!r} must be a number of pixels")
    return int(text)


def _kind(mark: ElementTree.Element) -> str:
    """The class of an object; empty where it says none."""
    return (mark.findtext("name") or "").strip()


def _marked(mark: ElementTree.Element, number: int, name: str, size: tuple[int, int], first: int, result: Annotated) -> list[float] | None:
    where, kind = f"box {number} of {name}", _kind(mark)
    if kind not in result.classes:
        result.problems.met("of an unknown class", f"{where} has the class {kind!r}, and there are {', '.join(result.classes)}")
        return None
    try:
        x1, y1, x2, y2 = (float(mark.findtext(f"bndbox/{edge}") or "nan") for edge in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        result.problems.met("no box", f"{where} has no four numbers in its bndbox")
        return None
    corners = usable([x1 - first, y1 - first, x2, y2], size, where, result.problems)
    if corners is None:
        return None
    k = result.classes.index(kind)
    return [-2.0 - k if (mark.findtext("difficult") or "0").strip() == "1" else float(k), *corners]


def write_voc(folder: Path, annotated: Annotated) -> None:
    """The same as VOC XML files, one an image, named as it is; corners in whole pixels as VOC has them, at least one a box.

    DataError where two images would be named in one file.
    """
    _only_once(folder, "image", [PurePosixPath(name).stem for name in annotated.names])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (width, height), boxes in zip(annotated.names, annotated.sizes, annotated.boxes, strict=True):
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = PurePosixPath(name).name
        size = ElementTree.SubElement(root, "size")
        for side, n in (("width", width), ("height", height), ("depth", 3)):
            ElementTree.SubElement(size, side).text = str(n)
        for kind, x1, y1, x2, y2 in boxes.tolist():
            mark = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(mark, "name").text = annotated.classes[int(-2 - kind if kind <= -2 else kind)]
            ElementTree.SubElement(mark, "difficult").text = str(int(kind <= -2))
            corners = ElementTree.SubElement(mark, "bndbox")
            left, top = (min(round(low), math.ceil(high) - 1) for low, high in ((x1, x2), (y1, y2)))
            for edge, value in (
                ("xmin", left + 1),
                ("ymin", top + 1),
                ("xmax", max(left + 1, round(x2))),
                ("ymax", max(top + 1, round(y2))),
            ):
                ElementTree.SubElement(corners, edge).text = str(value)
        (folder / f"{PurePosixPath(name).stem}.xml").write_bytes(ElementTree.tostring(root))
