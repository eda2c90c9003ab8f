"""Networks that say a class for each pixel: of any size, channels and backbone."""

from collections.abc import Callable

import pytest
import torch
from segments import experiment

from fedvision.errors import ConfigError
from fedvision.models import build
from fedvision.models.dense import Backbone, dense, torchvision_dense


@pytest.mark.parametrize("shape", [(1, 37, 51), (4, 16, 33), (3, 8, 8), (2, 9, 17, 12)])
@pytest.mark.parametrize("norm", [None, "batch", "none"])
def test_a_unet_gives_a_number_a_class_and_pixel_for_any_size_and_channels(shape: tuple[int, ...], norm: str | None) -> None:
    model = dense("unet", shape, 5, 4, 0.0, norm, {"levels": 3})
    assert model(torch.randn(2, *shape)).shape == (2, 5, *shape[1:])


def test_a_trained_unet_takes_images_of_other_sizes() -> None:
    model = dense("unet", (1, 32, 32), 3, 4, 0.0, None, {})
    assert model(torch.randn(1, 1, 75, 41)).shape == (1, 3, 75, 41)


def test_levels_that_halve_an_image_away_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.options.levels = 5 halves images of \[13, 40\] pixels below one: use at most 3"):
        dense("unet", (1, 13, 40), 3, 4, 0.0, None, {"levels": 5})


def test_the_same_seed_draws_the_same_weights() -> None:
    one, two = (build(experiment(), (1, 13, 11), 3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


BACKBONES = ("timm/resnet10t", "torchvision/resnet18", "timm/mobilenetv3_small_050", "torchvision/mobilenet_v3_small")


@pytest.mark.parametrize("name", ["fcn", "deeplabv3", "pspnet", "lraspp"])
@pytest.mark.parametrize("backbone", BACKBONES[:2])
def test_a_head_goes_over_a_backbone_for_any_size_and_channels(name: str, backbone: str) -> None:
    model = dense(name, (4, 45, 38), 5, 8, 0.0, "group", {"backbone": backbone, "stride": 16})
    found = model(torch.randn(2, 4, 45, 38))
    assert found.shape == (2, 5, 45, 38)
    found.sum().backward()
    assert all(p.grad is not None for p in model.parameters()) and not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("stride", "sides"), [(8, 8), (16, 4), (32, 2)])
def test_the_last_map_has_the_stride_that_is_asked_for_and_the_finer_one_is_no_coarser(backbone: str, stride: int, sides: int) -> None:
    finer, last = Backbone(backbone, 3, stride)(torch.randn(2, 3, 64, 64))
    assert last.shape[2:] == (sides, sides) and finer.shape[2:] == (8, 8) and finer.shape[1] < last.shape[1]


def test_a_halving_that_became_a_dilation_leaves_the_weights_and_looks_as_far() -> None:
    """At every other pixel of the denser map stands what the plain classifier's map holds."""
    torch.manual_seed(0)
    plain, dilated = Backbone("torchvision/resnet18", 1, 32), Backbone("torchvision/resnet18", 1, 16)
    dilated.load_state_dict(plain.state_dict())
    image = torch.randn(1, 1, 256, 256)
    with torch.no_grad():
        one, two = plain.eval()(image)[1], dilated.eval()(image)[1]
    torch.testing.assert_close(two[:, :, ::2, ::2], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_torchvisions_own_take_any_channels_and_give_logits(name: str) -> None:
    assert torchvision_dense(name, 1, 3, {})(torch.randn(2, 1, 45, 38)).shape == (2, 3, 45, 38)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: dense("fcn", (1, 32, 32), 2, 4, 0.0, None, {"backbone": "torchvision/swin_t"}), "use a convolutional network"),
        (lambda: dense("fcn", (1, 32, 32), 2, 4, 0.0, None, {"backbone": "resnet18"}), "torchvision/NAME or timm/NAME"),
        (lambda: dense("fcn", (1, 32, 32), 2, 4, 0.0, None, {"stride": 7}), "8, 16 or 32 pixels"),
        (lambda: dense("fcn", (1, 32, 32), 2, 4, 0.0, None, {"levels": 2}), "the fcn takes backbone and stride"),
        (lambda: torchvision_dense("resnet18", 1, 3, {}), r"model.options = \{backbone: torchvision/resnet18\}"),
        (lambda: build(experiment(model={"name": "fcn", "options": {}}), (1, 5, 13, 11), 3), "the data are volumes of"),
        (lambda: experiment(model={"name": "timm/resnet10t", "options": {}}), "put a head over it with model.name = deeplabv3"),
    ],
)
def test_networks_that_cannot_be_are_refused_with_what_to_use(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"model": {"name": "cnn", "options": {}}},
            "model.name = cnn and task = segmentation exclude each other: it says a class an image; use unet, fcn",
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
