"""Image classification: cross-entropy per image, and metrics that are sums."""

import math
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
class Classification:
    """One label an image, out of `classes`.  specificity: at which `sensitivity` is read."""

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
        return {"confusion": (k, k), "loss": (1,), "scores": (k, 2, BINS), "calibration": (CALIBRATION_BINS, 3)}

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy per image, nats.  logits [B,K], targets [B] -> [B]: no image enters another's loss."""
        return functional.cross_entropy(logits, targets, reduction="none")

    def criterion(self, training: Training, examples: Examples | None = None) -> Criterion:
        """The loss per image that is trained on, of the same shapes as `loss`, which it is where nothing else is asked for.

        examples: the site's, for balance = loss: class k weighs n / (K n_k), so that the mean weight of an image is 1.
        """
        weights = check_weights(training.class_weights, self.classes)
        if training.balance == "loss" and examples is not None:
            counts = np.bincount(examples.labels, minlength=len(self.classes))
            weights = torch.from_numpy(len(examples) / (max(1, (counts > 0).sum()) * counts.clip(1))).float()
        if training.focal:
            return focal(self.loss, training.focal, None if weights is None else lambda logits, targets: weights.to(logits.device)[targets])
        if weights is None and not training.label_smoothing:
            return self.loss

        def weighed(logits: Tensor, targets: Tensor) -> Tensor:
            its = None if weights is None else weights.to(logits)
            return functional.cross_entropy(logits, targets, its, reduction="none", label_smoothing=training.label_smoothing)

        return weighed

    def possible(self, n: int, generator: torch.Generator) -> Tensor:
        """Targets that could be, [n]: for trying a model without data."""
        return torch.randint(0, self.outputs, (n,), generator=generator)

    def sums(self, logits: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        """What images add up to, int64: `confusion` [K,K] (truth, prediction), `loss` in 2^-20 nats, `scores` [K,2,BINS],
        for each class the histogram of its log-odds over (other, own) images, and `calibration` [15,3]."""
        k = len(self.classes)
        logits, targets = logits.detach().float(), targets.detach()
        said = logits.argmax(1)
        confusion = torch.bincount(targets * k + said, minlength=k * k).reshape(k, k)
        odds = log_odds(logits.double())
        confidence = torch.sigmoid(odds.gather(1, said[:, None])[:, 0])
        return {
            "confusion": confusion.cpu().numpy(),
            "loss": sum_of(self.loss(logits, targets)),
            "scores": histograms(odds, functional.one_hot(targets, k), middle=-math.log(max(1, k - 1))).cpu().numpy(),
            "calibration": calibration(confidence, said == targets).cpu().numpy(),
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """accuracy, balanced_accuracy (mean recall of the classes that occur), f1 (macro, of the classes that occur), loss
        (nats an image), ece (of the class that is said), and, absent where only one class occurs, auc and sensitivity at
        the specificity (one class against the rest, mean; of two classes the second one's)."""
        confusion = sums["confusion"]
        truth, right, said = confusion.sum(1), np.diag(confusion), confusion.sum(0)
        there = truth > 0
        n = int(truth.sum())
        if n == 0:
            return {}
        recall = right[there] / truth[there]
        scores = sums["scores"]
        found: dict[str, float | None] = {
            "accuracy": float(right.sum() / n),
            "balanced_accuracy": float(recall.mean()),
            "f1": float((2 * right[there] / (truth[there] + said[there])).mean()),
            "loss": float(int(sums["loss"][0]) / STEPS / n),
            "ece": calibration_error(sums["calibration"]),
            "auc": mean_of(areas(scores)),
            "sensitivity": mean_of(sensitivities(scores[1:] if len(scores) == 2 else scores, self.specificity)),
        }
        return {name: value for name, value in found.items() if value is not None}

    def by_class(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """recall_CLASS, the share of each class's images that was found, of the classes that occur."""
        confusion = sums["confusion"]
        truth = confusion.sum(1)
        return {f"recall_{self.classes[k]}": float(confusion[k, k] / truth[k]) for k in np.flatnonzero(truth)}


def log_odds(logits: Tensor) -> Tensor:
    """log(p / (1 − p)) of each class's probability.  logits [B,K] -> [B,K], exact also where p rounds to 1."""
    top = logits.argmax(1, keepdim=True)
    log_p = torch.log_softmax(logits, 1)
    odds = log_p - torch.log1p(-log_p.exp())  # good up to p = 1/2, and beyond it only the largest can be
    others = logits.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    return odds.scatter(1, top, logits.gather(1, top) - others)
