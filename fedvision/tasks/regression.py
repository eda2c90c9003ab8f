"""Numbers of an image: squared error per image, and metrics that are sums."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedvision.data.site import Examples
from fedvision.learning import Training
from fedvision.tasks.criteria import Criterion
from fedvision.tasks.scores import STEPS, sum_of

LARGEST_TARGET = 1000.0  # |target|, in its unit: data whose numbers are larger are to be scaled
GRAIN = 2.0**16  # errors and squares are summed in steps of 2^-16, so that their sums are exact in any order
LARGEST_ERROR = 2.0**20  # of one error or square, and beyond it a diverged model is recorded as this
PARTS = ("known", "absolute", "squared", "above", "below", "square_of_target")


@dataclass(frozen=True)
class Regression:
    """The numbers `classes` of an image; targets [B,T] float, NaN where one is not known."""

    classes: tuple[str, ...]
    specificity: float = 0.9  # of no use here

    @property
    def outputs(self) -> int:
        """Numbers that a model must give for an image."""
        return len(self.classes)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what `sums` gives."""
        return {"images": (1,), "loss": (1,), **{name: (len(self.classes),) for name in PARTS}}

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of the known numbers, per image.  [B,T], [B,T] -> [B]; 0 where none is known."""
        known = ~targets.isnan()
        squares = (outputs - targets.nan_to_num(0.0)).square() * known
        return squares.sum(1) / known.sum(1).clamp(min=1)

    def criterion(self, training: Training, examples: Examples | None = None) -> Criterion:
        """The loss that is trained on: the same."""
        return self.loss

    def possible(self, n: int, generator: torch.Generator) -> Tensor:
        """Targets that could be, [n,T]: for trying a model without data."""
        return torch.randn(n, self.outputs, generator=generator)

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        """What images add up to, int64: `images` with a known number, `loss` in 2^-20, and of each number T, in 2^-16: `known`
        (a plain count), the errors' `absolute` and `squared`, the targets' parts `above` and `below` 0, their squares."""
        outputs, targets = outputs.detach().double(), targets.detach().double()
        known = ~targets.isnan()
        truth = targets.nan_to_num(0.0)
        errors = torch.where(known, (outputs - truth).nan_to_num(LARGEST_ERROR, LARGEST_ERROR, -LARGEST_ERROR), 0.0)
        parts = [errors.abs(), errors.square(), truth.clamp(min=0), (-truth).clamp(min=0), truth.square()]
        whole = [(part.clamp(max=LARGEST_ERROR) * GRAIN).round().long().sum(0) for part in parts]
        found = dict(zip(PARTS, [known.sum(0), *whole], strict=True))
        return {
            "images": known.any(1).sum().cpu().numpy().reshape(1),
            "loss": sum_of(self.loss(outputs, targets)),
            **{name: total.cpu().numpy() for name, total in found.items()},
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """mae, rmse and r2 (1 − Σ(y − ŷ)² / Σ(y − ȳ)², absent where the targets are all the same), each the mean over the
        numbers, in their units; loss, the mean squared error of an image."""
        images, known = int(sums["images"][0]), sums["known"]
        if not images:
            return {}
        there = known > 0
        n, absolute, squared = known[there], sums["absolute"][there] / GRAIN, sums["squared"][there] / GRAIN
        result = {
            "mae": float((absolute / n).mean()),
            "rmse": float(np.sqrt(squared / n).mean()),
            "loss": float(int(sums["loss"][0]) / STEPS / images),
        }
        total = (sums["above"] - sums["below"])[there] / GRAIN
        around = sums["square_of_target"][there] / GRAIN - total**2 / n
        varied = around > n / GRAIN  # more than rounding makes
        if varied.any():
            result["r2"] = float((1 - squared[varied] / around[varied]).mean())
        return result

    def by_class(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """mae_NAME of each number, where there are several."""
        if len(self.classes) == 1:
            return {}
        pairs = zip(self.classes, sums["absolute"] / GRAIN, sums["known"], strict=True)
        return {f"mae_{name}": float(total / n) for name, total, n in pairs if n}
