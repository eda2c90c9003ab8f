"""Mixing the images of a batch.  The loss of a mixture is the mixture of the losses, so that any loss per image will do:

    λ ℓ(f(x̃), y) + (1 − λ) ℓ(f(x̃), y'),   λ ~ Beta(α, α)

mixup (Zhang, Cisse, Dauphin, Lopez-Paz 2018): x̃ = λ x + (1 − λ) x'.  CutMix (Yun et al. 2019): x̃ is x with a box of x', and
λ is the share of x that is left.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedvision.learning import Training


@dataclass(frozen=True)
class Mixed:
    """inputs [B,C,H,W]; partner [B]: whose image each was mixed with; share: λ."""

    inputs: Tensor
    partner: Tensor
    share: float


def mix(inputs: Tensor, training: Training, chance: np.random.Generator) -> Mixed:
    """One batch mixed as the config says; where it asks for both ways, one of them, drawn."""
    cut = training.cutmix > 0 and (training.mixup == 0 or chance.random() < 0.5)
    alpha = training.cutmix if cut else training.mixup
    share, partner = float(chance.beta(alpha, alpha)), torch.from_numpy(chance.permutation(len(inputs)))
    if not cut:
        return Mixed(torch.lerp(inputs[partner], inputs, share), partner, share)
    height, width = inputs.shape[-2:]
    top, bottom, left, right = box(share, height, width, chance)
    mixed = inputs.clone()
    mixed[..., top:bottom, left:right] = inputs[partner, :, top:bottom, left:right]
    return Mixed(mixed, partner, 1 - (bottom - top) * (right - left) / (height * width))


def box(share: float, height: int, width: int, chance: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a box of about (1 − share) of the area around a point drawn, cut at the borders."""
    side = math.sqrt(1 - share)
    row, column = int(chance.integers(height)), int(chance.integers(width))
    half = int(side * height) // 2, int(side * width) // 2
    return max(row - half[0], 0), min(row + half[0], height), max(column - half[1], 0), min(column + half[1], width)
