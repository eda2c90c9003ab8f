"""Filters against other libraries' and by hand; transforms by name, on each image alone."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from fedvision.augment import FILTERS, filters, pipeline
from fedvision.data.federation import Federated, open_federated
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.schema import validate


def pictures(n: int = 3, channels: int = 1, side: int = 48, seed: int = 0) -> torch.Tensor:
    """Smooth images with noise, uint8 [n,C,side,side]."""
    draw = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(draw.standard_normal((n, channels, side, side)), (0, 0, 5, 5)) * 600 + 100 + 8 * draw.standard_normal(1)
    return torch.from_numpy(np.clip(x, 0, 255).astype(np.uint8))


def through(name: str, images: torch.Tensor, **options: Any) -> torch.Tensor:
    change = filters([{"name": name, **options}], tuple(images.shape[1:]), "data.transforms")  # type: ignore[arg-type]
    assert change is not None
    return change(images)


def apart(ours: torch.Tensor, theirs: np.ndarray) -> int:
    return int(np.abs(ours.numpy().astype(int) - theirs.astype(int)).max())


@pytest.mark.parametrize(("clip_limit", "tiles", "side"), [(2.0, 8, 48), (40.0, 4, 64), (1.0, 8, 64), (3.0, 1, 32)])
def test_clahe_is_opencvs_to_a_grey_value(clip_limit: float, tiles: int, side: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="opencv is the reference of CLAHE")
    images = pictures(side=side)
    theirs = np.stack([cv2.createCLAHE(clip_limit, (tiles, tiles)).apply(image[0].numpy()) for image in images])[:, None]
    assert apart(through("CLAHE", images, clip_limit=clip_limit, tiles=tiles), theirs) <= 1


def test_clahe_spreads_a_flat_image_takes_any_size_and_leaves_colours_their_hue() -> None:
    dull = (pictures(side=50) // 8 + 100).to(torch.uint8)
    assert through("CLAHE", dull, clip_limit=40.0).float().std() > 1.5 * dull.float().std()
    assert through("CLAHE", pictures(side=5)).shape == (3, 1, 5, 5)
    colour = torch.full((1, 3, 16, 16), 90, dtype=torch.uint8)
    colour[:, 0] = 120
    found = through("CLAHE", colour).int()
    assert (found[:, 0] - found[:, 1] == 30).all(), "all channels move alike"


def test_grey_world_gives_every_channel_the_same_mean() -> None:
    image = torch.tensor([40, 80, 120], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4).contiguous()
    assert through("GreyWorld", image).unique().tolist() == [80]
    grey = pictures()
    assert torch.equal(through("GreyWorld", grey), grey)


def test_median_gaussian_and_top_hat_are_scipys() -> None:
    images = pictures(channels=3)
    x = images.numpy()
    assert apart(through("Median", images, size=5), ndimage.median_filter(x, (1, 1, 5, 5), mode="nearest")) == 0
    blurred = ndimage.gaussian_filter(x.astype(float), (0, 0, 1.5, 1.5), mode="nearest", truncate=3.0)
    assert apart(through("Gaussian", images, sigma=1.5), np.round(blurred)) <= 1
    assert apart(through("TopHat", images, size=7), ndimage.white_tophat(x, (1, 1, 7, 7), mode="nearest")) == 0
    assert apart(through("TopHat", images, size=7, bright=False), ndimage.black_tophat(x, (1, 1, 7, 7), mode="nearest")) == 0
    sharp = x + 0.5 * (x - ndimage.gaussian_filter(x.astype(float), (0, 0, 1, 1), mode="nearest", truncate=3.0))
    assert apart(through("UnsharpMask", images, amount=0.5), np.round(sharp.clip(0, 255))) <= 1


def test_sobel_of_a_ramp_is_its_slope_and_gamma_is_a_power() -> None:
    ramp = (5 * torch.arange(20)).to(torch.uint8).expand(1, 1, 20, 20).contiguous()
    assert through("Sobel", ramp)[0, 0, :, 1:-1].unique().tolist() == [5]
    assert through("Gamma", torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8), gamma=2.0).flatten().tolist() == [0, 64, 255]


@pytest.mark.parametrize("name", FILTERS)
def test_an_image_is_filtered_the_same_alone_as_among_others(name: str) -> None:
    images = pictures(channels=3)
    assert torch.equal(through(name, images), torch.cat([through(name, image[None]) for image in images]))


@pytest.mark.parametrize(
    ("make", "specs", "said"),
    [
        (filters, [{"name": "RandomHorizontalFlip"}], r"data\.x\[0\]\.name = 'RandomHorizontalFlip': an image is read alike every time"),
        (pipeline, [{"name": "RandomHorizontalFlop"}], "did you mean RandomHorizontalFlip"),
        (pipeline, [{"name": "RandomRotation", "angle": 3}], r"data\.x\[0\]: RandomRotation cannot be made of \{'angle': 3\}"),
        (pipeline, [{"name": "Gamma", "gamma": -1.0}], "gamma = -1 must be above 0"),
        (pipeline, [{"name": "Resize", "size": [4, 4]}], r"makes images of \[1, 4, 4\] out of \[1, 48, 48\]"),
        (pipeline, [{"name": "RandomCrop", "size": 99}], r"does not work on images of \[1, 48, 48\]"),
        (pipeline, [{"name": "ConvertImageDtype"}, {"name": "CLAHE"}], "CLAHE takes uint8 images"),
    ],
)
def test_what_cannot_be_done_is_one_message(make: Any, specs: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(specs, (1, 48, 48), "data.x")


def test_transforms_inside_others_are_made_too_and_floats_are_taken() -> None:
    nested = {"name": "RandomApply", "p": 1.0, "transforms": [{"name": "RandomInvert", "p": 1.0}]}
    change = pipeline([nested], (1, 48, 48), "x")
    assert change is not None and torch.equal(change(pictures()), 255 - pictures())
    floats = pipeline([{"name": "ToDtype", "dtype": torch.float32, "scale": True}], (1, 48, 48), "x")
    assert floats is not None and float(floats(pictures()).max()) <= 1.0


def opened(**data: Any) -> Federated:
    values = {"data": {"dataset": "digits", **data}, "partition": {"scheme": "iid", "sites": 4}, "federation": {"rounds": 1}}
    return open_federated(validate(Experiment, values, "test"))


def test_filters_of_the_data_are_part_of_reading_it_in_training_and_in_testing() -> None:
    plain, filtered = opened(), opened(transforms=[{"name": "Gamma", "gamma": 2.0}])
    for part in ("train", "test"):
        raw, read = (data.site(data.sites[0]).part(part) for data in (plain, filtered))
        at = np.arange(len(raw))
        assert torch.equal(torch.from_numpy(read.images(at)), through("Gamma", torch.from_numpy(raw.images(at)), gamma=2.0))
        assert not torch.equal(read.batch(at).inputs, raw.batch(at).inputs)
