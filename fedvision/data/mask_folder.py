"""mask_folder: images of one's own with a mask each, in two folders or in one manifest CSV.

    root/images/NAME.jpg   root/masks/NAME.png        data.images and data.masks name other folders, e.g. JPEGImages and
                                                      SegmentationClass of Pascal VOC
    manifest               columns path and mask (from data.root), and if known subject, site and others

A mask is a picture of one channel or a palette, whose values are numbers of classes, or a NIfTI file.  What is wrong is named, and
stops the run or, with data.on_bad = skip, leaves the image out and is counted in the notes.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision.augment import UNKNOWN
from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.decode import MOST_PIXELS, decoded
from fedvision.data.folder import SUFFIXES, from_manifest
from fedvision.data.masks import main_class, pixels_by_class
from fedvision.data.nifti import is_nifti, volume
from fedvision.data.resize import resized, resized_masks
from fedvision.errors import CorruptImage, DataError

if TYPE_CHECKING:
    from fedvision.holdings import MaskFolder

_SHOWN = 20  # names in a note


@dataclass
class Pairs:
    """What is to be read: image and mask by name under the root, and what else is known, in the same order."""

    images: list[str] = field(default_factory=list)
    masks: list[str | None] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)


class Bad(DataError):
    """An image with its mask that cannot be used.  kind: why, in the words that are counted."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def mask_folder(data: "MaskFolder") -> Dataset:
    """The images and masks under data.root; DataError for what cannot be used, naming it."""
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise DataError(f"data.root = {data.root}: there is no such folder")
    if len(data.classes) > UNKNOWN:
        raise DataError(f"data.classes names {len(data.classes)} classes, and a mask holds up to {UNKNOWN}")
    pairs = _of_folders(root, data) if data.manifest is None else _of_manifest(root, data)
    images, masks, kept, notes = _read(root, pairs, data)
    means, stds = normalisation(data.mean, data.std, images.shape[1], 0.5, 0.5)
    columns = {name: np.array(values)[kept] for name, values in pairs.columns.items()}
    return Dataset(
        "mask_folder", images, main_class(masks, len(data.classes)), tuple(data.classes), means, stds,
        subjects=columns.get("subject"), columns=columns, notes=notes, targets=masks,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- what there is


def _of_folders(root: Path, data: "MaskFolder") -> Pairs:
    """Images and masks of the same name, whatever their suffixes; sub-folders are matched too, and the first is the column `folder`."""
    folders = {key: root / name for key, name in (("images", data.images), ("masks", data.masks))}
    for key, folder in folders.items():
        if not folder.is_dir():
            raise DataError(f"data.{key} = {getattr(data, key)}: there is no folder {folder}")
    images, masks = (_by_stem(folder) for folder in folders.values())
    if not images:
        raise DataError(f"{folders['images']} holds no image")
    orphans = sorted(set(masks) - set(images))
    if orphans and data.on_bad == "stop":
        raise DataError(f"the mask {masks[orphans[0]]} has no image ({len(orphans)} have none); take it away, or set data.on_bad to skip")
    stems = sorted(images)
    of = [str(Path(data.masks) / masks[stem]) if stem in masks else None for stem in stems]
    first = [stem.split("/")[0] if "/" in stem else "" for stem in stems]
    columns = {"folder": first} if all(first) else {}
    return Pairs([str(Path(data.images) / images[stem]) for stem in stems], of, columns)


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
    masks = [name or None for name in listing.columns.pop("mask")]
    return Pairs(listing.names, masks, listing.columns)


# -------------------------------------------------------------------------------------------------------- reading


def _read(root: Path, pairs: Pairs, data: "MaskFolder") -> tuple[np.ndarray, np.ndarray, list[int], tuple[str, ...]]:
    """Images uint8 [n,C,...], masks uint8 [n,...], which of the pairs they are, and what was left out."""
    images, masks, kept, bad = list[np.ndarray](), list[np.ndarray](), list[int](), list[Bad]()
    for number, (name, of) in enumerate(zip(pairs.images, pairs.masks, strict=True)):
        try:
            image, mask = _one(root, name, of, data)
        except Bad as error:
            if data.on_bad == "stop":
                raise DataError(f"{error}; set data.on_bad = skip to leave such images out") from None
            bad.append(error)
            continue
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{pairs.images[kept[0]]} has {_sides(images[0])} pixels and {name} has {_sides(image)}: set data.image_size to the side, in "
                "pixels, that all are to be resized to"
            )
        images.append(image)
        masks.append(mask)
        kept.append(number)
    if not images:
        raise DataError(f"none of the {len(pairs.images)} images under {root} can be used; the first says: {bad[0]}")
    return np.stack(images), np.stack(masks), kept, _notes(bad)


