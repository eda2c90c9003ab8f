"""A segmentation under differential privacy: its losses are an image's own, and its per-image gradients are right."""

from pathlib import Path

import pytest
from segments import experiment

from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from privacy.check_model import check_experiment
from simulations.run import simulate

DP = {
    "privacy": {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-5, "clip": 1.0, "sampling_rate": 0.4, "divisor": 3},
    "training": {"batch_size": None, "epochs": None, "steps": 2, "learning_rate": 0.1},
    "evaluation": {"sites": "none", "server": {"test": 0.2}},
    "federation": {"rounds": 2, "weighting": "uniform"},
    "segmentation": {"losses": {"cross_entropy": 1.0, "dice": 1.0}, "background": "ground"},
}


def private(**sections: object) -> Experiment:
    return experiment(**{**DP, **sections})  # type: ignore[arg-type]


@pytest.mark.parametrize("losses", [{"cross_entropy": 1.0, "dice": 1.0}, {"tversky": 1.0, "boundary": 0.5}])
@pytest.mark.parametrize("shape", [(1, 13, 11), (2, 8, 9, 10)])
def test_a_unet_with_group_norm_and_losses_of_masks_can_be_protected(losses: dict[str, float], shape: tuple[int, ...]) -> None:
    findings = check_experiment(private(segmentation={"losses": losses, "background": "ground"}), shape, ("ground", "bright", "dark"))
    assert len(findings) >= 3 and all(finding.measured <= finding.limit for finding in findings)


@pytest.mark.parametrize("name", ["deeplabv3", "lraspp"])
def test_a_head_over_a_backbone_with_group_norm_can_be_protected(name: str) -> None:
    model = {"name": name, "norm": "group", "width": 8, "options": {"backbone": "timm/resnet10t"}}
    findings = check_experiment(private(model=model), (1, 33, 41), ("ground", "bright", "dark"))
    assert len(findings) >= 3 and all(finding.measured <= finding.limit for finding in findings)


def test_a_unet_with_batch_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.norm = batch|model.norm to group"):
        check_experiment(private(model={"norm": "batch"}), (1, 13, 11), ("ground", "bright", "dark"))


def test_views_that_would_move_without_their_masks_are_refused() -> None:
    with pytest.raises(ConfigError, match="a view would move and its mask would not"):
        private(privacy={**DP["privacy"], "views": 2, "flip": True})


def test_a_private_run_ends_and_shows_no_picture_of_a_site(tmp_path: Path) -> None:
    folder, summary = simulate(private(tracking={"mlflow": None, "report": False, "pictures": 1}), tmp_path / "run", None, quiet=True)
    assert summary["rounds"] == 2 and summary["metrics"]["accuracy"] > 0
    assert "the coordinator's own test data" in (folder.path / "pictures/about.json").read_text()
