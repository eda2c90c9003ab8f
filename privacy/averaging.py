"""The average of noisy models.  An exponential moving average of what was released costs no privacy and undoes much of the
noise (De, Berrada, Hayes, Smith, Balle 2022): the sites go on from the last model, the average is measured and delivered.

    a ← d a + (1 − d) w,   d = min(decay, (1 + t) / (10 + t)) in round t, so that the start is forgotten
"""

from collections.abc import Mapping
from typing import Any

import torch

from fedvision.types import State
from privacy.client_level import inner, joined


class Averaged:
    """A strategy whose models are averaged as they are released."""

    def __init__(self, strategy: Any, decay: float):
        self.strategy, self.decay = strategy, decay
        self.kind = strategy.kind

    def init(self, model: State) -> Any:
        """The strategy's, and the average, which begins at the model."""
        return joined(self.strategy.init(model), average=dict(model), averaged={"rounds": torch.tensor(0)})

    def weights(self, state: Any) -> State:
        """What the sites load: the last model."""
        return self.strategy.weights(inner(state, self.strategy))

    def extras(self, state: Any) -> Mapping[str, State]:
        """The strategy's."""
        return self.strategy.extras(inner(state, self.strategy))

    def apply(self, state: Any, sent: Any, sites: int) -> Any:
        """One round, and one step of the average."""
        after = self.strategy.apply(inner(state, self.strategy), sent, sites)
        t = int(state.averaged["rounds"])
        share = 1 - min(self.decay, (1 + t) / (10 + t))
        new = self.strategy.weights(after)
        average = {name: torch.lerp(a, new[name], share) if a.is_floating_point() else new[name] for name, a in state.average.items()}
        return joined(after, average=average, averaged={"rounds": torch.tensor(t + 1)})


def delivered(strategy: Any, state: Any) -> State:
    """What is measured and kept: the average where there is one, else the strategy's model."""
    return state.average if isinstance(strategy, Averaged) else strategy.weights(state)
