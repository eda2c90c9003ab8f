"""Stochastic gradient descent without the hooks of torch's optimisers, which cost more than a small model's whole step."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Optimizer(Protocol):
    """What training needs of an optimiser; torch's have it too."""

    param_groups: list[dict[str, Any]]
    state: Any

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        ...

    def step(self) -> Any:
        """Move the parameters."""
        ...


class Sgd:
    """v ← μ v + g + λ w;  w ← w − η v, the same numbers as `torch.optim.SGD`.  A parameter without a gradient stays."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.0, weight_decay: float = 0.0):
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr}]
        self.momentum, self.weight_decay = momentum, weight_decay
        self.state: dict[nn.Parameter, Tensor] = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            steps: Any = [p.grad for p in moved]
            if self.weight_decay:
                steps = torch._foreach_add(steps, moved, alpha=self.weight_decay)
            if self.momentum:
                steps = self._with_momentum(moved, steps)
            torch._foreach_add_(moved, steps, alpha=-group["lr"])

    def _with_momentum(self, moved: list[nn.Parameter], steps: list[Tensor]) -> list[Tensor]:
        for p, step in zip(moved, steps, strict=True):
            velocity = self.state.get(p)
            if velocity is None:
                self.state[p] = step.clone()
            else:
                velocity.mul_(self.momentum).add_(step)
        return [self.state[p] for p in moved]
