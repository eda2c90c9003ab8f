"""Images with masks: dealt, read and refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from segments import UNKNOWN, experiment, squares

from fedvision.data.adapters import from_arrays
from fedvision.data.federation import open_federated
from fedvision.data.masks import main_class, pixels_by_class
from fedvision.data.picture import draw_partition, table
from fedvision.data.resize import resized_masks
from fedvision.data.site import Source
from fedvision.data.statistics import counted
from fedvision.data.targets import with_targets
from fedvision.errors import DataError


@pytest.mark.parametrize(("channels", "depth"), [(1, None), (3, None), (4, None), (2, 3)])
def test_sites_hold_images_and_masks_of_any_channels_and_of_volumes(channels: int, depth: int | None) -> None:
    data = open_federated(experiment(options={"channels": channels, "depth": depth}))
    whole = squares(channels=channels, depth=depth)
    for id in data.sites:
        train = data.site(id).train
        batch = train.batch(np.array([1, 0]))
        assert batch.inputs.shape == (2, *whole.shape) and batch.targets.dtype == torch.uint8
        assert np.array_equal(batch.targets.numpy(), whole.targets[train.rows[[1, 0]]])  # type: ignore[index]
    assert "of 11 × 13" in table(data) and draw_partition(data) is not None


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_camera_sees_images_of_any_number_of_channels_and_leaves_the_masks(channels: int) -> None:
    skew = {"white_balance": 0.3, "gamma": 0.5, "noise": 0.05, "blur": 1.0, "jpeg": 40}
    data = open_federated(experiment(options={"channels": channels}, partition={"camera": skew}))
    site, whole = data.site(data.sites[0]).train, squares(channels=channels)
    assert not np.array_equal(site.images(np.arange(2)), whole.images[site.rows[:2]])
    assert np.array_equal(site.batch(np.arange(2)).targets.numpy(), whole.targets[site.rows[:2]])  # type: ignore[index]


def test_what_is_too_large_to_keep_is_read_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedvision.data.site._KEPT", 1)
    data = open_federated(experiment())
    train = data.site(data.sites[0]).train
    batch = train.batch(np.array([2]))
    assert train._targets is None and np.array_equal(batch.targets[0].numpy(), squares().targets[train.rows[2]])  # type: ignore[index]


def test_the_fingerprint_changes_with_one_pixel_of_a_mask() -> None:
    whole = squares()
    assert whole.targets is not None
    other = whole.targets.copy()
    other[3, 5, 5] ^= 1
    assert whole.fingerprint() != replace(whole, targets=other).fingerprint()
    assert whole.fingerprint() == squares().fingerprint()


def test_the_main_class_is_the_one_an_image_is_richest_in_for_how_common_it_is_and_unknown_counts_nowhere() -> None:
    masks = np.array([[[0, 0, 0, 2]], [[0, 0, 1, 1]], [[0, 0, 0, UNKNOWN]]], np.uint8)
    assert pixels_by_class(masks, 3).tolist() == [[3, 0, 1], [2, 2, 0], [3, 0, 0]]
    assert main_class(masks, 3).tolist() == [2, 1, 0]


def test_statistics_count_the_images_that_show_a_class() -> None:
    data = open_federated(experiment())
    total = sum(counted(data.site(id).train, 3)["labels"] for id in data.sites)
    train = data.pooled("train").rows
    assert total.tolist() == [len(train), (train % 2 == 0).sum(), (train % 2 == 1).sum()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: replace(d, targets=None), "has no targets, and each image needs a mask"),
        (lambda d: replace(d, targets=np.zeros((24, 2), np.float32)), "targets of float32"),
        (lambda d: replace(d, targets=d.targets[:, :-1]), r"masks are \[24, 12, 11\], and the images \[24, 1, 13, 11\]"),
        (lambda d: replace(d, classes=("ground", "bright")), r"the mask of image 1 holds 2 at \[\d+, \d+\], and its 2 classes are 0 to 1"),
    ],
)
def test_masks_that_do_not_belong_to_the_images_are_refused_by_name(change: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        with_targets(change(squares()), "segmentation")  # type: ignore[operator]


def test_masks_are_resized_to_the_nearest_pixel_and_keep_their_classes() -> None:
    masks = np.array([[[0, 7], [UNKNOWN, 3]]], np.uint8)
    assert resized_masks(masks, 4)[0].tolist() == [[0, 0, 7, 7], [0, 0, 7, 7], [UNKNOWN, UNKNOWN, 3, 3], [UNKNOWN, UNKNOWN, 3, 3]]
    assert resized_masks(np.repeat(np.repeat(masks, 3, 1), 3, 2), 2).tolist() == masks.tolist()


def test_a_source_normalises_each_channel_of_a_volume() -> None:
    whole = replace(squares(channels=2, depth=3), mean=(0.1, 0.2), std=(0.5, 2.0))
    made = Source(whole).normalised(whole.images[:2])
    assert torch.allclose(made[:, 1], (torch.from_numpy(whole.images[:2, 1]).float() / 255 - 0.2) / 2.0)


def test_arrays_with_masks_need_no_labels_but_names() -> None:
    whole = squares()
    made = from_arrays("mine", whole.images, None, whole.classes, masks=whole.targets)
    assert made.labels.tolist() == whole.labels.tolist() and made.has_masks
    with pytest.raises(DataError, match="give their names as classes"):
        from_arrays("mine", whole.images, None, masks=whole.targets)
    with pytest.raises(DataError, match="the mask of image 0 holds 9"):
        from_arrays("mine", whole.images, None, whole.classes, masks=np.full((24, 13, 11), 9, np.uint8))
