"""The step that FedAdam, FedYogi and FedAdagrad share.  Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan:
Adaptive Federated Optimization, ICLR 2021, algorithm 2, without bias correction, as there:

    m ← β₁ m + (1 − β₁) Δ̄
    v ← what the three differ in                                 v₀ = τ²
    w ← w + η_g m / (√v + τ)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedvision.types import State
from server.aggregate import Aggregate
from server.strategies import Steps, means, moved, shifts

Second = Callable[[Tensor, Tensor], Tensor]  # (v, Δ̄²) -> the next v, float64


@dataclass(frozen=True)
class Adaptive:
    """w: the model.  m, v: first and second moments of the mean update, float32; absent until an update names the weights."""

    w: State
    m: State
    v: State


def step(state: Adaptive, sent: Aggregate, rate: float, beta1: float, tau: float, second: Second) -> Adaptive:
    """One step with η_g = rate."""
    m: dict[str, Tensor] = {}
    v: dict[str, Tensor] = {}

    def steps() -> Steps:
        for name, delta in means(sent, "weights"):
            m_t = (1 - beta1) * delta + (beta1 * state.m[name].double() if name in state.m else 0.0)
            v_t = second(state.v[name].double() if name in state.v else torch.full_like(delta, tau**2), delta**2)
            m[name], v[name] = m_t.to(torch.float32), v_t.to(torch.float32)
            yield name, rate * m_t / (v_t.sqrt() + tau)

    return Adaptive(moved(state.w, steps(), shifts(sent, "buffers")), m, v)
