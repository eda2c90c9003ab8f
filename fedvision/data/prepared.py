"""Image files made ready once: decoded and resized into one uint8 array in the cache, which every process maps."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.data.cache import folder_written_whole
from fedvision.data.dataset import images_digest
from fedvision.data.decode import decoded
from fedvision.data.known_files import by_content, in_threads, put_away
from fedvision.errors import CorruptImage, DataError

_VERSION = 1
_CHECKED = 64 << 20  # bytes up to which a cached array is hashed again when it is opened


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
    ready = by_content(
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
    """What is in the cache; None where nothing is there or it is broken (it is then put away and made anew)."""
    try:
        about = json.loads((folder / "about.json").read_text("utf-8"))
        kept = np.array(about["kept"], np.int64)
        shape = (len(kept), channels, *about["size"])
        if (folder / "images").stat().st_size != int(np.prod(shape)):
            raise ValueError("cut off")
        images = np.memmap(folder / "images", np.uint8, "r", shape=shape)
        if images.nbytes <= _CHECKED and images_digest(images) != about["digest"]:
            raise ValueError("changed")
        copies = tuple((first, second) for first, second in about["copies"])
        return Prepared(images, kept, tuple(about["corrupt"]), about["digest"], copies, tuple(about["sixteen"]))
    except FileNotFoundError:
        if not folder.exists():
            return None
    except (OSError, ValueError, KeyError, TypeError):
        pass  # broken: put away below
    put_away(folder)
    return None


def _make(target: Path, root: Path, names: Sequence[str], digests: list[str], side: int | None, channels: int, on_corrupt: str) -> Prepared:
    with folder_written_whole(target) as folder:
        try:
            about = _decode_all(folder / "images", root, names, side, channels, on_corrupt)
        except OSError as error:
            raise DataError(
                f"the prepared images cannot be written to {target.parent}: {error.strerror}; make room there, or set "
                "FEDVISION_CACHE to another folder"
            ) from None
        about["copies"] = _copies(digests, about["kept"])
        (folder / "about.json").write_text(json.dumps(about), "utf-8")
    ready = _load(target, channels)
    if ready is None:
        raise DataError(f"what was just written to {target} cannot be read back: look at the disk")
    return ready


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
        for number, result in enumerate(in_threads(one, names, "preparing")):
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
