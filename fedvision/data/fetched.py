"""Digits and animals of published packages that `fedvision data fetch` brings."""

import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvision.data import sources
from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.made import Made, made_once
from fedvision.data.packaged import DIGITS, optdigits
from fedvision.data.resize import resized
from fedvision.errors import DataError

if TYPE_CHECKING:
    from fedvision.holdings import Animals, DigitSets, Mnist10k

ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")


def mnist10k(data: "Mnist10k") -> Dataset:
    """10,000 MNIST digits of 28 × 28 pixels.  The 5,000 of `mnist5k` are among them."""
    return _grey("mnist10k", _made("mnist10k", _mnist), data, DIGITS, 0.1307, 0.3081, (f"from {sources.versions('mnist10k')}",))


def _made(name: str, make: Callable[[], tuple[np.ndarray, dict[str, np.ndarray]]]) -> Made:
    """The arrays of a source; DataError with the command that brings it, where it is not in the cache."""
    sources.fetched(name)
    return made_once(name, [1, sources.digest(name)], make)


def _mnist() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    (folder,) = sources.fetched("mnist10k")
    by_class = []
    for digit in range(10):
        values = json.loads((folder / f"package/src/digits/{digit}.json").read_bytes())["data"]
        by_class.append(np.rint(np.array(values, np.float64) * 255).astype(np.uint8).reshape(-1, 1, 28, 28))
    return np.concatenate(by_class), {"labels": np.repeat(np.arange(10), [len(images) for images in by_class])}


def animals(data: "Animals") -> Dataset:
    """9,716 animals of 28 × 28 pixels, most of them silhouettes: the 10,000 of the package, each picture once."""
    notes = (f"from {sources.versions('animals')}; pictures that the package holds several times are kept once",)
    return _grey("animals", _made("animals", _animals), data, ANIMALS, 0.5, 0.5, notes)


def _animals() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    (folder,) = sources.fetched("animals")
    images, labels = (unpickled(folder / f"animal_mnist/data/Animal_MNIST/animal_{what}_version_3.gz") for what in ("data", "label"))
    first = np.sort(np.unique(images.reshape(len(images), -1), axis=0, return_index=True)[1])
    return images[first][:, None], {"labels": labels[first]}


class _NumpyOnly(pickle.Unpickler):
    """A pickle may name any code; this one is allowed arrays."""

    _ALLOWED = frozenset({"ndarray", "dtype", "_reconstruct"})

    def find_class(self, module: str, name: str) -> Any:
        """The class, or DataError for anything that does not make an array."""
        if module in {"numpy", "numpy.core.multiarray", "numpy._core.multiarray"} and name in self._ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise DataError(f"a pickled array names {module}.{name}, which is no array; nothing of it was run")


def unpickled(path: Path) -> Any:
    """What a gzipped pickle of numpy arrays holds; DataError where it names any other code."""
    with gzip.open(path, "rb") as file:
        return _NumpyOnly(io.BytesIO(file.read())).load()


# ----------------------------------------------------------------------------------------------- digits of several makers


def digit_sets(data: "DigitSets") -> Dataset:
    """Digits of several origins at one size; the column `set` says which, and a natural partition makes each a site."""
    side = data.image_size or 28
    images, labels, which = [], [], []
    for name in data.sets:
        pictures, numbers = _SETS[name]()
        images.append(resized(pictures, side))
        labels.append(numbers)
        which += [name] * len(numbers)
    means, stds = normalisation(data.mean, data.std, 1, 0.5, 0.5)
    notes = "the sets differ in framing, stroke and origin; optdigits of 8 × 8 pixels are enlarged"
    return Dataset(
        "digit_sets", np.concatenate(images), np.concatenate(labels), DIGITS, means, stds, columns={"set": np.array(which)}, notes=(notes,)
    )


def _set_mnist() -> tuple[np.ndarray, np.ndarray]:
    ready = _made("mnist10k", _mnist)
    return ready.images, ready.known["labels"]


def _set_opencv() -> tuple[np.ndarray, np.ndarray]:
    """A sheet of 50 × 100 digits of 20 × 20 pixels, five rows a digit; a margin of 4 pixels frames them as MNIST's are."""
    from PIL import Image

    (folder,) = sources.fetched("opencv_digits")
    sheet = np.asarray(Image.open(folder / "usr/share/doc/opencv-doc/examples/data/digits.png").convert("L"))
    cells = sheet.reshape(50, 20, 100, 20).swapaxes(1, 2).reshape(5000, 1, 20, 20)
    return np.pad(cells, ((0, 0), (0, 0), (4, 4), (4, 4))), np.repeat(np.arange(10), 500)


_SETS = {"mnist": _set_mnist, "optdigits": optdigits, "opencv": _set_opencv}


def _grey(
    name: str, ready: Made, data: "Mnist10k | Animals", classes: tuple[str, ...], mean: float, std: float, notes: tuple[str, ...]
) -> Dataset:
    means, stds = normalisation(data.mean, data.std, 1, mean, std)
    small = data.image_size is not None and ready.images.shape[2:] != (data.image_size, data.image_size)
    images = resized(ready.images, data.image_size) if small and data.image_size is not None else ready.images
    labels = ready.known["labels"].astype(np.int64)
    return Dataset(name, images, labels, classes, means, stds, notes=notes, digest=None if small else ready.digest)
