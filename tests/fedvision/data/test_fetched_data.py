"""The data sets of fetched packages hold what they say; each test is skipped by name where its data set was not fetched."""

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedvision.data import sources
from fedvision.data.dataset import Dataset
from fedvision.data.datasets import DATASETS
from fedvision.data.federation import open_federated
from fedvision.errors import DataError
from fedvision.experiment import Experiment
from fedvision.schema import validate

HOME = os.environ.get("FEDVISION_CACHE")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open a data set of the user's own cache, or skip by its name where it is not there."""
    if HOME is None:
        monkeypatch.delenv("FEDVISION_CACHE")
    else:
        monkeypatch.setenv("FEDVISION_CACHE", HOME)

    def go(name: str, *needs: str, **data: Any) -> Dataset:
        for need in needs or (name,):
            if not sources.is_fetched(need):
                pytest.skip(f"{need}: fedvision data fetch {need}")
        values = {"data": {"dataset": name, **data}, "partition": {"scheme": "iid", "sites": 2}, "federation": {"rounds": 1}}
        return DATASETS[name].open(validate(Experiment, values, "test").data)

    return go


def test_mnist10k_holds_the_digits_of_mnist5k_among_its_own(opened: Any) -> None:
    ten = opened("mnist10k")
    assert ten.images.shape == (10_000, 1, 28, 28) and np.bincount(ten.labels).min() == 863 and ten.images.max() == 255
    known = {image.tobytes() for image in ten.images}
    assert all(image.tobytes() in known for image in opened("mnist5k", "mnist10k").images[::250])


def test_animals_are_9716_different_pictures_of_ten_kinds(opened: Any) -> None:
    animals = opened("animals")
    assert animals.images.shape == (9716, 1, 28, 28) and animals.classes[0] == "bear" and animals.classes[9] == "zebra"
    assert len({image.tobytes() for image in animals.images}) == 9716 and np.bincount(animals.labels).min() == 812


def test_handwriting_has_every_character_of_every_writer_drawn_alike_and_never_twice_the_same(opened: Any) -> None:
    hands = opened("handwriting", characters="digits", drawings=2)
    assert hands.images.shape == (20 * 10 * 2, 1, 28, 28) and len(set(hands.columns["writer"].tolist())) == 20
    assert (np.bincount(hands.labels) == 40).all() and len({image.tobytes() for image in hands.images}) == 400
    ink = hands.images.reshape(400, -1).max(1)
    assert ink.min() > 100 and (hands.images[:, 0, [0, -1]].max() < 255)
    assert hands.subjects is hands.columns["writer"]


def test_emoji_of_two_vendors_show_the_same_signs_in_the_same_classes(opened: Any) -> None:
    emoji = opened("emoji", "emoji_openmoji", "emoji_fluentui", vendors=["openmoji", "fluentui"])
    of = {
        v: dict(zip(emoji.columns["sign"][emoji.columns["vendor"] == v], emoji.labels[emoji.columns["vendor"] == v], strict=True))
        for v in ("openmoji", "fluentui")
    }
    shared = of["openmoji"].keys() & of["fluentui"].keys()
    assert len(shared) > 1200 and all(of["openmoji"][sign] == of["fluentui"][sign] for sign in shared)
    assert emoji.shape == (3, 32, 32) and (np.bincount(emoji.labels) > 50).all()


def test_digit_sets_keep_their_origin_as_a_column_and_one_size(opened: Any) -> None:
    digits = opened("digit_sets", "mnist10k", sets=["mnist", "optdigits"])
    origin, counts = np.unique(digits.columns["set"], return_counts=True)
    assert dict(zip(origin.tolist(), counts.tolist(), strict=True)) == {"mnist": 10_000, "optdigits": 1797} and digits.shape == (1, 28, 28)


def test_opencv_digits_are_500_of_each(opened: Any) -> None:
    digits = opened("digit_sets", "opencv_digits", sets=["opencv"])
    assert np.bincount(digits.labels).tolist() == [500] * 10 and digits.images[:, :, :4].max() == 0


def test_elpv_is_read_from_the_cache_where_the_package_is_not_installed(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = opened("elpv", image_size=16)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "elpv_dataset" else find_spec(name, *more))
    cached = opened("elpv", image_size=16)
    assert cached.fingerprint() == here.fingerprint() and len(cached) == 2624


@pytest.mark.parametrize("name", ["mnist10k", "animals", "handwriting", "emoji", "digit_sets"])
def test_a_data_set_that_was_not_fetched_says_the_command_that_brings_it(name: str) -> None:
    values = {"data": {"dataset": name}, "partition": {"scheme": "iid", "sites": 2}, "federation": {"rounds": 1}}
    with pytest.raises(
        DataError, match=r"bring it once with `fedvision data fetch [a-z0-9_]+` \(\d+ MB, .*\); nothing is fetched during a run"
    ):
        open_federated(validate(Experiment, values, "test"))


def test_what_was_made_once_is_made_anew_where_it_is_broken(cache: Path) -> None:
    from fedvision.data.made import made_once

    images, made = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4), []

    def make() -> tuple[np.ndarray, dict[str, np.ndarray]]:
        made.append(1)
        return images, {"labels": np.array([3])}

    first, again = made_once("toy", [1], make), made_once("toy", [1], make)
    assert len(made) == 1 and (again.images == images).all() and again.known["labels"].tolist() == [3]
    assert first.digest == again.digest == hashlib.sha256(images.tobytes()).hexdigest()
    (folder,) = (cache / "made").iterdir()
    content = bytearray((folder / "images.npy").read_bytes())
    content[-1] ^= 1
    (folder / "images.npy").write_bytes(content)
    assert (made_once("toy", [1], make).images == images).all() and len(made) == 2


def test_composites_differ_by_site_and_every_box_lies_in_its_scene(opened: Any) -> None:
    scenes = opened("composites", sites=2, scenes=20, image_size=64)
    assert scenes.images.shape == (40, 3, 64, 64) and scenes.targets is not None and scenes.targets.shape == (40, 4, 5)
    boxes = scenes.targets[scenes.targets[..., 0] >= 0]
    assert len(boxes) > 40 and boxes[:, 1:].min() >= 0 and boxes[:, 1:].max() <= 64
    assert (boxes[:, 3:] - boxes[:, 1:3]).min() >= 3 and set(scenes.columns["site"].tolist()) == {"site-00", "site-01"}


def test_trees_are_861_crowns_in_tiles_of_three_sites_whose_halves_are_apart(opened: Any) -> None:
    trees = opened("trees")
    assert trees.targets is not None and int((trees.targets[..., 0] >= 0).sum()) == 861 and len(trees) == 170
    assert set(trees.columns["site"].tolist()) == {"OSBS", "SOAP", "YELL"} and len(set(trees.subjects.tolist())) == 8  # type: ignore[union-attr]
