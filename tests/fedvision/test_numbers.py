"""Regression: figures from sums are the library's on the pooled numbers; a number that is not known weighs nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as library

from fedvision.data.dataset import Dataset
from fedvision.data.targets import with_targets
from fedvision.errors import DataError, UpdateRefused
from fedvision.evaluation import OverSites, add, criterion
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.tasks import make_task
from simulations.run import simulate

TASK = make_task("regression", ("age", "length"))
NAN = float("nan")


def drawn(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    targets = torch.randn(n, 2, generator=g) * torch.tensor([20.0, 0.3]) + torch.tensor([-50.0, 1.7])
    outputs = targets + torch.randn(n, 2, generator=g) * torch.tensor([5.0, 0.2])
    return outputs, targets.masked_fill(torch.rand(n, 2, generator=g) < 0.2, NAN)


def test_two_images_by_hand() -> None:
    found = TASK.metrics(TASK.sums(torch.tensor([[1.0, 9.0], [3.0, 2.0]]), torch.tensor([[2.0, NAN], [5.0, 2.0]])))
    assert found["mae"] == pytest.approx((1.5 + 0) / 2) and found["rmse"] == pytest.approx((np.sqrt(2.5) + 0) / 2)
    assert found["r2"] == pytest.approx(1 - 5 / 4.5), "of age alone: length is known once, and does not vary"
    assert found["loss"] == pytest.approx((1 + (4 + 0) / 2) / 2)


def test_figures_of_summed_sites_are_the_librarys_on_all_known_numbers() -> None:
    sites = [drawn(n, seed) for seed, n in enumerate((400, 3, 900))]
    pooled: dict[str, np.ndarray] = {}
    for outputs, targets in sites:
        pooled = add(pooled, TASK.sums(outputs, targets))
    outputs, targets = (torch.cat([s[i] for s in sites]).numpy() for i in (0, 1))
    known = [(targets[~np.isnan(targets[:, t]), t], outputs[~np.isnan(targets[:, t]), t]) for t in range(2)]
    found = TASK.metrics(pooled)
    assert found["mae"] == pytest.approx(np.mean([library.mean_absolute_error(*pair) for pair in known]), abs=1e-4)
    assert found["rmse"] == pytest.approx(np.mean([library.mean_squared_error(*pair) ** 0.5 for pair in known]), abs=1e-4)
    assert found["r2"] == pytest.approx(np.mean([library.r2_score(*pair) for pair in known]), abs=1e-3)
    assert TASK.by_class(pooled)["mae_age"] == pytest.approx(library.mean_absolute_error(*known[0]), abs=1e-4)


def test_a_model_that_diverged_has_figures_and_large_targets_are_refused() -> None:
    found = TASK.metrics(TASK.sums(torch.tensor([[torch.inf, NAN]]), torch.tensor([[1.0, 2.0]])))
    assert np.isfinite(list(found.values())).all() and found["mae"] > 1e5
    data = Dataset("d", np.zeros((2, 1, 4, 4), np.uint8), np.zeros(2, np.int64), ("image",), (0.5,), (0.5,))
    with pytest.raises(DataError, match="classes are called image"):
        with_targets(data, "regression")
    years = Dataset("d", data.images, np.array([0, 1]), ("1999", "2025"), (0.5,), (0.5,))
    with pytest.raises(DataError, match="a target is 2025, and sums hold up to ±1000"):
        with_targets(years, "regression")


def test_small_errors_are_the_good_ones_over_sites_and_as_the_criterion() -> None:
    over = OverSites(TASK, "mae")
    for site, error in (("a", 1.0), ("b", 4.0)):
        over.add(site, TASK.sums(torch.full((3, 2), error), torch.tensor([[0.0, 0.0]] * 3)))
    figures = over.figures()
    assert figures["worst"]["mae"] == 4.0 and figures["worst"]["mae_site"] == "b" and "r2" not in figures["pooled"]
    assert criterion({"sites": figures}, "mae") == 2.5
    with pytest.raises(UpdateRefused):
        over.add("c", {name: -np.ones(shape, np.int64) for name, shape in TASK.shapes.items()})


def test_a_federation_learns_the_value_of_a_digit(tmp_path: Path) -> None:
    values = {
        "task": "regression", "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 3}, "federation": {"rounds": 6},
        "model": {"name": "mlp", "width": 32}, "training": {"optimizer": "adamw", "learning_rate": 0.01, "epochs": 2}, "tracking": {"mlflow": None},
    }  # fmt: skip
    e = validate(Experiment, values, "test")
    assert e.evaluation.best == "r2"
    folder, summary = simulate(e, tmp_path / "run", None, quiet=True)
    assert summary["metrics"]["r2"] > 0.6 and summary["metrics"]["mae"] < 1.5 and summary["classes"] == ["value"]
    assert "rmse" in (folder.path / "report.html").read_text()
