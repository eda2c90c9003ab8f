"""A model or loss that cannot be protected is refused, and the reason says what to change."""

from collections.abc import Callable

import pytest
import torch
from odd_models import SHAPE, examples, made, per_image, spec
from torch import Tensor, nn
from torch.nn import functional

from fedvision.errors import ModelRefused
from privacy import kernels
from privacy.check_model import UNITS, Finding, check_model, without_chance


def _check(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] = per_image, **changes: object) -> list[Finding]:
    protection = spec(**changes)
    x, y = examples(UNITS * protection.views * (protection.max_images or 1))
    return check_model(model, loss, [n for n, p in model.named_parameters() if p.requires_grad], x, y, protection)


@pytest.mark.parametrize(
    "name", ["conv reflect", "residual in place", "attention, tokens first", "tied", "frozen batch norm", "channels last inside"]
)
def test_models_whose_images_do_not_meet_pass(name: str) -> None:
    findings = _check(made(name))
    assert all(f.measured <= f.limit for f in findings) and len(findings) == 4


def test_views_subjects_and_every_clipping_pass() -> None:
    _check(made("conv"), views=2, shift=1, clipping="automatic")
    _check(made("conv"), unit="subject", max_images=3, clipping="per_layer", physical_batch=8)
    _check(made("conv"), gradients="opacus")


def test_batch_norm_in_training_is_refused_and_group_norm_is_named() -> None:
    with pytest.raises(ModelRefused, match=r"model\.norm = group"):
        _check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4)))
    with pytest.raises(ModelRefused, match=r"running statistics|BatchNorm"):
        _check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True), nn.Flatten(), nn.Linear(144, 4)))


def test_a_batch_norm_without_statistics_of_its_own_is_refused() -> None:
    with pytest.raises(ModelRefused):
        _check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(144, 4)))


def info_nce(outputs: Tensor, targets: Tensor) -> Tensor:
    """A contrastive loss: each image against all others of the batch."""
    z = functional.normalize(outputs, dim=1)
    similar = (z @ z.T / 0.5).fill_diagonal_(-1e4)
    return functional.cross_entropy(similar, torch.arange(len(z)).roll(1), reduction="none")


