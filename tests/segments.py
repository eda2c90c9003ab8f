"""Small data sets with masks, for tests."""

from pathlib import Path
from typing import Any

import numpy as np

from fedvision.data.dataset import Dataset
from fedvision.experiment import Experiment, from_values

UNKNOWN = 255


def squares(n: int = 24, height: int = 13, width: int = 11, channels: int = 1, depth: int | None = None) -> Dataset:
    """Grey images of odd sides with a bright square of class 1 or a dark one of class 2 on class 0; the first row is not known."""
    sides = (height, width) if depth is None else (depth, height, width)
    chance = np.random.default_rng(0)
    images = np.full((n, channels, *sides), 120, np.uint8) + chance.integers(0, 20, (n, channels, *sides), np.uint8)
    masks = np.zeros((n, *sides), np.uint8)
    for number in range(n):
        kind, top, left = 1 + number % 2, chance.integers(1, height - 5), chance.integers(0, width - 5)
        images[number, ..., top : top + 5, left : left + 5] = (250, 10)[kind - 1]
        masks[number, ..., top : top + 5, left : left + 5] = kind
    masks[..., 0, :] = UNKNOWN
    labels = np.array([1 + number % 2 for number in range(n)])
    half = (0.5,) * channels
    columns = {"ward": np.array([f"ward-{number * 4 // n}" for number in range(n)])}
    return Dataset("squares", images, labels, ("ground", "bright", "dark"), half, half, columns=columns, targets=masks)


def experiment(model: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **sections: Any) -> Experiment:
    """A run on the squares: four sites, a small U-Net."""
    values: dict[str, Any] = {
        "name": "squares",
        "task": "segmentation",
        "data": {"dataset": "brought", "source": f"{Path(__file__)}:squares", "options": options or {}, "test": 0.25},
        "partition": {"scheme": "iid", "sites": 4},
        "federation": {"rounds": 2},
        "model": {"name": "unet", "width": 4, "options": {"levels": 2}, **(model or {})},
        "training": {"learning_rate": 0.1, "batch_size": 3},
        "tracking": {"mlflow": None, "report": False},
    }
    for name, given in sections.items():
        values[name] = {**values[name], **given} if isinstance(given, dict) and isinstance(values.get(name), dict) else given
    return from_values(values)
