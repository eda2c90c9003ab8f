"""SCAFFOLD, the sites' half.  Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging
for Federated Learning, ICML 2020, algorithm 1.

    y_i ← y_i − η_l (g_i(y_i) − c_i + c)                         each of K steps
    c_i⁺ ← c_i − c + (x − y_i) / (K η_l)                         option II
    send Δy_i = y_i − x and Δc_i = c_i⁺ − c_i
"""

import torch
from torch import Tensor

from clients.algorithms import Fields, Fitted, Plain, Start
from clients.training import Correct
from fedvision.types import State


class Scaffold(Plain):
    """c_i is the site's own state, zero until its first round counts."""

    def correct(self, start: Start) -> Correct:
        """g ← g − c_i + c."""
        differences = [(p, (_c(start, name) - _c_i(start, name)).to(p.device)) for name, p in start.weights.items()]

        def add_control() -> None:
            for p, difference in differences:
                if p.grad is not None:
                    p.grad.add_(difference)

        return add_control

    def finish(self, start: Start, fitted: Fitted, home: State) -> tuple[Fields, State]:
        """Δc_i for the server, c_i⁺ for the site.  With a schedule inside the round, K η_l is the sum of the rates."""
        send, keep = {}, {}
        with torch.no_grad():
            for name, y in start.weights.items():
                c, c_i = _c(start, name), _c_i(start, name)
                keep[name] = c_i - c + (start.broadcast[name] - y.cpu()) / fitted.rates
                send[name] = (keep[name] - c_i).numpy()
        return {"control": send}, keep


def _c(start: Start, name: str) -> Tensor:
    return start.extras["control"].get(name, torch.zeros_like(start.broadcast[name]))


def _c_i(start: Start, name: str) -> Tensor:
    return start.own.get(name, torch.zeros_like(start.broadcast[name]))
