"""Image files made ready once: decoded and resized into one uint8 array in the cache, which every process maps."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.data import known_files
from fedvision.data.decode import decoded
from fedvision.errors import CorruptImage, DataError

_VERSION = 1


@dataclass(frozen=True)
class Prepared:
    """images: uint8 [n,C,H,W], mapped.  kept: int64 [n], which of the files they are.  corrupt: why each other one is
    not among them.  digest: SHA-256 of the images' bytes.  copies: pairs of files with the same bytes.
    """

    images: np.ndarray
    kept: np.ndarray
    corrupt: tuple[str, ...]
    digest: str
    copies: tuple[tuple[int, int], ...]
    sixteen: tuple[int, int]

    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know about how the images were made ready."""
        count, largest = self.sixteen
        notes = []
        if self.corrupt:
            shown = "; ".join(self.corrupt[:20]) + ("; ..." if len(self.corrupt) > 20 else "")
            notes.append(f"{len(self.corrupt)} corrupt images were skipped: {shown}")
        if count:
            notes.append(
                f"{count} images of 16 bits were scaled to 8 bits by 255 / 65535 of the full scale; their largest "
                f"value is {largest}, which becomes {(largest * 255 + 32767) // 65535}"
            )
        if self.copies:
            notes.append(f"{len(self.copies)} images are byte for byte copies of another one")
        return tuple(notes)


def prepare(root: Path, names: Sequence[str], side: int | None, channels: int, on_corrupt: str) -> Prepared:
    """The images `names` under `root`, from the cache or decoded now.

    CorruptImage for the first that does not decode where on_corrupt = stop; DataError where sizes differ and no side is
    given, or where nothing is left.
    """
    ready = known_files.by_content(
        root, names, _settings(side, channels), lambda folder: _load(folder, channels),
        lambda target, digests: _make(target, root, names, digests, side, channels, on_corrupt),
    )  # fmt: skip
    if ready.corrupt and on_corrupt == "stop":
        raise CorruptImage(f"{ready.corrupt[0]}; set data.on_corrupt = skip to leave such images out")
    return ready


def _settings(side: int | None, channels: int) -> list[Any]:
    from PIL import __version__

    return [_VERSION, __version__, side, channels]


def _load(folder: Path, channels: int) -> Prepared | None:
    def read(about: dict[str, Any]) -> Prepared:
        kept = np.array(about["kept"], np.int64)
        images = known_files.mapped(folder / "images", (len(kept), channels, *about["size"]), about["digest"])
        copies = tuple((first, second) for first, second in about["copies"])
        return Prepared(images, kept, tuple(about["corrupt"]), about["digest"], copies, tuple(about["sixteen"]))

    return known_files.kept(folder, read)


def _make(target: Path, root: Path, names: Sequence[str], digests: list[str], side: int | None, channels: int, on_corrupt: str) -> Prepared:
    def write(folder: Path) -> dict[str, Any]:
        about = _decode_all(folder / "images", root, names, side, channels, on_corrupt)
        return {**about, "copies": _copies(digests, about["kept"])}

    return known_files.keep(target, write, lambda folder: _load(folder, channels))


def _copies(digests: list[str], kept: list[int]) -> list[tuple[int, int]]:
    """Pairs (first, copy) among the kept files."""
    first: dict[str, int] = {}
    return [(first[digests[i]], i) for i in kept if first.setdefault(digests[i], i) != i]


def _decode_all(path: Path, root: Path, names: Sequence[str], side: int | None, channels: int, on_corrupt: str) -> dict[str, Any]:
    def one(name: str) -> tuple[np.ndarray, int] | CorruptImage:
        try:
            return decoded(root / name, name, side, channels)
        except CorruptImage as error:
            return error

    kept: list[int] = []
    corrupt: list[str] = []
    sixteen, largest, digest = 0, 0, hashlib.sha256()
    size: tuple[int, int] | None = None
    with path.open("wb") as file:
        for number, result in enumerate(known_files.in_threads(one, names, "preparing")):
            if isinstance(result, CorruptImage):
                if on_corrupt == "stop":
                    raise CorruptImage(f"{result}; set data.on_corrupt = skip to leave such images out")
                corrupt.append(str(result))
                continue
            image, most = result
            size = size or (image.shape[1], image.shape[2])
            if image.shape[1:] != size:
                raise _sizes_differ(names[kept[0]], size, names[number], image.shape[1:])
            data = image.tobytes()
            file.write(data)
            digest.update(data)
            kept.append(number)
            sixteen, largest = sixteen + (most > 0), max(largest, most)
    if size is None:
        raise DataError(f"none of the {len(names)} images under {root} decodes; the first says: {corrupt[0]}")
    sixteens = [sixteen, largest]
    return {"kept": kept, "corrupt": corrupt, "size": size, "digest": digest.hexdigest(), "sixteen": sixteens}


def _sizes_differ(one: str, size: tuple[int, ...], other: str, its: tuple[int, ...]) -> DataError:
    return DataError(
        f"{one} has {size[1]} × {size[0]} pixels and {other} has {its[1]} × {its[0]}: set data.image_size to the side, "
        "in pixels, that all are to be resized to"
    )
