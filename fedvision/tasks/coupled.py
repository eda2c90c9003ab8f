"""Tasks whose loss couples the examples of a batch: a type of their own, which privacy an example refuses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from fedvision.detection.average_precision import Overlap, box_overlaps, matched
from fedvision.detection.boxes import Found
from fedvision.models import COUPLED
from fedvision.tasks.detection import Detection

if TYPE_CHECKING:
    from collections.abc import Mapping


def losses_of(task: Any, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Any = None) -> Tensor:
    """What a step goes down, [B]: the loss of each example, or, of a coupled task, the batch's, as often as it has examples.

    loss: instead of the task's own, where there is one an example.
    """
    if getattr(task, "coupled", ""):
        joint: Tensor = task.batch_loss(model, inputs, targets)
        return joint.expand(len(inputs))
    result: Tensor = (loss or task.loss)(model(inputs), targets)
    return result


@dataclass(frozen=True)
class TwoStage:
    """The half of detection of Faster and of Mask R-CNN: their outputs are detections already."""

    classes: int
    overlap: Overlap = box_overlaps

    def found(self, outputs: Tensor) -> Found:
        """outputs [B,N,6], or with masks [B,N,6 + P]."""
        labels = outputs[..., 5].long().masked_fill(outputs[..., 4] <= 0, -1)
        return Found(outputs[..., :4], outputs[..., 4], labels, outputs[..., 6:] if outputs.shape[-1] > 6 else None)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Nothing is trained on this: the share of what is there and of what is said (at a score of 1/2) that is wrong, by which pictures
        are sorted.  [B]"""
        found = self.found(outputs)
        sure = (found.labels >= 0) & (found.scores >= 0.5)
        right = ((matched(found, targets, self.overlap)[:, 0] == 1) & sure).sum(1).double()
        total = sure.sum(1) + (targets[..., 0] >= 0).sum(1)
        return 1 - 2 * right / total.clamp(min=1) * (total > 0) - (total == 0).double()


@dataclass(frozen=True)
class CoupledDetection(Detection):
    """Detection by a model that is trained on whole batches.  coupled: why no example has a loss of its own."""

    coupled = COUPLED["detection/faster_rcnn"]
    sorted_by = "share wrong"  # what `loss` is, of which nothing is learned

    def batch_loss(self, model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        """One number for the whole batch."""
        result: Tensor = model.joint(inputs, targets)
        return result

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what `sums` gives: no loss."""
        return {name: shape for name, shape in super().shapes.items() if name != "loss"}

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        """As `Detection.sums`, without a loss."""
        return self.counted(self.found(outputs.detach()), targets.detach())

    def metrics(self, sums: "Mapping[str, np.ndarray]") -> dict[str, float]:
        """As `Detection.metrics`, without a loss."""
        found = super().metrics({**sums, "loss": np.zeros(1, np.int64)})
        return {name: value for name, value in found.items() if name != "loss"}
