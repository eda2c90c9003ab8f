"""Per-unit gradients from one backward pass are those of one unit at a time, and their clipped sum is bounded."""

import copy
import math
from typing import Any

import pytest
import torch
from odd_models import MODELS, examples, made, per_image
from torch import Tensor, nn

from fedvision.errors import ModelRefused
from privacy.check_model import one_at_a_time
from privacy.dpsgd import OpacusGradients
from privacy.gradients import Clipping, UnitGradients
from privacy.kernels import _Call


def _names(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def _found(
    model: nn.Module, x: Tensor, y: Tensor, units: int, clipping: Clipping, engine: type[UnitGradients] = UnitGradients
) -> tuple[Tensor, Tensor]:
    gradients = engine(model, _names(model))
    total = torch.zeros(gradients.total, dtype=x.dtype)
    norms = gradients.clipped_sum(x, y, per_image, torch.ones(len(x), dtype=x.dtype), units, clipping, total)
    return norms, total


@pytest.mark.parametrize("units", [6, 3])
@pytest.mark.parametrize("name", list(MODELS))
def test_norms_and_clipped_sums_are_those_of_one_unit_at_a_time(name: str, units: int) -> None:
    model, (x, y) = made(name).double(), examples(6)
    x = x.double()
    reference = one_at_a_time(model, per_image, _names(model), x, y, units)
    clipping = Clipping(float(reference.norm(dim=1).median()))
    wanted = (reference * clipping.weights({"": reference.norm(dim=1).square()})[""][:, None]).sum(0)
    for images in (x, x.contiguous(memory_format=torch.channels_last)):
        norms, total = _found(model, images, y, units, clipping)
        assert torch.allclose(norms, reference.norm(dim=1), rtol=1e-9)
        assert torch.allclose(total, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["conv", "residual in place", "attention", "tied", "block with a bare parameter"])
def test_the_model_is_left_as_it_was(name: str) -> None:
    model, (x, y) = made(name), examples(4)
    before, asks = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    outputs = model(x)
    _found(model, x, y, 4, Clipping(1.0))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == asks and all(p.grad is None for p in model.parameters())
    assert torch.equal(model(x), outputs) and not any(m._forward_hooks for m in model.modules())


def test_the_attention_that_is_watched_computes_torchs_own_function() -> None:
    for name in ("attention", "attention, tokens first"):
        model, (x, y) = made(name).double(), examples(3)
        seen: list[Tensor] = []

        def loss(outputs: Tensor, targets: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(outputs.detach())
            return per_image(outputs, targets)

        gradients = UnitGradients(model, _names(model))
        gradients.clipped_sum(
            x.double(), y, loss, torch.ones(3, dtype=torch.float64), 3, Clipping(1.0), torch.zeros(gradients.total, dtype=torch.float64)
        )
        assert torch.allclose(seen[0], model(x.double()), atol=1e-12)


def test_opacus_agrees_on_the_models_that_it_takes() -> None:
    for name in ("conv", "linear", "conv grouped"):
        model, (x, y) = made(name), examples(5)
        norms, total = _found(model, x, y, 5, Clipping(0.5))
        theirs, their_total = _found(made(name), x, y, 5, Clipping(0.5), OpacusGradients)
        assert torch.allclose(norms.float(), theirs.float(), rtol=1e-4)
        assert torch.allclose(total, their_total, rtol=1e-3, atol=1e-5)


def test_rows_without_weight_are_not_there_whatever_they_hold() -> None:
    model, (x, y) = made("conv"), examples(4)
    gradients, alone, padded = (
        UnitGradients(model, _names(model)),
        *(torch.zeros(UnitGradients(model, _names(model)).total) for _ in range(2)),
    )
    gradients.clipped_sum(x[:2], y[:2], per_image, torch.ones(2), 1, Clipping(1.0), alone)
    filled = torch.cat([x[:2], 100 * x[2:]])
    gradients.clipped_sum(filled, y, per_image, torch.tensor([1.0, 1.0, 0.0, 0.0]), 1, Clipping(1.0), padded)
    assert torch.allclose(alone, padded, atol=1e-6)


@pytest.mark.parametrize("kind", ["flat", "per_layer", "automatic"])
def test_every_unit_adds_at_most_the_clip_norm(kind: str) -> None:
    model, (x, y) = made("residual in place"), examples(8)
    x = x * torch.logspace(-3, 4, 8)[:, None, None, None]
    clipping = Clipping(0.7, kind)
    for image, label in zip(x.split(1), y.split(1), strict=True):
        _, total = _found(model, image, label, 1, clipping)
        assert float(total.double().norm()) <= 0.7
    _, long = _found(model, x[7:], y[7:], 1, clipping)
    assert float(long.norm()) > (0.2 if kind == "per_layer" else 0.68)


def test_automatic_clipping_brings_small_gradients_up_and_flat_clipping_leaves_them() -> None:
    weights = {kind: Clipping(1.0, kind, 0.01).weights({"w": torch.tensor([1e-4])})["w"] for kind in ("flat", "automatic")}
    assert float(weights["flat"]) == 1.0
    assert float(weights["automatic"]) == pytest.approx(1 / 0.02, rel=1e-4)


def test_per_layer_clipping_shares_the_norm_among_layers_not_parameters() -> None:
    squares = {"a.weight": torch.tensor([100.0]), "a.bias": torch.tensor([0.0]), "b.weight": torch.tensor([1e-6])}
    factors = Clipping(1.0, "per_layer").weights(squares)
    assert float(factors["a.weight"]) == pytest.approx(1 / math.sqrt(2) / 10, rel=1e-4) == float(factors["a.bias"])
    assert float(factors["b.weight"]) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_unit_whose_gradient_is_not_finite_adds_nothing_and_spoils_no_other(value: float) -> None:
    model, (x, y) = made("conv"), examples(4)
    spoilt = x.clone()
    spoilt[2] = value
    _, total = _found(model, spoilt, y, 4, Clipping(1.0))
    others = [0, 1, 3]
    _, wanted = _found(model, x[others], y[others], 3, Clipping(1.0))
    assert float((total - wanted).norm()) <= 1.0 and torch.isfinite(total).all()
    if not math.isfinite(value):
        assert torch.allclose(total, wanted, atol=1e-5)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False).eval()])
