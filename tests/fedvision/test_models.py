"""Networks by name: any channels and sizes, normalisation on purpose, weights from a file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.fields import declare
from fedvision.models import build, parts, per_example_safe
from fedvision.models.small import groups
from fedvision.schema import validate


def experiment(**changes: Any) -> Experiment:
    values = {"data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 2}, "federation": {"rounds": 1}, **changes}
    return validate(Experiment, values, "test")


def made(name: str, shape: tuple[int, int, int] = (3, 32, 32), outputs: int = 5, **options: Any) -> nn.Module:
    return build(experiment(model={"name": name, **options}), shape, outputs)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cnn", (1, 4, 4)),
        ("cnn", (3, 28, 20)),
        ("cnn", (2, 100, 64)),
        ("mlp", (1, 8, 8)),
        ("torchvision/resnet18", (1, 32, 32)),
        ("torchvision/mobilenet_v3_small", (4, 40, 40)),
        ("torchvision/densenet121", (3, 32, 32)),
        ("timm/resnet10t", (1, 32, 32)),
        ("timm/mobilenetv3_small_050", (3, 33, 33)),
        ("timm/vit_tiny_patch16_224", (1, 32, 32)),
    ],
)
def test_a_network_takes_the_channels_and_the_size_of_the_data(name: str, shape: tuple[int, int, int]) -> None:
    model = made(name, shape).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 5)


def test_the_same_seed_draws_the_same_weights_and_leaves_torchs_own_stream_alone() -> None:
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    one = made("cnn", (1, 8, 8))
    assert torch.equal(torch.rand(3), before)
    two = made("cnn", (1, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    other = build(experiment(seed=1), (1, 8, 8), 5)
    assert not torch.equal(next(other.parameters()), next(one.parameters()))


def test_norm_group_leaves_no_batchnorm_and_every_parameter_trains_alone() -> None:
    model = made("torchvision/resnet18", norm="group")
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert per_example_safe(model) is None and not parts(model, experiment()).buffers
    assert model.train()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_live_batchnorm_is_said_to_couple_examples_and_frozen_is_not() -> None:
    assert "bn1 is a BatchNorm in training mode" in str(per_example_safe(made("torchvision/resnet18")))
    assert per_example_safe(made("torchvision/resnet18", norm_statistics="frozen")) is None


def test_every_tensor_of_a_batchnorm_network_has_one_declared_part() -> None:
    e = experiment(model={"name": "torchvision/resnet18"})
    model = build(e, (3, 32, 32), 5)
    own = parts(model, e)
    said = [*own.weights, *own.buffers, *own.home, *own.fixed]
    assert sorted(said) == sorted(model.state_dict())
    assert all("num_batches_tracked" in n for n in own.fixed) and len(own.fixed) == 20 and len(own.buffers) == 40
    layout = declare(e, model.state_dict(), own, 2)
    assert layout.by_name["buffers"].limit == e.encoding.range_buffers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "torchvision/resnet81"}, "did you mean .*resnet18"),
        ({"name": "timm/resnet10x"}, "did you mean"),
        ({"name": "torchvision/convnext_tiny", "norm": "batch"}, "built without BatchNorm"),
        ({"name": "cnn", "weights": "/nowhere/w.safetensors"}, "cannot be read as safetensors"),
    ],
)
def test_a_network_that_cannot_be_is_one_message(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(experiment(model=options), (3, 32, 32), 5)


def test_weights_start_from_a_file_of_this_model_and_of_no_other(tmp_path: Path) -> None:
    state = {n: torch.full_like(t, 0.5) for n, t in made("mlp", (1, 8, 8), width=4).state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    model = made("mlp", (1, 8, 8), width=4, weights=str(tmp_path / "w.safetensors"))
    assert all((t == 0.5).all() for t in model.state_dict().values())
    with pytest.raises(ConfigError, match=r"is not of this model: \d tensors differ"):
        made("mlp", (1, 8, 8), width=5, weights=str(tmp_path / "w.safetensors"))


def test_groups_divide_the_channels_and_leave_two_in_each() -> None:
    assert all(c % groups(c) == 0 and (c // groups(c) >= 2 or groups(c) == 1) for c in range(1, 300))
