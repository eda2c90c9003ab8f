"""Image classification: cross-entropy per image, and metrics that are sums."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

BINS = 1024  # of a score histogram, over asinh(log-odds): fine where models are unsure, and not blind where they are sure
LARGEST_ODDS = 10.0  # |asinh(log-odds)| beyond which scores are alike: log-odds of 11,000
LOSS_STEPS = 2.0**20  # a loss is summed in steps of 2^-20 nats, so that its sum is exact in any order
LARGEST_LOSS = 1e6  # nats, of one image: a diverged model is recorded as this, not as infinity


@dataclass(frozen=True)
class Classification:
    """One label an image, out of `classes`."""

    classes: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """Numbers that a model must give for an image."""
        return len(self.classes)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what `sums` gives."""
        k = len(self.classes)
        return {"confusion": (k, k), "loss": (1,), "scores": (k, 2, BINS)}

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy per image, nats.  logits [B,K], targets [B] -> [B]: no image enters another's loss."""
        return functional.cross_entropy(logits, targets, reduction="none")

    def sums(self, logits: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        """What images add up to, int64: `confusion` [K,K] (truth, prediction), `loss` in 2^-20 nats, and
        `scores` [K,2,BINS], for each class the histogram of its log-odds over (other, own) images."""
        k = len(self.classes)
        logits, targets = logits.detach().float(), targets.detach()
        odds = torch.asinh(log_odds(logits.double())).nan_to_num(0.0, LARGEST_ODDS, -LARGEST_ODDS)
        confusion = torch.bincount(targets * k + logits.argmax(1), minlength=k * k).reshape(k, k)
        loss = self.loss(logits, targets).double().nan_to_num(LARGEST_LOSS, LARGEST_LOSS).clamp(max=LARGEST_LOSS)
        bins = ((odds / LARGEST_ODDS + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
        own = functional.one_hot(targets, k)
        index = (torch.arange(k, device=bins.device) * 2 + own) * BINS + bins
        scores = torch.bincount(index.flatten(), minlength=k * 2 * BINS).reshape(k, 2, BINS)
        return {
            "confusion": confusion.cpu().numpy(),
            "loss": (loss * LOSS_STEPS).round().long().sum().cpu().numpy().reshape(1),
            "scores": scores.cpu().numpy(),
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """accuracy, balanced_accuracy (mean recall of the classes that occur), f1 (macro, of the classes that occur), loss
        (nats an image), and auc (one class against the rest, mean; absent where only one class occurs)."""
        confusion = sums["confusion"]
        truth, right, said = confusion.sum(1), np.diag(confusion), confusion.sum(0)
        there = truth > 0
        n = int(truth.sum())
        if n == 0:
            return {}
        recall = right[there] / truth[there]
        result = {
            "accuracy": float(right.sum() / n),
            "balanced_accuracy": float(recall.mean()),
            "f1": float((2 * right[there] / (truth[there] + said[there])).mean()),
            "loss": float(int(sums["loss"][0]) / LOSS_STEPS / n),
        }
        areas = [a for a in (area_under_curve(s[0], s[1]) for s in sums["scores"]) if a is not None]
        if areas:
            result["auc"] = float(np.mean(areas))
        return result

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


def area_under_curve(negatives: np.ndarray, positives: np.ndarray) -> float | None:
    """Area under the ROC curve from score histograms [BINS], ties within a bin counted half (Hanley, McNeil 1982);
    None where one side is empty."""
    below = np.concatenate([[0], np.cumsum(negatives)[:-1]])
    pairs = int(negatives.sum()) * int(positives.sum())
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs else None
