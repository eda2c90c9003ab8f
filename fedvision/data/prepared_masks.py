"""Images with masks made ready once, one pair in memory at a time: two uint8 arrays in the cache, which every process maps."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvision.data import known_files
from fedvision.data.mask_pairs import Bad, Of, Pairs, read_pair, sides
from fedvision.data.nifti import is_nifti, toward
from fedvision.errors import DataError

if TYPE_CHECKING:
    from fedvision.holdings import MaskFolder

_VERSION = 1
_AT_ONCE = 6  # pairs in flight: each may be a volume
_SHOWN = 20  # names in a note
_SETTINGS = (
    "classes",
    "values",
    "ignore",
    "channels",
    "window",
    "image_size",
    "depth",
    "on_empty",
)  # what of a config the arrays depend on


@dataclass(frozen=True)
class PreparedMasks:
    """images: uint8 [n,C,...], masks: uint8 [n,...], mapped.  kept: int64 [n], which of the pairs they are.  bad: (kind, why) of each
    other one.  digest: SHA-256 of the images' bytes."""

    images: np.ndarray
    masks: np.ndarray
    kept: np.ndarray
    bad: tuple[tuple[str, str], ...]
    digest: str

    def notes(self) -> tuple[str, ...]:
        """What was left out, counted by its kind."""
        kinds = Counter(kind for kind, _ in self.bad)
        by_kind = {kind: [said for own, said in self.bad if own == kind] for kind in kinds}
        return tuple(
            f"{len(said)} of the images left out, {kind}: {'; '.join(said[:_SHOWN])}{'; ...' if len(said) > _SHOWN else ''}"
            for kind, said in by_kind.items()
        )


def prepare_masks(root: Path, pairs: Pairs, data: "MaskFolder") -> PreparedMasks:
    """The pairs under `root`, from the cache or read now; DataError for the first that cannot be used where data.on_bad = stop, where
    sizes differ and no side is given, or where nothing is left."""
    files = [*pairs.images, *(of for of in pairs.masks if isinstance(of, str))]
    there = sorted({name for name in files if (root / name).is_file()})
    ready = known_files.by_content(
        root, there, _settings(pairs, data), _load, lambda target, digests: _make(target, root, pairs, data)
    )  # fmt: skip
    if ready.bad and data.on_bad == "stop":
        raise _stop(ready.bad[0][1])
    return ready


def _settings(pairs: Pairs, data: "MaskFolder") -> list[Any]:
    """Plain values on which the arrays depend besides the files' bytes."""
    from PIL import __version__

    of = [its if its is None or isinstance(its, str) else asdict(its) for its in pairs.masks]
    listed = hashlib.sha256(json.dumps([pairs.images, of]).encode()).hexdigest()
    return ["masks", _VERSION, __version__, listed, data.model_dump(mode="json", include=set(_SETTINGS))]


def _stop(said: str) -> DataError:
    return DataError(f"{said}; set data.on_bad = skip to leave such images out")


def _make(target: Path, root: Path, pairs: Pairs, data: "MaskFolder") -> PreparedMasks:
    return known_files.keep(target, lambda folder: _read_all(folder, root, pairs, data), _load)


def _read_all(folder: Path, root: Path, pairs: Pairs, data: "MaskFolder") -> dict[str, Any]:
    """Write the files `images` and `masks`; what is to be known of them."""

    def one(pair: tuple[str, Of]) -> tuple[np.ndarray, np.ndarray, str] | Bad:
        try:
            return (*read_pair(root, *pair, data), toward(root / pair[0]) if is_nifti(pair[0]) else "")
        except Bad as error:
            return error

    kept, bad, digests = list[int](), list[tuple[str, str]](), (hashlib.sha256(), hashlib.sha256())
    shape: tuple[int, ...] = ()
    axes = ""  # where those of the first volume point
    both = list(zip(pairs.images, pairs.masks, strict=True))
    with (folder / "images").open("wb") as images, (folder / "masks").open("wb") as masks:
        for number, result in enumerate(known_files.in_threads(one, both, "preparing", _AT_ONCE)):
            if not isinstance(result, Bad) and result[2] != (axes or result[2]):
                said = f"the axes of {pairs.images[number]} point {result[2]}, and those of {pairs.images[kept[0]]} {axes}"
                result = Bad("their axes point elsewhere", said)
            if isinstance(result, Bad):
                if data.on_bad == "stop":
                    raise _stop(str(result))
                bad.append((result.kind, str(result)))
                continue
            shape, axes = shape or result[0].shape, axes or result[2]
            if result[0].shape != shape:
                raise _sizes_differ(pairs.images[kept[0]], shape, pairs.images[number], result[0].shape)
            for file, digest, array in zip((images, masks), digests, result[:2], strict=True):
                content = array.tobytes()
                file.write(content)
                digest.update(content)
            kept.append(number)
    if not kept:
        raise DataError(f"none of the {len(pairs.images)} images under {root} can be used; the first says: {bad[0][1]}")
    return {"kept": kept, "bad": bad, "shape": shape, "digest": digests[0].hexdigest(), "masks": digests[1].hexdigest()}


def _sizes_differ(one: str, shape: tuple[int, ...], other: str, its: tuple[int, ...]) -> DataError:
    if its[1:] == shape[1:]:
        return DataError(f"{one} has {shape[0]} channels and {other} has {its[0]}: give images of one kind")
    if its[-2:] == shape[-2:]:
        return DataError(f"{one} has {shape[1]} slices and {other} has {its[1]}: set data.depth to what all are to be cut or filled up to")
    return DataError(
        f"{one} has {sides(shape)} pixels and {other} has {sides(its)}: set data.image_size to the side, in pixels, that all are to be resized to"
    )


def _load(folder: Path) -> PreparedMasks | None:
    def read(about: dict[str, Any]) -> PreparedMasks:
        kept, shape = np.array(about["kept"], np.int64), tuple(about["shape"])
        images = known_files.mapped(folder / "images", (len(kept), *shape), about["digest"])
        masks = known_files.mapped(folder / "masks", (len(kept), *shape[1:]), about["masks"])
        return PreparedMasks(images, masks, kept, tuple((kind, said) for kind, said in about["bad"]), about["digest"])

    return known_files.kept(folder, read)
