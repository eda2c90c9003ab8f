"""Instances: a box and a mask for each object, both measured by average precision from sums."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedvision.detection.average_precision import BINS, THRESHOLDS, histograms, mask_overlaps
from fedvision.detection.boxes import Found
from fedvision.detection.masks import laid_in
from fedvision.models import COUPLED
from fedvision.tasks.coupled import CoupledDetection


@dataclass(frozen=True)
class Instances(CoupledDetection):
    """Boxes and masks of objects of `classes`, by a model that is trained on whole batches.  Targets: float32 [B,M,5 + P], as
    `fedvision.detection.packing` says."""

    coupled = COUPLED["detection/mask_rcnn"]
    overlap = staticmethod(mask_overlaps)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what `sums` gives."""
        return {**super().shapes, "found_masks": (len(THRESHOLDS), len(self.classes), 2, BINS)}

    def possible(self, n: int, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Targets that could be, [n,3,5 + P]: as `Detection.possible`, with an ellipse in each box."""
        boxes = super().possible(n, generator, shape)
        y, x = torch.meshgrid(torch.arange(shape[-2]) + 0.5, torch.arange(shape[-1]) + 0.5, indexing="ij")
        x1, y1, x2, y2 = boxes[..., 1:, None, None].unbind(2)
        inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
        return torch.cat([boxes, laid_in(inside & (boxes[..., :1, None] >= 0))], -1)

    def counted(self, found: Found, targets: Tensor) -> dict[str, np.ndarray]:
        """As `Detection.counted`, and `found_masks` [10,K,2,BINS], where a match is one of masks."""
        return {**super().counted(found, targets), "found_masks": histograms(found, targets, len(self.classes), mask_overlaps)}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """map, ap50, ap75 and recall of the boxes, and with mask_ before them of the masks."""
        return {**self._of_masks(super().metrics({**sums, "found": sums["found_masks"]})), **super().metrics(sums)}

    def by_class(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """ap50_CLASS and mask_ap50_CLASS of the classes that occur."""
        return {**super().by_class(sums), **self._of_masks(super().by_class({**sums, "found": sums["found_masks"]}))}

    @staticmethod
    def _of_masks(figures: Mapping[str, float]) -> dict[str, float]:
        return {f"mask_{name}": value for name, value in figures.items()}
