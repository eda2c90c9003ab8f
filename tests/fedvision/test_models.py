"""Networks by name: any channels and sizes, normalisation on purpose, weights from a file."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clients.answer import answer
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.fields import declare
from fedvision.models import DENSE, build, parts, per_example_safe
from fedvision.models.sizes import FAMILIES, size_of, table
from fedvision.models.small import groups
from fedvision.schema import validate
from fedvision.types import ClientUpdate, TrainRequest


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
        ("torchvision/vit_b_32", (3, 32, 32)),
        ("torchvision/googlenet", (3, 64, 64)),
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
        ({"name": "cnn", "options": {"depth": 2}}, "model.options = .* exclude each other: options are for torchvision/NAME"),
        ({"name": "cnn", "weights_except": ["head"]}, "model.weights, which is null"),
        ({"name": "timm/resnet10t", "options": {"pretrained": True}}, "nothing is fetched"),
        ({"name": "timm/resnet10t", "options": {"depth": 2}}, "cannot be built with model.options"),
        ({"name": "torchvision/vit_b_16", "norm": None, "options": {"image_size": 33}}, "cannot be built"),
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


def test_weights_are_the_file_that_the_hash_says_and_a_head_can_be_drawn_anew(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({n: torch.full_like(t, 0.5) for n, t in made("mlp", (1, 8, 8), outputs=1000, width=4).state_dict().items()}, path)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    options = {"width": 4, "weights": str(path), "weights_sha256": sha, "weights_except": ["layers.4.*"]}
    state = made("mlp", (1, 8, 8), **options).state_dict()
    assert (state["layers.1.weight"] == 0.5).all() and not (state["layers.4.weight"] == 0.5).any()
    with pytest.raises(ConfigError, match=f"has the SHA-256 {sha}, and model.weights_sha256 is 0000"):
        made("mlp", (1, 8, 8), **options | {"weights_sha256": "0" * 64})
    with pytest.raises(ConfigError, match=r"first 'layers.4.weight' \(\[1000, 4\] in the file, \[5, 4\] here\); .* model.weights_except"):
        made("mlp", (1, 8, 8), **options | {"weights_except": []})
    with pytest.raises(ConfigError, match=r"weights_except = 'fc' is no tensor of this model; its last ones are layers\.4\.weight"):
        made("mlp", (1, 8, 8), **options | {"weights_except": ["fc"]})


def test_a_torch_file_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    torch.save({"weight": Path("/")}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="cannot be read as a torch file of tensors"):
        made("mlp", (1, 8, 8), weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["timm/mobilenetv3_small_050", "timm/ghostnet_050", "torchvision/efficientnet_b0"])
def test_groupnorm_keeps_the_activations_that_a_librarys_batchnorm_carries(name: str) -> None:
    """timm's BatchNormAct2d activates: a network without it would be another one."""

    def activations(model: nn.Module) -> int:
        return sum(type(m).__name__ in {"ReLU", "Hardswish", "SiLU", "ReLU6"} for m in model.modules())

    built, grouped, bare = (made(name, norm=norm) for norm in (None, "group", "none"))
    assert activations(built) == activations(grouped) == activations(bare) > 10
    assert per_example_safe(grouped) is None and not list(grouped.buffers()) and grouped(torch.randn(1, 3, 32, 32)).shape == (1, 5)


FAMILIES_SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNet": ("timm/resnet10t", {}),
    "DenseNet": ("timm/densenet121", {"block_config": [2, 2], "growth_rate": 8}),
    "EfficientNet": ("timm/efficientnet_lite0", {}),
    "MobileNetV3": ("timm/mobilenetv3_small_050", {}),
    "GhostNet": ("timm/ghostnet_050", {}),
    "ConvNeXt": ("timm/convnext_atto", {"depths": [1, 1, 1, 1], "dims": [16, 32, 48, 64]}),
    "ViT": ("timm/vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 48, "depth": 2}),
    "Swin": (
        "timm/swin_tiny_patch4_window7_224",
        {"window_size": 4, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 4], "drop_path_rate": 0.0},
    ),
    "PoolFormer": ("timm/poolformer_s12", {}),
}


def test_every_family_is_tried_here_or_says_a_class_for_each_pixel() -> None:
    assert {names[0] for family, names in FAMILIES.items() if family not in FAMILIES_SMALL} == set(DENSE)


@pytest.mark.parametrize("family", FAMILIES_SMALL)
def test_every_family_trains_at_a_site_on_grey_images_and_learns_them(family: str, tmp_path: Path) -> None:
    name, options = FAMILIES_SMALL[family]
    e = experiment(
        data={"dataset": "digits", "image_size": 64 if family == "PoolFormer" else 32}, partition={"scheme": "iid", "sites": 60}, model={"name": name, "options": options},
        training={"optimizer": "adamw", "learning_rate": 0.003, "epochs": None, "steps": 20, "batch_size": 12},
    )  # fmt: skip
    data = open_federated(e)
    bench = Workbench.set_up(e, data.shape, data.classes, 60, tmp_path)
    site, before = data.site(data.sites[0]), {n: t.clone() for n, t in bench.model.state_dict().items()}

    def loss() -> float:
        bench.model.train()  # of the batch's own statistics: running ones take longer than a dozen steps
        batch = site.train.batch(np.arange(len(site.train)))
        with torch.no_grad():
            return float(bench.task.loss(bench.model(batch.inputs), batch.targets).mean())

    first = loss()
    assert isinstance(answer(TrainRequest("run", 0, 1, before), site, bench), ClientUpdate)
    assert loss() < 0.9 * first
    still = [n for n in bench.parts.weights if torch.equal(bench.tensors[n], before[n])]
    assert not still, "every trained tensor moved"


def test_the_kept_table_of_sizes_is_what_the_networks_are_today() -> None:
    kept = {size.name: size for size in table()}
    assert list(kept) == [name for names in FAMILIES.values() for name in names]
    for name in ("torchvision/resnet18", "torchvision/vit_b_16", *(names[-1] for names in FAMILIES.values())):
        assert size_of(name, kept[name].family) == kept[name]


def test_resnet18_has_the_size_that_its_paper_says() -> None:
    """He et al. 2016, table 1: 1.8 · 10⁹ multiply-adds at 224; 11.7 M parameters with 1,000 classes."""
    size = size_of("torchvision/resnet18", classes=1000)
    assert size.parameters == 11_689_512 and round(size.flops / 2e9, 1) == 1.8


def test_groups_divide_the_channels_and_leave_two_in_each() -> None:
    assert all(c % groups(c) == 0 and (c // groups(c) >= 2 or groups(c) == 1) for c in range(1, 300))
