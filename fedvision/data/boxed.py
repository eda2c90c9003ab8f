"""Data sets of images with boxes: your own files, and DeepForest's trees."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision.data import sources
from fedvision.data.box_files import Annotated, read_coco, read_voc
from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.made import made_once
from fedvision.data.prepared import prepare
from fedvision.data.resize import resized_masks
from fedvision.detection.packing import BOX, columns, packed, unpacked
from fedvision.detection.padding import NONE, padded
from fedvision.errors import CorruptImage, DataError

if TYPE_CHECKING:
    from fedvision.holdings import BoxFolder, Trees


def main_class(boxes: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """The class of most boxes of each image, int64 [N]: what it counts under where images are dealt out; of none the first."""
    own = [rows[rows[:, 0] >= 0, 0].astype(int) for rows in boxes]
    return np.array([np.bincount(kinds, minlength=classes).argmax() for kinds in own], np.int64)


def without_masks(dataset: Dataset) -> Dataset:
    """The same with the boxes alone, where it has objects' masks too."""
    masked = dataset.has_boxes and dataset.targets is not None and dataset.targets.shape[2] > BOX
    return replace(dataset, targets=np.ascontiguousarray(dataset.targets[..., :BOX])) if masked and dataset.targets is not None else dataset


def check_boxes(dataset: Dataset, whose: str, *, masks: bool = False) -> None:
    """DataError where the targets are no boxes of the images (masks: or without masks), or name a class that there is not."""
    boxes, size = dataset.targets, dataset.images.shape[2:]
    if boxes is None or boxes.dtype != np.float32 or boxes.ndim != 3 or boxes.shape[2] < BOX or len(boxes) != len(dataset):
        has = "no targets" if boxes is None else f"targets of {boxes.dtype} {list(boxes.shape)}"
        raise DataError(f"{whose} has {has}, and detection needs boxes: float32 [{len(dataset)}, M, 5], a class and x1, y1, x2, y2 a row")
    if boxes.shape[2] == BOX and masks:
        raise DataError(f"{whose} has boxes without masks: set data.masks to true where it can have them, or task to detection")
    if boxes.shape[2] > BOX and boxes.shape[2] != BOX + columns(*size):
        raise DataError(
            f"{whose}: rows hold {boxes.shape[2] - BOX} numbers behind their boxes, and the masks of images of {size[1]} × {size[0]} pixels take "
            f"{columns(*size)}: fedvision.detection.packing.packed makes them"
        )
    kinds, k = boxes[..., 0], len(dataset.classes)
    own = np.where(kinds <= -2, -2 - kinds, kinds)
    known = (kinds == NONE) | ((own >= 0) & (own < k) & (own == np.floor(own)))
    if not known.all():
        image, row = np.argwhere(~known)[0]
        raise DataError(f"{whose}: box {row} of image {image} has the class {kinds[image, row]:g}, and its {k} classes are 0 to {k - 1}")
    height, width = size
    x1, y1, x2, y2 = np.moveaxis(boxes[..., 1:BOX], -1, 0)
    good = (x1 >= 0) & (y1 >= 0) & (x2 > x1) & (y2 > y1) & (x2 <= width + 1e-3) & (y2 <= height + 1e-3)
    if not (good | (kinds == NONE)).all():
        image, row = np.argwhere(~(good | (kinds == NONE)))[0]
        where = boxes[image, row, 1:BOX].tolist()
        raise DataError(
            f"{whose}: box {row} of image {image} is {where}, and its image has {width} × {height} pixels: a box lies inside, x1 < x2"
        )


def rescaled(boxes: np.ndarray, size: tuple[int, ...], side: int) -> np.ndarray:
    """Boxes [N,M,5], or with masks [N,M,5 + P], of images of `size` (height, width) in images of side × side."""
    moved = boxes[..., :BOX] * np.array([1, *[side / size[1], side / size[0]] * 2], np.float32)
    if boxes.shape[2] == BOX:
        return moved
    masks = [resized_masks(unpacked(rows, *size).astype(np.uint8), side).astype(bool) for rows in boxes[..., BOX:]]
    return np.concatenate([moved, packed(np.stack(masks))], 2)


