"""Boxes that move with their images: what is drawn of an object stays inside its box, whatever is done to both."""

import pytest
import torch

from fedvision.augment import changes
from fedvision.augment.boxes import Mosaic, cut_off
from fedvision.detection.masks import drawn_out, laid_in
from fedvision.errors import ConfigError

SHAPE = (1, 48, 40)


def picture(x1: int, y1: int, x2: int, y2: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A black image with one bright rectangle, and its box; a second row is no box."""
    image = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    image[..., y1:y2, x1:x2] = 250
    return image, torch.tensor([[[2.0, x1, y1, x2, y2], [-1.0, 0, 0, 0, 0]]])


def ends(image: torch.Tensor) -> list[int]:
    """The box of what is bright, [x1, y1, x2, y2]."""
    bright = image[0] > 125
    down, across = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
    return [int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1]


def test_a_flip_by_hand() -> None:
    change = changes([{"name": "RandomHorizontalFlip", "p": 1.0}], SHAPE, "training.transforms", "boxes")
    assert change is not None
    _, boxes = change(*picture(4, 10, 14, 30))
    assert boxes[0].tolist() == [[2, 26, 10, 36, 30], [-1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    "specs",
    [
        [{"name": "RandomVerticalFlip", "p": 1.0}],
        [{"name": "RandomResizedCrop", "size": [48, 40], "scale": [0.5, 0.9], "antialias": True}],
        [{"name": "RandomCrop", "size": [48, 40], "padding": 8}],
        [{"name": "RandomAffine", "degrees": 0, "translate": [0.2, 0.2], "scale": [0.7, 1.3]}],
        [{"name": "Mosaic", "p": 0.01}, {"name": "RandomHorizontalFlip"}, {"name": "ColorJitter", "brightness": 0.1}],
    ],
)
def test_the_box_still_ends_where_its_object_ends(specs: list[dict[str, object]]) -> None:
    torch.manual_seed(0)
    change = changes(specs, SHAPE, "training.transforms", "boxes")
    assert change is not None
    for _ in range(20):
        images, targets = change(*picture(10, 12, 26, 34))
        kinds = targets[0, :, 0]
        assert images.shape == (1, *SHAPE) and (kinds[1:] == -1).all()
        if kinds[0] >= 0:
            assert targets[0, 0, 1:].tolist() == pytest.approx(ends(images[0]), abs=1.6)


def test_what_is_hardly_seen_is_to_be_ignored_and_what_is_not_seen_is_gone() -> None:
    boxes = torch.tensor([[0.0, -5, 0, 15, 20], [1.0, -16, 0, 4, 20], [2.0, -30, 0, -3, 20], [-3.0, 30, 30, 90, 90]])
    found = cut_off(boxes, (48, 40))
    assert found.tolist() == [[0, 0, 0, 15, 20], [-3, 0, 0, 4, 20], [-1, 0, 0, 0, 0], [-3, 30, 30, 40, 48]]


def test_in_a_mosaic_every_object_that_is_seen_has_its_box_and_no_box_is_empty() -> None:
    torch.manual_seed(1)
    pairs = [picture(4, 4, 24, 24), picture(12, 20, 36, 44), picture(2, 26, 20, 46), picture(14, 2, 30, 22)]
    images, targets = torch.cat([i for i, _ in pairs]), torch.cat([t for _, t in pairs])
    mosaic = Mosaic(p=1.0)
    seen = 0
    for _ in range(20):
        made, boxes = mosaic(images, targets)
        assert made.shape == images.shape and boxes.shape == (4, 8, 5)
        for image, rows in zip(made, boxes, strict=True):
            covered = torch.zeros(SHAPE[1:], dtype=torch.bool)
            for kind, x1, y1, x2, y2 in rows[rows[:, 0] != -1].tolist():
                part = image[0, int(y1) : int(y2), int(x1) : int(x2)]
                assert part.numel() and (part > 125).all()  # the box holds its rectangle, and nothing else
                covered[int(y1) : int(y2), int(x1) : int(x2)] = True
                seen += kind >= 0
            left = (image[0] > 125) & ~covered
            assert not left.any() or left.any(0).sum() < 2 or left.any(1).sum() < 2  # slivers thinner than two pixels alone
    assert seen > 60


def test_a_mosaic_that_cannot_be_made_is_named() -> None:
    for spec, said in (({"name": "Mosaic", "p": 0}, "Mosaic cannot be made"), ({"name": "Mosaic", "q": 1}, "Mosaic cannot be made")):
        with pytest.raises(ConfigError, match=rf"training\.transforms\[0\]: {said}"):
            changes([spec], SHAPE, "training.transforms", "boxes")
    with pytest.raises(ConfigError, match=r"training\.transforms\[1\]\.name = 'Mosaic'"):
        changes([{"name": "RandomHorizontalFlip"}, {"name": "Mosaic"}], SHAPE, "training.transforms", "boxes")


# ------------------------------------------------------------------------------------------------------------- masks


def with_mask(x1: int, y1: int, x2: int, y2: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As `picture`, each box with its mask: what is bright, and nothing."""
    image, boxes = picture(x1, y1, x2, y2)
    masks = torch.stack([image[0, 0] > 125, torch.zeros(48, 40, dtype=torch.bool)])
    return image, torch.cat([boxes, laid_in(masks)[None]], -1)


@pytest.mark.parametrize(
    "specs",
    [
        [{"name": "RandomVerticalFlip", "p": 1.0}, {"name": "RandomHorizontalFlip", "p": 1.0}],
        [{"name": "RandomResizedCrop", "size": [48, 40], "scale": [0.3, 0.9], "antialias": False, "interpolation": 0}],
        [{"name": "RandomCrop", "size": [48, 40], "padding": 8, "fill": 0}],
        [{"name": "RandomAffine", "degrees": 40, "translate": [0.3, 0.3], "scale": [0.5, 1.5], "fill": 0}],
        [{"name": "Mosaic", "p": 0.5}, {"name": "RandomHorizontalFlip"}],
    ],
)
def test_a_mask_still_holds_its_object_and_its_box_ends_with_it(specs: list[dict[str, object]]) -> None:
    torch.manual_seed(0)
    change = changes(specs, SHAPE, "training.transforms", "boxes")
    assert change is not None
    seen = 0
    for _ in range(20):
        images, targets = change(*with_mask(10, 12, 26, 34))
        kinds, masks = targets[0, :, 0], drawn_out(targets[0, :, 5:], 48, 40)
        assert images.shape == (1, *SHAPE) and not masks[kinds == -1].any()
        shown = masks[kinds != -1].any(0)
        assert not (shown & (images[0, 0] < 125)).any() and ((images[0, 0] > 125) & ~shown).sum() < 2 * 48  # slivers of fewer than 2 pixels
        for row, mask in zip(targets[0], masks, strict=True):
            if row[0] >= 0:
                seen += 1
                assert row[1:5].tolist() == ends(mask[None].int() * 250)
    assert seen >= 15


def test_what_comes_in_from_outside_belongs_to_no_object() -> None:
    change = changes([{"name": "RandomAffine", "degrees": 0, "translate": [0.4, 0.4], "fill": 255}], SHAPE, "training.transforms", "boxes")
    assert change is not None
    torch.manual_seed(1)
    _, targets = change(*with_mask(10, 12, 26, 34))
    assert 0 < drawn_out(targets[0, 0, 5:], 48, 40).sum() <= 16 * 22
