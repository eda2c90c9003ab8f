"""What several tasks' training losses are made of."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedvision.errors import ConfigError

Criterion = Callable[[Tensor, Tensor], Tensor]  # (outputs [B,K], targets) -> [B], a loss per image


def check_weights(given: Sequence[float] | None, names: Sequence[str]) -> Tensor | None:
    """training.class_weights as float32 [K]; None where there are none, ConfigError where their number is another."""
    if given is None:
        return None
    if len(given) != len(names):
        raise ConfigError(f"training.class_weights has {len(given)} numbers, and there are {len(names)} classes: {', '.join(names)}")
    return torch.tensor(given, dtype=torch.float32)


def focal(loss: Criterion, gamma: float, weights: Criterion | None = None) -> Criterion:
    """(1 − p)^γ ℓ with p = e^{−ℓ}, the probability given to what is true.  Lin, Goyal, Girshick, He, Dollár 2017.

    loss: a negative log-likelihood, of any shape.  weights: a factor on each.
    """

    def weighed(outputs: Tensor, targets: Tensor) -> Tensor:
        nats = loss(outputs, targets)
        result = focused(nats, gamma)
        return result if weights is None else result * weights(outputs, targets)

    return weighed


def focused(nats: Tensor, gamma: float) -> Tensor:
    """(1 − e^{−nats})^γ nats, elementwise."""
    missing = -torch.expm1(-nats)
    return missing.clamp(min=torch.finfo(nats.dtype).tiny) ** gamma * nats  # below γ = 1 the slope of 0^γ is infinite, and 0 · ∞ no number
