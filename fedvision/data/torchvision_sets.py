"""Data sets that torchvision reads, from files that are already on this machine: nothing is downloaded."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.made import made_once
from fedvision.data.resize import resized
from fedvision.errors import DataError

if TYPE_CHECKING:
    from fedvision.holdings import Torchvision

_TRAIN = {"train": {"train": True}, "test": {"train": False}}
_SPLIT = {"train": {"split": "train"}, "test": {"split": "test"}}


@dataclass(frozen=True)
class Recipe:
    """How a data set is opened.  parts: what torchvision's class is called with for each of its own parts.  files: what must
    lie in the root; mean, std: its published constants per channel, where there are any."""

    parts: Mapping[str, Mapping[str, Any]]
    files: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def _idx(name: str) -> str:
    return f"{name}/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, unpacked"


RECIPES: dict[str, Recipe] = {
    "CIFAR10": Recipe(_TRAIN, "cifar-10-batches-py/, unpacked from cifar-10-python.tar.gz", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": Recipe(_TRAIN, "cifar-100-python/, unpacked from cifar-100-python.tar.gz", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "MNIST": Recipe(_TRAIN, _idx("MNIST"), (0.1307,), (0.3081,)),
    "FashionMNIST": Recipe(_TRAIN, _idx("FashionMNIST"), (0.2860,), (0.3530,)),
    "KMNIST": Recipe(_TRAIN, _idx("KMNIST"), (0.1918,), (0.3483,)),
    "EMNIST": Recipe(
        {part: {"split": "balanced", **options} for part, options in _TRAIN.items()},
        "EMNIST/raw/ with emnist-balanced-train-images-idx3-ubyte and the three others of the balanced split, unpacked from gzip.zip; its "
        "letters lie on their side, as published",
        (0.1751,), (0.3332,),
    ),
    "SVHN": Recipe(_SPLIT, "train_32x32.mat and test_32x32.mat", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "STL10": Recipe(_SPLIT, "stl10_binary/, unpacked from stl10_binary.tar.gz", (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    "USPS": Recipe(_TRAIN, "usps.bz2 and usps.t.bz2"),
    "GTSRB": Recipe(_SPLIT, "gtsrb/ with GTSRB/Training, GTSRB/Final_Test and GT-final_test.csv; its images differ in size: set data.image_size"),
    "PCAM": Recipe(
        {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}}, "pcam/ with six camelyonpatch_level_2_*.h5 files"
    ),
    "EuroSAT": Recipe({"all": {}}, "eurosat/2750/ with a folder per class"),
    "Flowers102": Recipe(
        {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}},
        "flowers-102/ with jpg/, imagelabels.mat and setid.mat; its images differ in size: set data.image_size",
    ),
    "OxfordIIITPet": Recipe(
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        "oxford-iiit-pet/ with images/ and annotations/; its images differ in size: set data.image_size",
    ),
}  # fmt: skip


def torchvision_set(data: "Torchvision") -> Dataset:
    """The data set data.name of the files under data.root; DataError that says which files, where they are not there.

    All of its own parts are put together, for each site keeps its own test data; the column `part` says which an image is of.
    """
    recipe = RECIPES[data.name]
    root = Path(data.root).expanduser()
    opened = {part: _opened(data.name, root, options) for part, options in recipe.parts.items()}
    first = next(iter(opened.values()))
    stamp = [1, data.name, data.image_size, _stamp(root)]

    def arrays() -> tuple[np.ndarray, dict[str, np.ndarray]]:
        with _read(data.name, root):
            return _arrays(data.name, opened, data.image_size)

    ready = made_once(f"torchvision-{data.name}", stamp, arrays)
    channels = ready.images.shape[1]
    published = recipe.mean is not None and recipe.std is not None and data.mean is None and data.std is None
    means, stds = (recipe.mean, recipe.std) if published else normalisation(data.mean, data.std, channels, 0.5, 0.5)
    assert means is not None and stds is not None
    labels = ready.known["labels"].astype(np.int64)
    classes = tuple(str(name) for name in getattr(first, "classes", None) or range(int(labels.max()) + 1))
    return Dataset(data.name, ready.images, labels, classes, means, stds, columns={"part": ready.known["part"]}, digest=ready.digest)


def _opened(name: str, root: Path, options: Mapping[str, Any]) -> Any:
    import torchvision

    with _read(name, root):
        return getattr(torchvision.datasets, name)(str(root), download=False, **options)


@contextmanager
def _read(name: str, root: Path) -> Iterator[None]:
    """DataError, with what its files must be, where torchvision cannot read them."""
    import torchvision

    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each of its readers fails in another way at a file that is cut short
        first = str(error).replace("You can use download=True to download it", "").split("\n")[0]
        said = " ".join(first.split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"data.root = {root}: {name} is not there, or not whole ({said}); it needs {RECIPES[name].files}, from "
            f"{_where(getattr(torchvision.datasets, name))}; nothing is downloaded by a run"
        ) from None


def _where(kind: Any) -> str:
    """Where its makers publish it, as torchvision knows."""
    for attribute in ("url", "mirrors", "_URL", "_URL_PREFIX", "split_list"):
        value = getattr(kind, attribute, None)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            return str(value[-1])
        if isinstance(value, dict) and value:
            return str(next(iter(value.values()))[0])
    return "where its makers publish it"


def _stamp(root: Path) -> str:
    """SHA-256 of the names, sizes and times of the files under the root: what is read again only after one has changed."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [[str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns, p.stat().st_ctime_ns] for p in files]
    return hashlib.sha256(json.dumps([str(root.resolve()), lines]).encode()).hexdigest()


def _arrays(name: str, opened: Mapping[str, Any], side: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    images, labels, part = [], [], []
    for which, of in opened.items():
        pictures, numbers = _whole(of) if _held(of) is not None else _one_by_one(name, of, side)
        images.append(pictures if side is None else resized(pictures, side))
        labels.append(numbers)
        part += [which] * len(numbers)
    return np.concatenate(images), {"labels": np.concatenate(labels), "part": np.array(part)}


def _held(of: Any) -> np.ndarray | None:
    """The array in which the smaller data sets hold all of their images; None for those of single files."""
    held = getattr(of, "data", None)
    return np.asarray(held) if held is not None and getattr(held, "ndim", 0) in {3, 4} else None


def _whole(of: Any) -> tuple[np.ndarray, np.ndarray]:
    held = _held(of)
    assert held is not None
    if held.ndim == 3:
        held = held[:, None]
    elif held.shape[3] in {1, 3}:
        held = held.transpose(0, 3, 1, 2)
    labels = getattr(of, "targets", None)
    return np.ascontiguousarray(held, np.uint8), np.asarray(of.labels if labels is None else labels).astype(np.int64)


def _one_by_one(name: str, of: Any, side: int | None) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    images, labels = [], []
    for picture, label in of:
        shown = picture.convert("L" if picture.mode == "L" else "RGB")
        shown = shown if side is None else shown.resize((side, side), Image.Resampling.BILINEAR)
        pixels = np.asarray(shown)
        images.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
        labels.append(int(label))
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"the images of {name} differ in size: set data.image_size to the side, in pixels, that all are to be resized to"
            )
    return np.stack(images), np.array(labels, np.int64)