def box_folder(data: "BoxFolder") -> Dataset:
    """The images under data.root whose boxes data.annotations holds: a COCO JSON, or a folder of VOC XML files."""
    root, path = Path(data.root).expanduser(), Path(data.annotations).expanduser()
    if not root.is_dir():
        raise DataError(f"data.root = {data.root}: there is no such folder")
    if data.masks and path.is_dir():
        raise DataError(f"data.masks = true and data.annotations = {data.annotations}: VOC's XML holds no masks; give a COCO JSON")
    stop = data.on_bad_box == "stop"
    found = read_voc(path, data.classes, stop) if path.is_dir() else read_coco(path, data.classes, stop, masks=data.masks)
    if not found.classes:
        raise DataError(f"data.annotations = {data.annotations} names no class")
    there = _there(root, found, data.on_corrupt == "stop")
    if not there:
        raise DataError(f"none of the {len(found.names)} images that {path} names can be read under {root}")
    ready = prepare(root, [found.names[i] for i in there], data.image_size, data.channels, data.on_corrupt)
    kept = [there[i] for i in ready.kept]
    boxes = [_scaled(found, i, ready.images.shape[2:]) for i in kept]
    notes = found.problems.notes()
    if data.masks:
        boxes, small = _with_masks(boxes, found, kept, ready.images.shape[2:])
        notes += (f"{small:,} objects without a pixel in images of this size are not looked for",) if small else ()
    columns = {name: np.array(values)[kept] for name, values in found.columns.items()}
    means, stds = normalisation(data.mean, data.std, data.channels, 0.5, 0.5)
    counted = f"{sum(len(b) for b in boxes):,} boxes in {len(boxes):,} images, of which {sum(not len(b) for b in boxes):,} have none"
    absent = sorted({*range(len(found.classes))} - {int(kind) for rows in boxes for kind in rows[:, 0]})
    notes += (f"no box is of {', '.join(found.classes[k] for k in absent)}",) if absent else ()
    return Dataset(
        "box_folder", ready.images, main_class(boxes, len(found.classes)), found.classes, means, stds,
        subjects=columns.get("subject"), columns=columns, notes=(counted, *notes, *ready.notes()), digest=ready.digest,
        targets=padded(boxes), target_names=found.classes,
    )  # fmt: skip


def _scaled(found: Annotated, image: int, shape: tuple[int, ...]) -> np.ndarray:
    """An image's boxes as it was prepared, of `shape` (height, width)."""
    width, height = found.sizes[image]
    return found.boxes[image] * np.array([1, *[shape[1] / width, shape[0] / height] * 2])


def _with_masks(boxes: Sequence[np.ndarray], found: Annotated, kept: Sequence[int], shape: tuple[int, ...]) -> tuple[list[np.ndarray], int]:
    """Boxes [m,5] with their masks [m,5 + P] in images of `shape` (height, width); how many show no pixel there, and are to be ignored."""
    result, small = [], 0
    for rows, image in zip(boxes, kept, strict=True):
        masks = np.array([one.mask(shape[0], shape[1]) for one in found.shapes[image]], bool).reshape(-1, shape[0], shape[1])
        empty = ~masks.any((1, 2)) & (rows[:, 0] >= 0)
        small += int(empty.sum())
        kinds = np.where(empty, -2 - rows[:, 0], rows[:, 0])
        result.append(np.concatenate([kinds[:, None], rows[:, 1:], packed(masks)], 1))
    return result, small


def _there(root: Path, found: Annotated, stop: bool) -> list[int]:
    """Which of the images are files of the size that is said of them; the others are named, or counted."""
    from PIL import Image, UnidentifiedImageError

    result = []
    for number, (name, size) in enumerate(zip(found.names, found.sizes, strict=True)):
        try:
            path = (root / name).resolve()
            is_file = path.is_file()
        except (OSError, ValueError) as error:  # too long, or with characters that no name of a file can have
            _image_met(found, stop, "missing images", f"{name[:60]!r} can be no file: {str(error)[:60]}")
            continue
        if not path.is_relative_to(root.resolve()):
            raise DataError(f"{name} lies outside data.root = {root}")
        if not is_file:
            _image_met(found, stop, "missing images", f"there is no file {root / name}")
            continue
        try:
            with Image.open(path) as file:
                turned = file.getexif().get(0x0112, 1) >= 5
                its = file.size[::-1] if turned else file.size
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
            its = size  # what does not decode is named where it is prepared
        if its != size:
            said = f"{name} has {its[0]} × {its[1]} pixels, and its boxes were drawn in {size[0]} × {size[1]}"
            _image_met(found, stop, "images of another size than is said", said)
            continue
        result.append(number)
    return result


