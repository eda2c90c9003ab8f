"""mask_folder: images of one's own with a mask each, in two folders, in one manifest CSV, or in a COCO JSON.

    root/images/NAME.jpg   root/masks/NAME.png        data.images and data.masks name other folders, e.g. JPEGImages and
                                                      SegmentationClass of Pascal VOC, data.names its lists of names
    manifest               columns path and mask (from data.root), and if known subject, site and others
    annotations            polygons and run lengths of the images in data.images

A mask is a picture of one channel or a palette, whose values are numbers of classes, or a NIfTI file.  What is wrong is named, and
stops the run or, with data.on_bad = skip, leaves the image out and is counted in the notes.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision.augment import UNKNOWN
from fedvision.data import coco_masks
from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.folder import SUFFIXES, from_manifest
from fedvision.data.mask_pairs import Of, Pairs
from fedvision.data.masks import main_class
from fedvision.data.nifti import is_nifti
from fedvision.data.prepared_masks import prepare_masks
from fedvision.errors import DataError

if TYPE_CHECKING:
    from fedvision.holdings import MaskFolder


def mask_folder(data: "MaskFolder") -> Dataset:
    """The images and masks under data.root; DataError for what cannot be used, naming it."""
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise DataError(f"data.root = {data.root}: there is no such folder")
    if len(data.classes) > UNKNOWN:
        raise DataError(f"data.classes names {len(data.classes)} classes, and a mask holds up to {UNKNOWN}")
    pairs = _of_annotations(root, data) if data.annotations else _of_manifest(root, data) if data.manifest else _of_folders(root, data)
    ready = prepare_masks(root, pairs, data)
    means, stds = normalisation(data.mean, data.std, ready.images.shape[1], 0.5, 0.5)
    columns = {name: np.array(values)[ready.kept] for name, values in pairs.columns.items()}
    return Dataset(
        "mask_folder", ready.images, main_class(ready.masks, len(data.classes)), tuple(data.classes), means, stds,
        subjects=columns.get("subject"), columns=columns, notes=(*pairs.notes, *ready.notes()), digest=ready.digest, targets=ready.masks,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- what there is


def _of_folders(root: Path, data: "MaskFolder") -> Pairs:
    """Images and masks of the same name, whatever their suffixes; sub-folders are matched too, and the first is the column `folder`."""
    folders = {key: _folder(root, key, getattr(data, key)) for key in ("images", "masks")}
    images, masks = (_by_stem(folder) for folder in folders.values())
    if not images:
        raise DataError(f"{folders['images']} holds no image")
    if data.names is not None:
        images, masks = _listed(Path(data.names).expanduser(), images, masks)
    orphans = sorted(set(masks) - set(images))
    if orphans and data.on_bad == "stop":
        raise DataError(f"the mask {masks[orphans[0]]} has no image ({len(orphans)} have none); take it away, or set data.on_bad to skip")
    notes = [f"{len(orphans)} masks have no image, the first {masks[orphans[0]]}"] if orphans else []
    stems = sorted(images)
    of: list[Of] = [str(Path(data.masks) / masks[stem]) if stem in masks else None for stem in stems]
    first = [stem.split("/")[0] if "/" in stem else "" for stem in stems]
    columns = {"folder": first} if all(first) else {}
    return Pairs([str(Path(data.images) / images[stem]) for stem in stems], of, columns, notes)


def _folder(root: Path, key: str, name: str) -> Path:
    if not (root / name).is_dir():
        raise DataError(f"data.{key} = {name}: there is no folder {root / name}")
    return root / name


def _listed(listing: Path, images: dict[str, str], masks: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Those that a file names, a name without suffix first on each line; DataError where it names what is not there."""
    try:
        lines = [line.strip() for line in listing.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.names = {listing} cannot be read as UTF-8 text: {error}") from None
    names = [line if line in images else line.split()[0] for line in lines]  # a name may have a blank
    absent = [name for name in names if name not in images]
    if absent or not names:
        said = f"names {absent[0]!r} ({len(absent)} such), and there is no image of that name" if absent else "names no image"
        raise DataError(f"data.names = {listing} {said}")
    return {name: images[name] for name in names}, {name: masks[name] for name in names if name in masks}


def _by_stem(folder: Path) -> dict[str, str]:
    """Name below `folder` without its suffix -> the name; DataError where two files would be the same."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith(".") or not path.is_file() or not (path.suffix.lower() in SUFFIXES or is_nifti(path)):
            continue
        stem = name.removesuffix(".gz").rpartition(".")[0]
        if stem in found:
            raise DataError(f"{folder / found[stem]} and {folder / name} have the same name: which is meant?")
        found[stem] = name
    return found


def _of_manifest(root: Path, data: "MaskFolder") -> Pairs:
    assert data.manifest is not None
    listing = from_manifest(Path(data.manifest).expanduser(), root, labelled=False)
    if "mask" not in listing.columns:
        raise DataError(f"{data.manifest} has no column 'mask'; its columns are path, {', '.join(listing.columns)}")
    masks: list[Of] = [name or None for name in listing.columns.pop("mask")]
    return Pairs(listing.names, masks, listing.columns)


def _of_annotations(root: Path, data: "MaskFolder") -> Pairs:
    """What a COCO file says of the images below data.images; what it says of all of them besides is a column."""
    assert data.annotations is not None
    _folder(root, "images", data.images)
    marked, notes = coco_masks.read(Path(data.annotations).expanduser(), data.classes, data.on_bad)
    names = [str(Path(data.images) / one.name) for one in marked]
    if not names:
        raise DataError(f"data.annotations = {data.annotations} names no image")
    for name in names:
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise DataError(f"{name} lies outside data.root = {root}")
    twice, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"{data.annotations} names {twice} more than once: an image counts once")
    shared = set.intersection(*(set(one.columns) for one in marked))
    columns = {name: [one.columns[name] for one in marked] for name in sorted(shared)}
    return Pairs(names, list(marked), columns, notes)
