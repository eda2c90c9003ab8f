"""Data sets that torchvision reads are opened from files that are here, or it is said which files are wanted."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from fedvision.data.dataset import Dataset
from fedvision.data.torchvision_sets import RECIPES, torchvision_set
from fedvision.errors import DataError
from fedvision.holdings import Torchvision


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """FashionMNIST of three training and two test images; image number n is full of n."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, first, count in (("train", 0, 3), ("t10k", 3, 2)):
        numbers = np.arange(first, first + count, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(numbers[:, None, None] * np.ones((1, 28, 28), np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(numbers % 10))
    return tmp_path


def opened(name: Any, root: Path, **data: Any) -> Dataset:
    return torchvision_set(Torchvision(name=name, root=str(root), **data))


def test_both_parts_are_put_together_and_the_column_says_which(fashion: Path) -> None:
    found = opened("FashionMNIST", fashion)
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] and found.labels.tolist() == [0, 1, 2, 3, 4]
    assert found.columns["part"].tolist() == ["train"] * 3 + ["test"] * 2
    assert found.classes[0] == "T-shirt/top" and (found.mean, found.std) == ((0.2860,), (0.3530,))
    assert opened("FashionMNIST", fashion, image_size=8, mean=[0.1], std=[0.2]).mean == (0.1,)


def test_a_changed_file_is_read_again(fashion: Path) -> None:
    before = opened("FashionMNIST", fashion).fingerprint()
    assert opened("FashionMNIST", fashion).fingerprint() == before
    labels = fashion / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx(np.array([9, 9], np.uint8)))
    assert opened("FashionMNIST", fashion).fingerprint() != before


def test_colour_images_of_cifar_keep_their_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    red = np.zeros((2, 3, 32, 32), np.uint8)
    red[:, 0] = 200
    for name in ("batch", "test"):
        (folder / name).write_bytes(pickle.dumps({"data": red.reshape(2, -1), "labels": [3, 5]}))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": [f"kind {k}" for k in range(10)]}))
    kind = torchvision.datasets.CIFAR10  # two batches of our own stand for its five, whose checksums are published
    monkeypatch.setattr(kind, "train_list", [["batch", None]])
    monkeypatch.setattr(kind, "test_list", [["test", None]])
    monkeypatch.setattr(kind, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    found = opened("CIFAR10", tmp_path)
    assert found.images.shape == (4, 3, 32, 32) and found.images[0, :, 5, 5].tolist() == [200, 0, 0]
    assert found.labels.tolist() == [3, 5, 3, 5] and found.classes[3] == "kind 3"


def test_images_in_single_files_are_resized_or_the_size_is_asked_for(tmp_path: Path) -> None:
    for number, kind in enumerate(("Forest", "River")):
        (tmp_path / "eurosat" / "2750" / kind).mkdir(parents=True)
        Image.new("RGB", (8 + number, 8), (number, 0, 9)).save(tmp_path / "eurosat" / "2750" / kind / "1.png")
    with pytest.raises(DataError, match=r"the images of EuroSAT differ in size: set data\.image_size"):
        opened("EuroSAT", tmp_path)
    found = opened("EuroSAT", tmp_path, image_size=4)
    assert found.shape == (3, 4, 4) and found.classes == ("Forest", "River") and found.images[1, :, 0, 0].tolist() == [1, 0, 9]


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "PCAM"])  # whose reader is not installed everywhere
def test_missing_files_are_named_with_where_they_come_from(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        opened(name, tmp_path)
    said = str(caught.value)
    assert f"{name} is not there, or not whole" in said and RECIPES[name].files in said and "nothing is downloaded by a run" in said
    assert "download=True" not in said and not list(tmp_path.iterdir())


def test_every_name_that_a_config_may_give_has_a_recipe_and_is_torchvisions() -> None:
    from typing import get_args

    assert set(get_args(Torchvision.model_fields["name"].annotation)) == set(RECIPES)
    assert all(isinstance(getattr(torchvision.datasets, name), Callable) for name in RECIPES)  # type: ignore[arg-type]