def _notes(bad: list[Bad]) -> tuple[str, ...]:
    kinds = Counter(error.kind for error in bad)
    by_kind = {kind: [str(error) for error in bad if error.kind == kind] for kind in kinds}
    return tuple(
        f"{len(said)} images were left out, {kind}: {'; '.join(said[:_SHOWN])}{'; ...' if len(said) > _SHOWN else ''}"
        for kind, said in by_kind.items()
    )


def _one(root: Path, name: str, of: str | None, data: "MaskFolder") -> tuple[np.ndarray, np.ndarray]:
    """One image [C,H,W] or [C,D,H,W] and its mask; Bad for what is wrong with it."""
    if of is None or not (root / of).is_file():
        raise Bad("their mask is missing", f"{name} has no mask{'' if of is None else f' {of}'}")
    try:
        image = volume(root / name, name, data.window) if is_nifti(root / name) else _picture(root / name, name, data.channels)
    except CorruptImage as error:
        raise Bad("their image does not decode", str(error)) from None
    try:
        values = volume(root / of, of, None)[0] if is_nifti(root / of) else _values(root / of, of)
    except CorruptImage as error:
        raise Bad("their mask does not decode", str(error)) from None
    if values.shape != image.shape[1:]:
        raise Bad("their mask is of another size", f"{name} has {_sides(image)} pixels, and its mask {of} {_sides(values[None])}")
    mask = _numbered(values, of, data)
    if data.on_empty != "keep" and not pixels_by_class(mask[None], len(data.classes))[0, 1:].any():
        raise Bad("their mask is empty", f"{of} shows nothing but {data.classes[0]}")
    if data.image_size is not None:
        image, mask = resized(image[None], data.image_size)[0], resized_masks(mask[None], data.image_size)[0]
    return image, mask


def _picture(path: Path, name: str, channels: int) -> np.ndarray:
    """uint8 [C,H,W].  Of four channels the file's own, alpha or near infrared, are taken as they are."""
    if channels != 4:
        return decoded(path, name, None, channels)[0]
    from PIL import Image

    decoded(path, name, None, 3)  # what does not decode says so by its name
    with Image.open(path) as file:
        if len(file.getbands()) != 4:
            raise CorruptImage(f"{name} has the channels {', '.join(file.getbands())}, and data.channels = 4")
        return np.asarray(file).transpose(2, 0, 1)


def _values(path: Path, name: str) -> np.ndarray:
    """The values [H,W] of a mask, as they stand in the file: of a palette the numbers, not the colours."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            if file.size[0] * file.size[1] > MOST_PIXELS:
                raise CorruptImage(f"{name}: {file.size[0]} × {file.size[1]} pixels are more than {MOST_PIXELS:,}")
            if file.mode not in {"1", "L", "P", "I;16", "I"}:
                raise CorruptImage(
                    f"{name} has the channels {', '.join(file.getbands())}: a mask has one, whose values are numbers of classes"
                )
            values = np.asarray(file)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptImage(f"{name} does not decode as a mask: {error}") from None
    return values.astype(np.int64)


def _numbered(values: np.ndarray, name: str, data: "MaskFolder") -> np.ndarray:
    """The mask with classes from 0 and UNKNOWN; Bad where a value is of no class."""
    given = data.known
    mask = np.full(values.shape, UNKNOWN, np.uint8)
    known = np.isin(values, data.unknown)
    for k, value in enumerate(given):
        mask[values == value] = k
        known |= values == value
    if not known.all():
        odd = int(values[~known].flat[0])
        raise Bad(
            "a class is out of range",
            f"{name} holds {odd} at {np.argwhere(~known)[0].tolist()}, and its classes have the values {', '.join(map(str, given))} (data.values), "
            f"{', '.join(map(str, data.unknown)) or 'none'} standing for what is not known (data.ignore)",
        )
    return mask


def _sides(image: np.ndarray) -> str:
    return " × ".join(map(str, reversed(image.shape[1:])))
