"""A mask goes where its image goes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fedvision.augment import UNKNOWN, changes
from fedvision.errors import ConfigError


def pair() -> tuple[Tensor, Tensor]:
    """Two images of 4 × 6 pixels whose masks are their own values."""
    masks = torch.arange(48, dtype=torch.uint8).reshape(2, 4, 6)
    return masks[:, None].clone(), masks.clone()


@pytest.mark.parametrize("name", ["RandomHorizontalFlip", "RandomVerticalFlip"])
def test_a_flip_turns_the_mask_with_its_image(name: str) -> None:
    change = changes([{"name": name, "p": 1.0}], (1, 4, 6), "x", "masks")
    assert change is not None
    images, masks = change(*pair())
    assert torch.equal(images[:, 0], masks) and masks.dtype == torch.uint8
    assert torch.equal(masks, pair()[1].flip(-1 if "Horizontal" in name else -2))


def test_what_is_moved_in_from_outside_is_not_known_and_black_in_the_image() -> None:
    change = changes([{"name": "RandomCrop", "size": [4, 6], "padding": [6, 0, 0, 0]}], (1, 4, 6), "x", "masks")
    assert change is not None
    torch.manual_seed(1)
    images, masks = change(*pair())
    outside = masks == UNKNOWN
    assert outside.any() and torch.equal(images[:, 0], torch.where(outside, 0, masks))


def test_a_rotation_makes_no_class_up_between_two_others() -> None:
    masks = torch.zeros(1, 21, 21, dtype=torch.uint8)
    masks[:, :, 10:] = 9
    change = changes([{"name": "RandomRotation", "degrees": [30, 30], "interpolation": 2}], (1, 21, 21), "x", "masks")
    assert change is not None
    images, moved = change(masks[:, None] * 20, masks)
    assert set(moved.unique().tolist()) == {0, 9, UNKNOWN} and len(images.unique()) > 3


@pytest.mark.parametrize(
    "spec",
    [{"name": "ColorJitter", "brightness": 0.5}, {"name": "Gaussian"}, {"name": "CLAHE", "tiles": 2}, {"name": "RandomInvert", "p": 1.0}],
)
def test_what_changes_values_leaves_the_mask_alone(spec: dict[str, object]) -> None:
    change = changes([spec], (1, 4, 6), "x", "masks")
    assert change is not None
    torch.manual_seed(0)
    images, masks = change(*pair())
    assert torch.equal(masks, pair()[1]) and not torch.equal(images[:, 0], masks)


@pytest.mark.parametrize("shape", [(4, 6, 5), (2, 3, 6, 5)])
def test_other_channels_and_volumes_move_whole(shape: tuple[int, ...]) -> None:
    change = changes([{"name": "RandomHorizontalFlip", "p": 1.0}], shape, "x", "masks")
    assert change is not None
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, *shape), np.uint8))
    moved, masks = change(images, images[:, 0])
    assert torch.equal(moved, images.flip(-1)) and torch.equal(masks, images[:, 0].flip(-1))


def test_without_geometry_targets_stay_as_they_are_whatever_they_are() -> None:
    change = changes([{"name": "RandomHorizontalFlip", "p": 1.0}], (1, 4, 6), "x")
    assert change is not None
    images, targets = pair()
    moved, same = change(images, targets)
    assert same is targets and torch.equal(moved, images.flip(-1))


def test_a_change_of_size_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"training.transforms makes images of \[1, 2, 2\] out of \[1, 4, 6\]"):
        changes([{"name": "CenterCrop", "size": 2}], (1, 4, 6), "training.transforms", "masks")
