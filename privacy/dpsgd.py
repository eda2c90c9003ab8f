"""The door to Opacus: its PRV accountant, and its per-example gradients as a reference and a fallback for our own."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedvision.errors import ConfigError, ModelRefused
from privacy.gradients import Clipping, Loss, UnitGradients
from privacy.kernels import Kept

MOST_POINTS = 1 << 24  # of the PRV accountant's grid: ten seconds, two gigabytes


def prv_epsilon(phases: Sequence[tuple[float, float, int]], delta: float) -> float:
    """ε of (noise multiplier, sampling rate, steps) phases by Opacus' PRV accountant, add or remove one; its error of 0.01 is
    part of the figure.  ConfigError where its grid would take minutes and the memory."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(phases)
    points = _prv_points(phases, delta)
    if not points <= MOST_POINTS:
        raise ConfigError(
            f"accountant prv would need {points:.2g} grid points for {sum(steps for *_, steps in phases):,} steps, and more than {MOST_POINTS:.2g} take "
            "minutes; use accountant pld"
        )
    return max(0.0, float(accountant.get_epsilon(delta)))


def _prv_points(phases: Sequence[tuple[float, float, int]], delta: float) -> float:
    """How many points the accountant's grid will have, which is quick to know; infinite where it cannot tell."""
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

    losses = [PoissonSubsampledGaussianPRV(rate, sigma) for sigma, rate, _ in phases]
    try:
        domain = PRVAccountant()._get_domain(losses, [steps for *_, steps in phases], 0.01, delta / 1000)
    except (ArithmeticError, RuntimeError, ValueError):
        return math.inf
    return domain.size


def made_private(mode: str, model: nn.Module, optimizer: torch.optim.Optimizer, dataset: Any) -> tuple[Any, Any, Any]:
    """Opacus' own (model, optimiser, criterion) of a gradient mode ("hooks", "functorch", "ghost"), one batch of the whole
    `dataset` at a time and σ = C = 1: what our own steps are measured against."""
    from opacus import PrivacyEngine

    loader, criterion = torch.utils.data.DataLoader(dataset, batch_size=len(dataset)), nn.CrossEntropyLoss()
    options = {"criterion": criterion} if mode == "ghost" else {}
    made = PrivacyEngine().make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0, max_grad_norm=1.0,
        poisson_sampling=False, grad_sample_mode=mode, **options,
    )  # fmt: skip
    return made[0], made[1], made[2] if mode == "ghost" else criterion


class OpacusGradients(UnitGradients):
    """Per-example gradients by Opacus' functorch mode, which is exact for every layer that it takes; about three times slower.

    Its other modes are not used: their convolutions are wrong for some memory formats and paddings.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]):
        from opacus.grad_sample import GradSampleModule

        self.model, self.names = model, list(names)
        self.sizes = {name: model.get_parameter(name).numel() for name in names}
        self.total = sum(self.sizes.values())
        try:
            GradSampleModule(model, force_functorch=True, loss_reduction="sum").to_standard_module()
        except NotImplementedError as error:
            raise ModelRefused(f"Opacus refuses this model: {str(error).splitlines()[0]}") from None

    def clipped_sum(
        self, inputs: Tensor, targets: Tensor, loss: Loss, rows: Tensor, units: int, clipping: Clipping, into: Tensor
    ) -> Tensor:
        """As `UnitGradients.clipped_sum`, one image a unit."""
        from opacus.grad_sample import GradSampleModule

        if units != len(inputs):
            raise ModelRefused("Opacus' gradients are per image: a unit of several images or views needs privacy.gradients = bookkeeping")
        wrapped = GradSampleModule(self.model, force_functorch=True, loss_reduction="sum")
        try:
            losses = loss(wrapped(inputs), targets)
            (losses * rows).sum().backward()
            with torch.no_grad():
                gradients = {name: self.model.get_parameter(name).grad_sample for name in self.names}  # type: ignore[attr-defined]
                return self._clip_and_add(Kept.of(gradients), clipping, into)
        finally:
            for name in self.names:
                self.model.get_parameter(name).grad = None
            wrapped.to_standard_module()

    def _clip_and_add(self, piece: Kept, clipping: Clipping, into: Tensor) -> Tensor:
        norms = torch.stack([s.double() for s in piece.squares.values()]).sum(0).sqrt()
        finite = torch.isfinite(norms)
        piece = Kept.of(
            {name: torch.where(finite.view(-1, *[1] * (g.dim() - 1)), g, torch.zeros_like(g)) for name, g in piece.gradients.items()}
        )
        factors, places = clipping.weights(piece.squares), self._places(into)
        for name, g in piece.gradients.items():
            places[name].add_(torch.mv(g.flatten(1).T, factors[name].to(g.dtype)).view(g.shape[1:]))
        return norms.masked_fill(~finite, torch.inf)
