"""Classification: a loss per image, and metrics from sums that agree with the library's on the pooled data."""

import numpy as np
import pytest
import torch
from sklearn import metrics as library

from fedvision.errors import UpdateRefused
from fedvision.evaluation import OverSites, add
from fedvision.tasks import make_task

TASK = make_task("classification", ("cat", "dog", "eel"))


def drawn(n: int, seed: int, sharp: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (n,), generator=g)
    return sharp * torch.nn.functional.one_hot(targets, 3) + sharp * torch.randn(n, 3, generator=g), targets


def test_the_loss_of_an_image_does_not_depend_on_the_others() -> None:
    logits, targets = drawn(8, 0)
    alone = torch.cat([TASK.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(8)])
    assert torch.equal(TASK.loss(logits, targets), alone)


def test_two_images_by_hand() -> None:
    sums = TASK.sums(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 2]))
    assert sums["confusion"].tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    found = TASK.metrics(sums)
    loss = (np.log(np.e**2 + 2) - 2 + np.log(3)) / 2
    assert found["accuracy"] == 0.5 and found["balanced_accuracy"] == 0.5 and found["loss"] == pytest.approx(loss, abs=1e-6)
    assert found["f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert TASK.by_class(sums) == {"recall_cat": 1.0, "recall_eel": 0.0}


@pytest.mark.parametrize("sharp", [0.3, 2.0, 40.0])
def test_metrics_from_summed_sites_agree_with_the_librarys_on_the_pooled_images(sharp: float) -> None:
    parts = [drawn(n, seed, sharp) for n, seed in ((40, 1), (300, 2), (7, 3), (900, 4))]
    pooled: dict[str, np.ndarray] = {}
    for logits, targets in parts:
        pooled = add(pooled, TASK.sums(logits, targets))
    logits, targets = torch.cat([p[0] for p in parts]).double(), torch.cat([p[1] for p in parts]).numpy()
    said, scores = logits.argmax(1).numpy(), torch.stack([logits[:, k] - logits[:, others(k)].logsumexp(1) for k in range(3)], 1).numpy()
    found = TASK.metrics(pooled)
    assert found["accuracy"] == pytest.approx(library.accuracy_score(targets, said))
    assert found["balanced_accuracy"] == pytest.approx(library.balanced_accuracy_score(targets, said))
    assert found["f1"] == pytest.approx(library.f1_score(targets, said, average="macro"))
    areas = [library.roc_auc_score(targets == k, scores[:, k]) for k in range(3)]
    assert abs(found["auc"] - np.mean(areas)) < 0.002


def others(k: int) -> list[int]:
    return [j for j in range(3) if j != k]


def test_a_model_that_diverged_has_figures_not_an_exception() -> None:
    found = TASK.metrics(TASK.sums(torch.full((4, 3), torch.nan), torch.tensor([0, 1, 2, 0])))
    assert found["loss"] > 1e5 and np.isfinite(list(found.values())).all()


def test_one_class_alone_has_no_auc_and_no_examples_have_no_figures() -> None:
    logits, _ = drawn(5, 0)
    assert "auc" not in TASK.metrics(TASK.sums(logits, torch.zeros(5, dtype=torch.long)))
    assert TASK.metrics({name: np.zeros(shape, np.int64) for name, shape in TASK.shapes.items()}) == {}


def test_mean_worst_and_spread_are_over_sites_whatever_their_sizes() -> None:
    right, wrong = torch.eye(3)[[0, 0, 0, 0]], torch.eye(3)[[1, 1]]
    over = OverSites(TASK)
    over.add("b", TASK.sums(right, torch.zeros(4, dtype=torch.long)))
    over.add("a", TASK.sums(wrong, torch.zeros(2, dtype=torch.long)))
    over.add("empty", {})
    figures = over.figures()
    assert figures["pooled"]["accuracy"] == pytest.approx(4 / 6)
    assert (figures["mean"]["accuracy"], figures["worst"]["accuracy"], figures["worst"]["accuracy_site"]) == (0.5, 0.0, "a")
    assert figures["spread"]["accuracy"] == 0.5 and list(figures["per_site"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda s: {"confusion": s["confusion"]}, "wrong_names"),
        (lambda s: s | {"confusion": s["confusion"][:2]}, "wrong_shape"),
        (lambda s: s | {"loss": s["loss"].astype(float)}, "wrong_shape"),
        (lambda s: s | {"loss": -s["loss"] - 1}, "out_of_range"),
        (lambda s: s | {"scores": s["scores"] + 2**60}, "out_of_range"),
    ],
)
def test_a_sites_figures_are_not_trusted(spoil: object, code: str) -> None:
    over = OverSites(TASK)
    with pytest.raises(UpdateRefused) as refused:
        over.add("a", spoil(TASK.sums(*drawn(5, 0))))  # type: ignore[operator]
    assert refused.value.code == code and not over.pooled
