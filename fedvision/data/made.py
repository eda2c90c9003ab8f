"""Arrays that take long to make, made once in the cache: mapped, so that every process shares one copy."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.data.cache import cache_folder, folder_written_whole
from fedvision.data.dataset import images_digest

_CHECKED = 64 << 20  # bytes up to which the images are hashed again when they are opened


@dataclass(frozen=True)
class Made:
    """images: uint8 [N,C,H,W], mapped.  known: arrays by name, of the same length.  digest: SHA-256 of the images' bytes."""

    images: np.ndarray
    known: Mapping[str, np.ndarray]
    digest: str


def made_once(what: str, key: Any, make: Callable[[], tuple[np.ndarray, Mapping[str, np.ndarray]]]) -> Made:
    """What `make` gives for this `key` (plain values that say all it depends on), from the cache where it is there and whole."""
    name = f"{what}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}"
    folder = cache_folder() / "made" / name
    if (found := _read(folder)) is not None:
        return found
    images, known = make()
    with folder_written_whole(folder) as target:
        np.save(target / "images.npy", np.ascontiguousarray(images))
        np.savez_compressed(target / "known.npz", **dict(known))  # type: ignore[arg-type]
        (target / "about.json").write_text(json.dumps({"key": key, "digest": images_digest(images)}))
    ready = _read(folder)
    return ready if ready is not None else Made(images, known, images_digest(images))


def _read(folder: Path) -> Made | None:
    """None where nothing is there, or what is there is broken, and is made anew beside it."""
    try:
        about = json.loads((folder / "about.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        with np.load(folder / "known.npz", allow_pickle=False) as file:
            known = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    whole = images.nbytes > _CHECKED or images_digest(images) == about["digest"]
    return Made(images, known, about["digest"]) if whole else None