def _image_met(found: Annotated, stop: bool, kind: str, said: str) -> None:
    if stop:
        raise CorruptImage(f"{said}; mend it, or set data.on_corrupt = skip to leave such images out")
    found.problems.counts[kind] += 1
    found.problems.first.setdefault(kind, said)


# --------------------------------------------------------------------------------------------------------------- trees

_PLACES = ("OSBS_029", "SOAP_061", "2019_YELL_2_541000_4977000_image_crop", "2019_YELL_2_528000_4978000_image_crop2")
_SITES = {"OSBS": "OSBS", "SOAP": "SOAP", "2019": "YELL"}  # by the first part of a file's name
TILE = 200  # pixels, 20 m on the ground
LEAST = 0.5  # share of a tree that must lie in a tile for its box to count there


def trees(data: "Trees") -> Dataset:
    """DeepForest's crowns of trees, 951 boxes drawn by hand in four airborne images of three sites of NEON, cut into whole tiles.

    Weinstein, Marconi, Bohlman, Zare, White: Individual tree-crown detection in RGB imagery using semi-supervised deep learning neural
    networks, 2019.  columns: site, and half, west or east of the image's middle; subject: the half of the image, so that no ground that
    is tested on was trained on.
    """
    (folder,) = sources.fetched("trees")
    side = data.image_size or TILE
    made = made_once("trees", [2, sources.digest("trees"), side], lambda: _tiles(folder / "deepforest/data", side))
    means, stds = normalisation(data.mean, data.std, 3, 0.5, 0.5)
    known = made.known
    counted = f"{int((known['boxes'][..., 0] >= 0).sum()):,} boxes of trees in {len(made.images)} tiles of 20 m"
    notes = (
        f"from {sources.versions('trees')}; {counted}; a crown on the border of two tiles counts in that which holds half of it or more",
    )
    return Dataset(
        "trees", made.images, known["labels"], ("tree",), means, stds, subjects=known["half"],
        columns={"site": known["site"], "half": known["half"]}, notes=notes, digest=made.digest,
        targets=known["boxes"], target_names=("tree",),
    )  # fmt: skip


def _tiles(folder: Path, side: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    from PIL import Image

    images, boxes, site, half = [], [], [], []
    for name in _PLACES:
        picture = Image.open(folder / f"{name}.png").convert("RGB")
        found = _crowns(folder / f"{name}.xml", picture.size)
        across, down = (n // TILE for n in picture.size)  # what is left over at the right and at the bottom is not used
        for row in range(down):
            for column in range(across):
                x, y = TILE * column, TILE * row
                tile = picture.crop((x, y, x + TILE, y + TILE)).resize((side, side), Image.Resampling.BILINEAR)
                images.append(np.asarray(tile).transpose(2, 0, 1))
                boxes.append(_inside(found, x, y) * [1, *[side / TILE] * 4])
                its = _SITES[name.split("_")[0]]
                site.append(its)
                half.append(f"{name}-{'west' if x + TILE / 2 < picture.size[0] / 2 else 'east'}")
    known = {"boxes": padded(boxes), "labels": np.zeros(len(images), np.int64), "site": np.array(site), "half": np.array(half)}
    return np.stack(images), known


def _crowns(file: Path, size: tuple[int, int]) -> np.ndarray:
    """All boxes of one image as one class, whatever they are called, float64 [m,5]."""
    from xml.etree import ElementTree

    marks = ElementTree.parse(file).getroot().iter("object")
    rows = [[float(mark.findtext(f"bndbox/{edge}") or "nan") for edge in ("xmin", "ymin", "xmax", "ymax")] for mark in marks]
    corners = np.array(rows).clip(0, [size[0], size[1], size[0], size[1]])
    return np.concatenate([np.zeros((len(rows), 1)), corners], 1)


def _inside(boxes: np.ndarray, x: int, y: int) -> np.ndarray:
    """What of `boxes` lies in the tile at (x, y), cut off at its edge; what has too little in it is a region to be ignored."""
    moved = boxes[:, 1:] - [x, y, x, y]
    cut = moved.clip(0, TILE)
    area = (cut[:, 2] - cut[:, 0]).clip(0) * (cut[:, 3] - cut[:, 1]).clip(0)
    whole = (moved[:, 2] - moved[:, 0]) * (moved[:, 3] - moved[:, 1])
    kinds = np.where(area >= LEAST * whole, 0.0, -2.0)
    return np.concatenate([kinds[:, None], cut], 1)[area > 1]
