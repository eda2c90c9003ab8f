"""Several labels an image, each there or not, or not known: binary cross-entropy over the known ones."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedvision.data.site import Examples
from fedvision.learning import Training
from fedvision.tasks.criteria import Criterion, check_weights, focal
from fedvision.tasks.scores import (
    BINS,
    CALIBRATION_BINS,
    STEPS,
    areas,
    calibration,
    calibration_error,
    histograms,
    mean_of,
    sensitivities,
    sum_of,
)


@dataclass(frozen=True)
class MultiLabel:
    """Labels `classes`; targets [B,K] hold 1, 0, or NaN where nobody looked.  specificity: at which `sensitivity` is read."""

    classes: tuple[str, ...]
    specificity: float = 0.9

    @property
    def outputs(self) -> int:
        """Numbers that a model must give for an image."""
        return len(self.classes)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what `sums` gives."""
        k = len(self.classes)
        return {
            "decisions": (k, 2, 2), "images": (2,), "loss": (1,), "scores": (k, 2, BINS), "calibration": (CALIBRATION_BINS, 3),
        }  # fmt: skip

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy per image, nats, mean over the labels that are known.  [B,K], [B,K] -> [B]; 0 where none is."""
        return _over_known(_nats(logits, targets), targets)

    def criterion(self, training: Training, examples: Examples | None = None) -> Criterion:
        """The loss per image that is trained on.  class_weights: factors on the positives of each label; balance = loss: each
        label's positives weigh what the site's negatives of it are in number, over its positives, at most 100."""
        weights = check_weights(training.class_weights, self.classes)
        if training.balance == "loss" and examples is not None:
            weights = _balance(examples.targets)
        smoothing, gamma = training.label_smoothing, training.focal

        def of_labels(logits: Tensor, targets: Tensor) -> Tensor:
            soft = targets * (1 - smoothing) + smoothing / 2 if smoothing else targets
            return _nats(logits, soft)

        def of_positives(logits: Tensor, targets: Tensor) -> Tensor:
            assert weights is not None
            return torch.where(targets == 1, weights.to(logits), torch.ones((), device=logits.device))

        nats = focal(of_labels, gamma) if gamma else of_labels
        if weights is None:
            return lambda logits, targets: _over_known(nats(logits, targets), targets)
        return lambda logits, targets: _over_known(nats(logits, targets) * of_positives(logits, targets), targets)

    def possible(self, n: int, generator: torch.Generator) -> Tensor:
        """Targets that could be, [n,K]: for trying a model without data."""
        return torch.randint(0, 2, (n, self.outputs), generator=generator).float()

    def sums(self, logits: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        """What images add up to, int64: `decisions` [K,2,2] (truth, said at p = 1/2), `images` (with a known label, with all of
        the known ones right), `loss` in 2^-20 nats, `scores` [K,2,BINS] and `calibration` [15,3] of all known labels."""
        logits, targets = logits.detach().float(), targets.detach()
        known, k = ~targets.isnan(), len(self.classes)
        truth, said = targets.nan_to_num(0).long(), (logits > 0).long()
        index = torch.arange(k, device=logits.device) * 4 + truth * 2 + said
        looked = known.any(1)
        exact = ((truth == said) | ~known).all(1) & looked
        return {
            "decisions": torch.bincount(index[known], minlength=4 * k).reshape(k, 2, 2).cpu().numpy(),
            "images": torch.stack([looked.sum(), exact.sum()]).cpu().numpy(),
            "loss": sum_of(self.loss(logits, targets)),
            "scores": histograms(logits, truth, known).cpu().numpy(),
            "calibration": calibration(torch.sigmoid(logits.double())[known], truth[known]).cpu().numpy(),
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """accuracy (of the known labels), exact_match (images with all of them right), f1 (mean of the labels that occur), loss
        (nats an image), ece (of the label being there), auc and sensitivity at the specificity (mean of the labels that
        both occur and are absent)."""
        decisions, (images, exact) = sums["decisions"], sums["images"]
        if not images:
            return {}
        right, positive = decisions[:, 1, 1], decisions[:, 1].sum(1)
        there = positive > 0
        said = decisions[:, :, 1].sum(1)
        found: dict[str, float | None] = {
            "accuracy": float((decisions[:, 0, 0] + right).sum() / decisions.sum()),
            "exact_match": float(exact / images),
            "f1": float((2 * right[there] / (positive[there] + said[there])).mean()) if there.any() else None,
            "loss": float(int(sums["loss"][0]) / STEPS / int(images)),
            "ece": calibration_error(sums["calibration"]),
            "auc": mean_of(areas(sums["scores"])),
            "sensitivity": mean_of(sensitivities(sums["scores"], self.specificity)),
        }
        return {name: value for name, value in found.items() if value is not None}

    def by_class(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """auc_LABEL of the labels that both occur and are absent."""
        pairs = zip(self.classes, areas(sums["scores"]), strict=True)
        return {f"auc_{name}": area for name, area in pairs if area is not None}


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """[B,K]; 0 where the target is not known, with a gradient of 0."""
    return functional.binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0), reduction="none")


def _over_known(nats: Tensor, targets: Tensor) -> Tensor:
    known = (~targets.isnan()).to(nats)
    return (nats * known).sum(1) / known.sum(1).clamp(min=1)


def _balance(targets: Tensor) -> Tensor:
    """Negatives over positives of each label, float32 [K], between 1/100 and 100; 1 where there is none of either."""
    positives, negatives = (targets == 1).sum(0).float(), (targets == 0).sum(0).float()
    ratio = (negatives / positives.clamp(min=1)).clamp(0.01, 100.0)
    return torch.where((positives > 0) & (negatives > 0), ratio, torch.ones_like(ratio))
