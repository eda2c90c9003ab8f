"""Small data sets with boxes, for tests."""

from pathlib import Path
from typing import Any

import numpy as np

from fedvision.data.dataset import Dataset
from fedvision.detection.packing import packed
from fedvision.detection.padding import padded
from fedvision.experiment import Experiment, from_values


def rectangles(n: int = 24, height: int = 64, width: int = 64, masks: bool = False) -> Dataset:
    """Grey images with a red rectangle of class 0 or a blue one of class 1; every sixth image holds none, every fifth one of each.

    masks: whether each one's pixels are there too, for task = instances.
    """
    chance = np.random.default_rng(0)
    images = np.full((n, 3, height, width), 120, np.uint8) + chance.integers(0, 20, (n, 3, height, width), np.uint8)
    rows: list[np.ndarray] = []
    for number in range(n):
        kinds = [] if number % 6 == 5 else [0, 1] if number % 5 == 0 else [number % 2]
        boxes = []
        for kind in kinds:
            h, w = chance.integers(14, 26, 2)
            top, left = chance.integers(0, height - h), chance.integers(0, width // 2 - w // 2) + (width // 2 - w // 2) * kind
            images[number, :, top : top + h, left : left + w] = np.array([[250, 10, 10], [10, 10, 250]][kind])[:, None, None]
            boxes.append([kind, left, top, left + w, top + h])
        rows.append(np.array(boxes, float).reshape(-1, 5))
        if masks:
            y, x = np.mgrid[:height, :width]
            inside = [(x >= x1) & (y >= y1) & (x < x2) & (y < y2) for _, x1, y1, x2, y2 in boxes]
            rows[-1] = np.concatenate([rows[-1], packed(np.array(inside, bool).reshape(-1, height, width))], 1)
    labels = np.array([number % 2 for number in range(n)])
    half = (0.5,) * 3
    columns = {"ward": np.array([f"ward-{number * 4 // n}" for number in range(n)])}
    return Dataset("rectangles", images, labels, ("red", "blue"), half, half, columns=columns, targets=padded(rows))


def experiment(model: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **sections: Any) -> Experiment:
    """A run on the rectangles: four sites, a small FCOS."""
    values: dict[str, Any] = {
        "name": "rectangles",
        "task": "detection",
        "data": {"dataset": "brought", "source": f"{Path(__file__)}:rectangles", "options": options or {}, "test": 0.25},
        "partition": {"scheme": "iid", "sites": 4},
        "federation": {"rounds": 2},
        "model": {"name": "detection/fcos", "width": 8, "options": {"channels": 16, "convs": 1}, **(model or {})},
        "training": {"optimizer": "adamw", "learning_rate": 0.005, "batch_size": 4},
        "tracking": {"mlflow": None, "report": False},
    }
    for name, given in sections.items():
        values[name] = {**values[name], **given} if isinstance(given, dict) and isinstance(values.get(name), dict) else given
    return from_values(values)