def by_foreground(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss an image, divided by something counted over the batch."""
    return functional.cross_entropy(outputs, targets, reduction="none") / (outputs > 0).sum().clamp(min=1)


@pytest.mark.parametrize("loss", [info_nce, by_foreground])
def test_a_loss_that_couples_images_is_refused(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ModelRefused, match="moves with the others"):
        _check(made("conv"), loss)


def test_a_mean_over_the_batch_is_refused() -> None:
    with pytest.raises(ModelRefused, match="one an image"):
        _check(made("conv"), lambda outputs, targets: functional.cross_entropy(outputs, targets))


class Mixed(nn.Module):
    """A linear head on what `mix` makes of the images' mean colours [images, 3]."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mix, self.head, self.seen = mix, nn.Linear(3, 4), torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x.mean((2, 3))))


class Remembering(Mixed):
    """Takes off the mean of the images seen before, which it keeps beside its buffers."""

    def forward(self, x: Tensor) -> Tensor:
        colours, before = x.mean((2, 3)), self.seen
        self.seen = colours.mean(0).detach()
        return self.head(colours - before)


COUPLED: dict[str, Callable[[], nn.Module]] = {
    "a mean over the images": lambda: Mixed(lambda c: c - c.mean(0)),
    "a BatchNorm that is a function": lambda: Mixed(lambda c: functional.batch_norm(c, None, None, training=True)),
    "a LayerNorm turned on its side": lambda: Mixed(lambda c: functional.layer_norm(c.T, (len(c),)).T),
    "each image with those before it": lambda: Mixed(lambda c: c.cumsum(0)),
    "many images only": lambda: Mixed(lambda c: c - c.mean(0) if len(c) > 8 else c),
    "images of the steps before": lambda: Remembering(lambda c: c),
}


@pytest.mark.parametrize("name", COUPLED)
def test_a_model_that_mixes_images_is_refused(name: str) -> None:
    with pytest.raises(ModelRefused, match="moves with the others"):
        _check(COUPLED[name]())


class Listed(nn.Module):
    """Parameters in a list, and a layer with a number `p` that is no chance of dropping."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.ParameterList([torch.randn(1, 3), torch.randn(1, 3)])
        self.apart, self.head = nn.PairwiseDistance(p=2.0), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.apart(x.mean((2, 3)), place.expand(len(x), 3)) for place in self.places], 1))


def test_parameters_in_a_list_are_trained_and_only_what_drops_at_random_is_turned_off() -> None:
    _check(Listed())
    model = without_chance(nn.Sequential(Listed(), nn.Dropout(0.5)))
    assert model[0].apart.norm == 2.0 and model[1].p == 0.0


def test_a_weight_that_is_used_past_its_own_layer_is_caught() -> None:
    class Past(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(torch.tanh(x.mean((2, 3))), self.head.weight)

    model = nn.Sequential(nn.Conv2d(3, 3, 1), Past(lambda c: c))
    with pytest.raises(ModelRefused, match="one unit at a time"):
        _check(model)


def test_a_model_that_cannot_be_taken_apart_is_refused_and_says_what_torch_said() -> None:
    class Again(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(self.head, x.mean((2, 3)).requires_grad_(), use_reentrant=True)

    with pytest.raises(ModelRefused, match=r"does not go through the check of its gradients: .*hook"):
        _check(Again(lambda c: c))


def test_a_kernel_that_reads_memory_as_if_channels_came_first_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_strided(layer: nn.Module, a: Tensor, g: Tensor, units: int, names: set[str], whole: bool) -> kernels.Piece:
        n, c, h, w = a.shape
        return kernels.conv2d(layer, a.as_strided((n, c, h, w), (c * h * w, h * w, w, 1)), g, units, names, whole)

    monkeypatch.setattr(kernels, "KERNELS", {**kernels.KERNELS, nn.Conv2d: as_strided})
    with pytest.raises(ModelRefused, match="channels_last"):
        _check(made("conv"))
    with pytest.raises(ModelRefused, match="one unit at a time"):
        _check(made("channels last inside"))


def test_a_kernel_that_takes_every_padding_for_zeros_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_padded", lambda layer, a: (a, (int(layer.padding[0]), int(layer.padding[1]))))
    for name in ("conv reflect", "conv circular"):
        with pytest.raises(ModelRefused, match="one unit at a time"):
            _check(made(name))
    _check(made("conv strided"))


def test_norms_that_come_out_too_small_are_caught_by_the_sensitivity_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus' ghost mode: the true gradient is summed, and clipped by a norm of 0.74 times its own."""
    from privacy import check_model as checks

    right = kernels._squares
    monkeypatch.setattr(kernels, "_squares", lambda g: 0.55 * right(g))
    monkeypatch.setattr(checks, "_agreement", lambda *_: [])
    with pytest.raises(ModelRefused, match=r"over the clip norm: 1\.3"):
        _check(made("conv"), clip=0.01)


def test_an_attention_with_its_images_and_tokens_swapped_is_caught() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.mix, self.head = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).mT  # [images, tokens, 8], and the attention takes tokens first
            return self.head(self.mix(x, x, x, need_weights=False)[0].mean(1))

    with pytest.raises(ModelRefused):
        _check(Swapped())


def test_a_parameter_of_a_layer_that_takes_two_inputs_is_refused_by_name() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Bilinear(3, 3, 3), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = x.mean((2, 3))
            return self.head(self.mix(y, y))

    with pytest.raises(ModelRefused, match=r"Bilinear with mix\.weight"):
        _check(Pair())


def test_the_model_that_is_checked_keeps_its_dropout_and_its_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4)).eval()
    _check(model)
    assert model[1].p == 0.5 and not model.training and SHAPE == (3, 8, 8)
