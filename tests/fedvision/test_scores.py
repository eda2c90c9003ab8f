"""Figures from summed histograms agree with the library's on the pooled scores."""

import numpy as np
import pytest
import torch
from sklearn import metrics as library
from sklearn.calibration import calibration_curve

from fedvision.evaluation import add
from fedvision.tasks import make_task
from fedvision.tasks.scores import BINS, STEPS, calibration_error, sensitivities

WITHIN = 0.005


def drawn(n: int, classes: int, seed: int, sharp: float) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (n,), generator=g)
    return sharp * torch.nn.functional.one_hot(targets, classes) + sharp * torch.randn(n, classes, generator=g), targets


def library_sensitivity(truth: np.ndarray, score: np.ndarray, specificity: float) -> float:
    false, true, _ = library.roc_curve(truth, score, drop_intermediate=False)
    return float(true[false <= 1 - specificity + 1e-12].max())


def library_ece(right: np.ndarray, confidence: np.ndarray) -> float:
    shares, means = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    counts = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    return float(np.abs(shares - means) @ counts[counts > 0] / len(right))


@pytest.mark.parametrize("sharp", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("specificity", [0.8, 0.95])
def test_sensitivity_and_calibration_of_summed_sites_are_the_librarys_on_all_images(sharp: float, classes: int, specificity: float) -> None:
    task = make_task("classification", tuple("abcde"[:classes]), specificity)
    sites = [drawn(n, classes, seed, sharp) for seed, n in enumerate((700, 40, 2500, 60))]
    pooled: dict[str, np.ndarray] = {}
    for logits, targets in sites:
        pooled = add(pooled, task.sums(logits, targets))
    logits, targets = torch.cat([s[0] for s in sites]).double(), torch.cat([s[1] for s in sites])
    p = torch.softmax(logits, 1)
    odds = [(logits[:, k] - logits[:, [j for j in range(classes) if j != k]].logsumexp(1)).numpy() for k in range(classes)]
    found = task.metrics(pooled)
    wanted = [library_sensitivity((targets == k).numpy(), odds[k], specificity) for k in (range(classes) if classes > 2 else [1])]
    assert abs(found["sensitivity"] - np.mean(wanted)) < WITHIN
    areas = [library.roc_auc_score(targets == k, odds[k]) for k in range(classes)]
    assert abs(found["auc"] - np.mean(areas)) < WITHIN
    assert abs(found["ece"] - library_ece((logits.argmax(1) == targets).numpy(), p.amax(1).numpy())) < WITHIN


def histogram(*bins: int) -> np.ndarray:
    return np.bincount(bins, minlength=BINS)


def at(specificity: float, negatives: np.ndarray, positives: np.ndarray) -> float | None:
    return sensitivities(np.array([[negatives, positives]]), specificity)[0]


def test_sensitivity_by_hand() -> None:
    negatives, positives = histogram(*range(10)), histogram(3, 9, 20, 30)
    assert at(0.9, negatives, positives) == 0.75, (
        "one of ten may be wrong, that of bin 9: the threshold is above bin 8, where three of four are"
    )
    assert at(0.999, negatives, positives) == 0.5 + 0.25 / 2, "none may be wrong: bin 9 holds one of each, either may come first"
    assert at(0.5, histogram(1), histogram(2)) == 1.0
    assert at(0.9, histogram(), positives) is None and at(0.9, negatives, histogram()) is None


def test_calibration_error_by_hand() -> None:
    table = np.array([[2, 0, 0.25 * 2 * STEPS], [6, 6, 0.75 * 6 * STEPS]]).astype(np.int64)
    assert calibration_error(table) == pytest.approx(2 / 8 * 0.25 + 6 / 8 * 0.25)
    assert calibration_error(np.zeros((15, 3), np.int64)) is None