def test_a_batch_norm_that_reads_the_batch_has_no_gradients_of_single_images(norm: nn.Module) -> None:
    model = nn.Sequential(norm, nn.Flatten(), nn.LazyLinear(2))
    model(examples(3)[0])
    with pytest.raises(ModelRefused, match="0 is a BatchNorm in training mode"):
        UnitGradients(model, _names(model))


def test_frozen_parameters_are_left_out() -> None:
    model, (x, y) = made("conv"), examples(3)
    model[0].weight.requires_grad_(False)
    reference = one_at_a_time(model, per_image, _names(model), x, y, 3)
    norms, _ = _found(model, x, y, 3, Clipping(1.0))
    assert torch.allclose(norms.float(), reference.norm(dim=1), rtol=1e-4)


def test_an_input_that_is_changed_in_place_after_its_layer_is_noticed() -> None:
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.a(x.mean((2, 3)).repeat(1, 2)[:, :4]))
            y = self.b(x)
            x.add_(1.0)
            return x.detach() + y

    x, y = examples(3)
    with pytest.raises(ModelRefused, match="changed in place"):
        _found(Changed(), x, y, 3, Clipping(1.0))


@pytest.mark.parametrize("way", ["units", "grouped", "unfold", "positions", "pixels"])
@pytest.mark.parametrize(
    ("kind", "each"),
    [({"padding": 1}, 1), ({"stride": 2, "padding": 1}, 1), ({"dilation": 2, "padding": (2, 1)}, 1), ({"stride": 2, "padding": 1, "groups": 2}, 3)],
    ids=["plain", "strided", "dilated", "grouped"],
)  # fmt: skip
def test_every_way_to_a_convolutions_norms_comes_to_those_of_one_unit_at_a_time(way: str, kind: dict[str, Any], each: int) -> None:
    if way == "pixels" and each > 1:
        pytest.skip("it is for one image a unit, and one group")
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, bias=False, **kind)
    a = torch.randn(5 * each, 4, 7, 6)
    g = torch.randn_like(layer(a))
    g[each : 2 * each] = 1e-3 * g[each : 2 * each] + 1.0  # positions that are much alike
    padding = kind["padding"] if isinstance(kind["padding"], tuple) else (kind["padding"],) * 2
    call = _Call(layer, a.contiguous(memory_format=torch.channels_last), g, 5, padding)
    call.way = way
    wanted = []
    for unit in range(5):
        rows = slice(unit * each, (unit + 1) * each)
        wanted.append(float(torch.autograd.grad((layer(a[rows]) * g[rows]).sum(), layer.weight)[0].double().square().sum()))
    assert call.squares().tolist() == pytest.approx(wanted, rel=1e-5)
    if call.forms:
        assert call.all_gradients().flatten(1).square().sum(1).tolist() == pytest.approx(wanted, rel=1e-5)
