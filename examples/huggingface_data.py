"""A Hugging Face data set as it is.  Used by huggingface_data.yaml; needs the package `datasets`.

Here it is made on the spot of scikit-learn's digits; `datasets.load_from_disk(FOLDER)` or `datasets.load_dataset("imagefolder",
data_dir=FOLDER)` gives one of your own in the same way.
"""

import datasets
import numpy as np
from sklearn.datasets import load_digits

from fedvision.data.adapters import from_huggingface
from fedvision.data.dataset import Dataset


def digits(*, rows: int = 600) -> Dataset:
    """The first `rows` digits; `sheet` says on which of the sheets of 100 each was found, and a site is a sheet."""
    return from_huggingface(table(rows), image="image", label="digit", columns=["sheet"], name="hf digits")


def table(rows: int) -> datasets.Dataset:
    """image (PIL), digit (a class label), sheet (text)."""
    found = load_digits()
    columns = {
        "image": list((found.images[:rows] * 15).astype(np.uint8)),
        "digit": found.target[:rows].tolist(),
        "sheet": [f"sheet-{number // 100}" for number in range(rows)],
    }
    features = {
        "image": datasets.Image(),
        "digit": datasets.ClassLabel(names=[str(k) for k in range(10)]),
        "sheet": datasets.Value("string"),
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
