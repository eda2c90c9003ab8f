"""Whether a round is taken: the size of the sites' mean update, and the new model's loss on data that the coordinator holds out.

Of a masked round nobody sees one site's vector, so that a well-formed false one cannot be told from the others.  What it does to
the sum, or to the model, can: then the whole round is rejected, in the clear and under masks alike.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedvision.experiment import Acceptance
from fedvision.sums import Total
from fedvision.types import State
from server.checkpoints import Progress


@dataclass(frozen=True)
class Judge:
    """Goes by the config's `acceptance`.  loss: of a model on the held-out data."""

    limits: Acceptance
    loss: Callable[[State], float]

    @classmethod
    def of_nothing(cls) -> "Judge":
        """Takes every round."""
        return cls(Acceptance(), lambda model: math.nan)

    def size(self, sink: object) -> str | None:
        """Why a round's sum is rejected for its size; None where it is not, or is no sum."""
        if self.limits.max_mean_norm is None or not isinstance(sink, Total):
            return None
        norm = sink.mean_norm()
        if norm <= self.limits.max_mean_norm:
            return None
        return f"the sites' mean update has norm {norm:.4g}, over acceptance.max_mean_norm = {self.limits.max_mean_norm:g}"

    def begun(self, progress: Progress, model: State) -> Progress:
        """`progress` with the loss that the first new model is held against."""
        if self.limits.loss_factor is None or progress.lowest is not None:
            return progress
        return replace(progress, lowest=self.loss(model))

    def quality(self, progress: Progress, model: State) -> tuple[Progress, str | None]:
        """`progress` with what the next model is held against, and why this one is rejected; None where it is not."""
        if self.limits.loss_factor is None:
            return progress, None
        assert progress.lowest is not None
        loss = self.loss(model)
        if loss <= self.limits.loss_factor * progress.lowest:
            return replace(progress, lowest=min(loss, progress.lowest)), None
        return progress, (
            f"its model has loss {loss:.4g} on the server's validation data, over acceptance.loss_factor = {self.limits.loss_factor:g} times "
            f"{progress.lowest:.4g}, the lowest so far"
        )
