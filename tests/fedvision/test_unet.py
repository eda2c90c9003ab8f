"""U-Nets of images and volumes of any size."""

import pytest
import torch
from segments import experiment

from fedvision.errors import ConfigError
from fedvision.models import build
from fedvision.models.unet import unet


@pytest.mark.parametrize("shape", [(1, 37, 51), (4, 16, 33), (3, 8, 8), (2, 9, 17, 12)])
@pytest.mark.parametrize("norm", [None, "batch", "none"])
def test_a_unet_gives_a_number_a_class_and_pixel_for_any_size_and_channels(shape: tuple[int, ...], norm: str | None) -> None:
    model = unet(shape, 5, 4, 0.0, norm, {"levels": 3})
    assert model(torch.randn(2, *shape)).shape == (2, 5, *shape[1:])


def test_a_trained_unet_takes_images_of_other_sizes() -> None:
    model = unet((1, 32, 32), 3, 4, 0.0, None, {})
    assert model(torch.randn(1, 1, 75, 41)).shape == (1, 3, 75, 41)


def test_levels_that_halve_an_image_away_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.options.levels = 5 halves images of \[13, 40\] pixels below one: use at most 3"):
        unet((1, 13, 40), 3, 4, 0.0, None, {"levels": 5})


def test_the_same_seed_draws_the_same_weights() -> None:
    one, two = (build(experiment(), (1, 13, 11), 3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"model": {"name": "cnn", "options": {}}},
            "model.name = cnn and task = segmentation exclude each other: it says a class an image; use unet",
        ),
        (
            {"task": "classification"},
            "model.name = unet and task = classification exclude each other: it says a class for each pixel; use cnn, mlp",
        ),
        ({"training": {"cutmix": 1.0}}, "the masks would have to be pasted too"),
        (
            {"task": "classification", "model": {"name": "cnn", "options": {}}, "segmentation": {"tolerance": 1.0}},
            "set task to segmentation, or",
        ),
        ({"segmentation": {"losses": {}}}, "leaves nothing to train on"),
        ({"segmentation": {"losses": {"dise": 1.0}}}, "dise"),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_keys(sections: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=said):
        experiment(**sections)
