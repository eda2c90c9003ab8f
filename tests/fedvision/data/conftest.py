"""Small data sets that fit in the eye, and a cache folder of their own."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedvision.data.dataset import Dataset
from fedvision.experiment import Experiment
from fedvision.schema import validate


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for this test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FEDVISION_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def experiment() -> Callable[..., Experiment]:
    """An experiment of the blocks that matter here, through the config's own checks."""

    def make(partition: dict[str, Any], server: dict[str, float] | None = None, seed: int = 0, **data: Any) -> Experiment:
        values = {
            "seed": seed,
            "data": {"dataset": "digits", **data},
            "partition": partition,
            "federation": {"rounds": 1},
            "evaluation": {"server": server},
        }
        made: Experiment = validate(Experiment, values, "test")
        return made

    return make


@pytest.fixture(scope="session")
def toy() -> Callable[..., Dataset]:
    """A data set whose image number n is full of the value n (modulo 256)."""

    def make(labels: Sequence[int], subjects: Sequence[str] | None = None, channels: int = 1, **columns: Any) -> Dataset:
        n, classes = len(labels), max(labels) + 1
        images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, channels, 4, 4), np.uint8)
        given = None if subjects is None else np.array(subjects)
        known = {name: np.array(values) for name, values in columns.items()}
        if given is not None:
            known["subject"] = given
        names = tuple(f"class {k}" for k in range(classes))
        return Dataset("toy", images, np.array(labels), names, (0.5,) * channels, (0.5,) * channels, given, known)

    return make


@pytest.fixture
def grey(tmp_path: Path) -> Callable[..., Path]:
    """Writes a grey image of one value below the test's folder `images`."""

    def write(name: str, value: int = 0, size: tuple[int, int] = (4, 4)) -> Path:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, value).save(path)
        return path

    return write


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes a manifest of the given rows; the first is the header."""

    def write(*rows: Sequence[str]) -> Path:
        path = tmp_path / "manifest.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        return path

    return write
