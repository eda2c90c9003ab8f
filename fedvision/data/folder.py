"""image_folder: images of one's own, in a folder per class or named by a manifest CSV.

The manifest has a header; its columns are path (from data.root), label, and if known subject and site; every other
column can be gone by too (partition.column).
"""

import csv
import difflib
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision.data.dataset import Dataset, in_natural_order, normalisation
from fedvision.data.listing import Listing
from fedvision.data.prepared import Prepared, prepare
from fedvision.data.targets import targets_of
from fedvision.errors import DataError

if TYPE_CHECKING:
    from fedvision.holdings import ImageFolder

_FORMATS = "png jpg jpeg jpe jfif bmp dib tif tiff gif webp ppm pgm pbm pnm jp2 tga pcx avif"
SUFFIXES = frozenset(f".{suffix}" for suffix in _FORMATS.split())


def image_folder(data: "ImageFolder") -> Dataset:
    """The images under data.root, prepared once in the cache; DataError for what cannot be used, naming it."""
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise DataError(f"data.root = {data.root}: there is no such folder")
    means, stds = normalisation(data.mean, data.std, data.channels, 0.5, 0.5)
    listing = from_folders(root) if data.manifest is None else from_manifest(Path(data.manifest).expanduser(), root, not data.targets)
    classes = _classes(listing, data.classes)
    ready = prepare(root, listing.names, data.image_size, data.channels, data.on_corrupt)
    dataset = _dataset(listing, classes, ready, means, stds)
    if not data.targets:
        return dataset
    targets = targets_of(listing, data.targets, str(data.manifest or data.root))
    return replace(dataset, targets=targets[ready.kept], target_names=tuple(data.targets))


def _classes(listing: Listing, given: list[str] | None) -> tuple[str, ...]:
    if given is None:
        return tuple(in_natural_order(set(listing.labels)))
    if len(set(given)) != len(given):
        raise DataError(f"data.classes = {given} names a class twice")
    for name, label in zip(listing.names, listing.labels, strict=True):
        if label not in given:
            close = difflib.get_close_matches(label, given, 1)
            near = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{name} has the unknown class {label!r}; data.classes has {', '.join(given)}{near}")
    return tuple(given)


def _dataset(listing: Listing, classes: tuple[str, ...], ready: Prepared, means: tuple[float, ...], stds: tuple[float, ...]) -> Dataset:
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[label] for label in listing.labels], np.int64)
    columns = {name: np.array(values)[ready.kept] for name, values in listing.columns.items()}
    mixed = sum(int(labels[first] != labels[second]) for first, second in ready.copies)
    notes = [*listing.notes, *ready.notes()]
    if mixed:
        notes.append(f"{mixed} of those copies carry another label than what they are a copy of")
    return Dataset(
        "image_folder",
        ready.images,
        labels[ready.kept],
        classes,
        means,
        stds,
        subjects=columns.get("subject"),
        columns=columns,
        notes=tuple(notes),
        digest=ready.digest,
    )


# ------------------------------------------------------------------------------------------------ a folder per class


def from_folders(root: Path) -> Listing:
    """Every image below each sub-folder of `root`, which is its class.  Hidden files are passed over."""
    listing = Listing()
    left_out: list[str] = []
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                _refuse_loose_image(entry.name, root)
                left_out.append(entry.name)
                continue
            found = [name for name in _files(root, entry.name, frozenset()) if _is_image(root, name, left_out)]
            if not found:
                raise DataError(f"the class folder {root / entry.name} holds no image: fill it, or take it away")
            listing.names += found
            listing.labels += [entry.name] * len(found)
    if not listing.names:
        raise DataError(f"{root} has no folder per class: make root/CLASS/IMAGE, or give data.manifest")
    if left_out:
        shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        listing.notes.append(f"{len(left_out)} files were passed over, being no images by their names: {shown}")
    return listing


def _files(root: Path, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Names under `root` of all files below `folder`, sorted.  Links are followed, but never into a folder above."""
    stat = (root / folder).stat()
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            name = f"{folder}/{entry.name}"
            if entry.is_dir():
                yield from _files(root, name, above | {here})
            else:
                yield name


def _is_image(root: Path, name: str, left_out: list[str]) -> bool:
    taken = Path(name).suffix.lower() in SUFFIXES and (root / name).is_file()
    if not taken:
        left_out.append(name)
    return taken


def _refuse_loose_image(name: str, root: Path) -> None:
    if Path(name).suffix.lower() in SUFFIXES:
        raise DataError(f"{root / name} lies outside the class folders, so its class is not known: move it into one")


# --------------------------------------------------------------------------------------------------------- a manifest


def from_manifest(manifest: Path, root: Path, labelled: bool = True) -> Listing:
    """The images that a CSV names; DataError naming the line of a missing file, an empty field, a path given twice.

    labelled: whether each must have a label; else those without a label column are all called "image"."""
    try:
        text = manifest.read_text("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"data.manifest = {manifest}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.manifest = {manifest} cannot be read as UTF-8 text: {error}") from None
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    listing, seen = Listing(), dict[str, int]()
    try:
        header = _header(next(rows, []), manifest, labelled)
        listing.columns = {name: [] for name in header if name not in {"path", "label"}}
        for row in rows:
            if row:
                _take(_fields(row, header, manifest, rows.line_num), listing, seen, root, manifest, rows.line_num)
    except csv.Error as error:
        raise DataError(f"{manifest}, line {rows.line_num}: not CSV: {error}") from None
    if not listing.names:
        raise DataError(f"{manifest} names no image")
    return listing


def _header(row: list[str], manifest: Path, labelled: bool) -> list[str]:
    header = [name.strip() for name in row]
    for name in ("path", "label") if labelled else ("path",):
        if name not in header:
            close = difflib.get_close_matches(name, header, 1, 0.5)
            near = f" (is it {close[0]!r}?)" if close else ""
            raise DataError(f"{manifest} has no column {name!r}{near}; its columns are {', '.join(header) or 'none'}")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{manifest} has the column {twice!r} more than once")
    return header


def _fields(row: list[str], header: list[str], manifest: Path, line: int) -> dict[str, str]:
    if len(row) != len(header):
        raise DataError(f"{manifest}, line {line}: {len(row)} fields, and the header has {len(header)}")
    values = dict(zip(header, (value.strip() for value in row), strict=True))
    empty = next((name for name in ("path", "label", "subject") if values.get(name) == ""), None)
    if empty is not None:
        raise DataError(f"{manifest}, line {line}: the {empty} is empty")
    return values


def _take(values: dict[str, str], listing: Listing, seen: dict[str, int], root: Path, manifest: Path, line: int) -> None:
    path, label = values.pop("path"), values.pop("label", "image")
    name = os.path.normpath(path)
    if name in seen:
        raise DataError(f"{manifest}, line {line}: {path} was already named in line {seen[name]}: an image counts once")
    if not (root / name).is_file():
        raise DataError(f"{manifest}, line {line}: there is no file {root / name}")
    seen[name] = line
    listing.names.append(name)
    listing.labels.append(label)
    for column, value in values.items():
        listing.columns[column].append(value)
