"""Several labels an image: missing ones weigh nothing anywhere, and summed figures are the library's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as library
from torch.nn import functional

from fedvision.data.federation import open_federated
from fedvision.errors import ConfigError, DataError
from fedvision.evaluation import add
from fedvision.experiment import Experiment
from fedvision.learning import Training
from fedvision.schema import validate
from fedvision.tasks import make_task
from simulations.run import simulate

TASK = make_task("multilabel", ("crack", "spot", "stain"), 0.9)
NAN = float("nan")


def drawn(n: int, seed: int, missing: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, 3, generator=g) < torch.tensor([0.5, 0.2, 0.05])).float()
    logits = 3 * (targets - 0.5) + 2 * torch.randn(n, 3, generator=g)
    return logits, targets.masked_fill(torch.rand(n, 3, generator=g) < missing, NAN)


def test_the_loss_is_the_mean_over_known_labels_and_a_missing_one_has_no_gradient() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [1.0, 1.0, 1.0]], requires_grad=True)
    loss = TASK.loss(logits, torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, NAN]]))
    nats = functional.softplus(torch.tensor([-2.0, 0.5]))  # −log σ(2), −log(1 − σ(0.5))
    assert loss.tolist() == pytest.approx([float(nats.mean()), 0.0])
    loss.sum().backward()
    assert logits.grad is not None and logits.grad[0, 1] == 0 and not logits.grad[1].any() and logits.grad[0, 0] != 0


def test_figures_of_summed_sites_are_the_librarys_on_the_known_labels() -> None:
    sites = [drawn(n, seed) for seed, n in enumerate((900, 35, 2600))]
    pooled: dict[str, np.ndarray] = {}
    for logits, targets in sites:
        pooled = add(pooled, TASK.sums(logits, targets))
    logits, targets = (torch.cat([s[i] for s in sites]).numpy() for i in (0, 1))
    found, known = TASK.metrics(pooled), ~np.isnan(targets)
    said = logits > 0
    columns = [(targets[known[:, k], k], logits[known[:, k], k], said[known[:, k], k]) for k in range(3)]
    assert found["accuracy"] == pytest.approx((said == targets)[known].mean())
    assert found["f1"] == pytest.approx(np.mean([library.f1_score(t, s) for t, _, s in columns]))
    assert abs(found["auc"] - np.mean([library.roc_auc_score(t, x) for t, x, _ in columns])) < 0.005
    wanted = []
    for truth, score, _ in columns:
        false, true, _ = library.roc_curve(truth, score, drop_intermediate=False)
        wanted.append(true[false <= 0.1].max())
    assert abs(found["sensitivity"] - np.mean(wanted)) < 0.005
    looked = known.any(1)
    assert found["exact_match"] == pytest.approx((((said == targets) | ~known).all(1) & looked).sum() / looked.sum())
    assert found["loss"] == pytest.approx(
        float(TASK.loss(torch.tensor(logits), torch.tensor(targets))[torch.tensor(looked)].mean()), abs=1e-5
    )
    assert set(TASK.by_class(pooled)) == {"auc_crack", "auc_spot", "auc_stain"}


def test_a_label_that_nobody_knows_and_images_without_labels_have_no_figures() -> None:
    targets = torch.tensor([[1.0, NAN, NAN], [0.0, NAN, NAN], [NAN, NAN, NAN]])
    sums = TASK.sums(torch.tensor([[1.0, 5.0, 5.0], [-1.0, 5.0, 5.0], [9.0, 9.0, 9.0]]), targets)
    assert sums["images"].tolist() == [2, 2] and TASK.metrics(sums)["auc"] == 1.0 and list(TASK.by_class(sums)) == ["auc_crack"]
    assert TASK.metrics({n: np.zeros(s, np.int64) for n, s in TASK.shapes.items()}) == {}


def test_weights_of_positives_smoothing_and_balance_by_hand() -> None:
    logits, targets = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, NAN]])
    nats = float(np.log(2))
    assert float(TASK.criterion(Training(class_weights=[3.0, 9.0, 9.0]))(logits, targets)) == pytest.approx((3 + 1) / 2 * nats)
    far = torch.tensor([[4.0, 4.0, 4.0]])
    smoothed = functional.binary_cross_entropy_with_logits(far[:, :2], torch.tensor([[0.9, 0.1]]))
    assert float(TASK.criterion(Training(label_smoothing=0.2))(far, targets)) == pytest.approx(float(smoothed))

    class Known:
        targets = torch.tensor([[1.0, 0, 1], [0, 0, NAN], [0, 0, NAN], [0, NAN, NAN]])

    weights = TASK.criterion(Training(balance="loss"), Known())(torch.zeros(3, 3), torch.eye(3))  # type: ignore[arg-type]
    assert (3 * weights / nats - 2).tolist() == pytest.approx([3.0, 1.0, 1.0]), "negatives over positives; 1 where one of them is not there"


def folder(tmp_path: Path, rows: list[str], header: str = "path,crack,spot") -> dict[str, Any]:
    draw = np.random.default_rng(0)
    lines = [header]
    for number, row in enumerate(rows):
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{row}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return {"dataset": "image_folder", "root": str(tmp_path), "manifest": str(tmp_path / "manifest.csv"), "targets": ["crack", "spot"]}


def experiment(data: dict[str, Any], **changes: Any) -> Experiment:
    values = {
        "task": "multilabel", "data": data, "partition": {"scheme": "iid", "sites": 2}, "federation": {"rounds": 2},
        "model": {"name": "mlp", "width": 8}, "tracking": {"mlflow": None}, **changes,
    }  # fmt: skip
    return validate(Experiment, values, "test")


def test_labels_are_columns_of_a_manifest_and_an_empty_field_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDVISION_CACHE", str(tmp_path / "cache"))
    data = open_federated(experiment(folder(tmp_path, ["1,0", "0,", ",1", "1,1"] * 5)))
    assert data.classes == ("crack", "spot")
    np.testing.assert_array_equal(data.dataset.targets[:4], [[1, 0], [0, NAN], [NAN, 1], [1, 1]])
    site = data.site(data.sites[0])
    assert site.train.batch(np.arange(2)).targets.shape == (2, 2)
    other = folder(tmp_path, ["0,0", "0,", ",1", "1,1"] * 5)
    assert open_federated(experiment(other)).dataset.fingerprint() != data.dataset.fingerprint()


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        (["1,0", "2,0"], {}, "a label is 1, 0 or empty, and one is 2"),
        (["1,yes", "0,0"], {}, "0.png has 'yes' in the column 'spot'"),
    ],
)
def test_a_label_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], changes: Any, said: str) -> None:
    monkeypatch.setenv("FEDVISION_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=said):
        open_federated(experiment(folder(tmp_path, rows), **changes))
    with pytest.raises(ConfigError, match=r"data.targets = \['crack', 'spot'\] and task = classification exclude each other"):
        experiment(folder(tmp_path, rows), task="classification")


def test_a_federation_learns_labels_and_reports_them_for_each_site(tmp_path: Path) -> None:
    """The digits as ten labels, one of which is there: one against the rest."""
    e = experiment(
        {"dataset": "digits"},
        federation={"rounds": 4},
        training={"epochs": 2, "learning_rate": 0.5},
        evaluation={"server": {"test": 0.2}, "best": "auc"},
    )
    folder, summary = simulate(e, tmp_path / "run", None, quiet=True)
    assert summary["metrics"]["auc"] > 0.9 and summary["metrics"]["auc_7"] > 0.9 and summary["confusion"] is None
    assert {"exact_match", "sensitivity", "ece", "f1"} <= set(next(iter(summary["sites"].values())))
    assert "auc" in (folder.path / "report.html").read_text()
