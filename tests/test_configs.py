"""Every config under configs/ is complete, says what it is for, and runs."""

import difflib
import importlib.util
from pathlib import Path

import pytest

from fedvision.complete import complete
from fedvision.data.sources import SOURCES, TOGETHER, is_fetched
from fedvision.experiment import Experiment, load
from fedvision.holdings import BoxFolder, Composites, ImageFolder, MaskFolder
from simulations.run import simulate

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def absent(experiment: Experiment) -> str | None:
    """What this machine lacks to train the experiment; None where it lacks nothing."""
    import torch

    if isinstance(experiment.data, ImageFolder | BoxFolder | MaskFolder) and not Path(experiment.data.root).is_dir():
        return f"no images in {experiment.data.root}"
    name = experiment.data.dataset
    if name == "torchvision" and not Path(experiment.data.root).is_dir():
        return f"no images in {experiment.data.root}"
    if name in {*SOURCES, *TOGETHER} and not is_fetched(name) and not (name == "elpv" and importlib.util.find_spec("elpv_dataset")):
        return f"{name}: fedvision data fetch {name}"
    if experiment.engine.device == "cuda" and not torch.cuda.is_available():
        return "no GPU"
    return None


def shortened(path: Path) -> list[str]:
    """Settings by which a config runs in seconds: two rounds, a step a site, few sites asked, and only what they need kept."""
    experiment = load(path)
    federation = experiment.federation
    settings = ["federation.rounds=2", "training.epochs=null", "training.steps=1", "tracking.mlflow=null", "tracking.report=false"]
    if federation.cohort is not None and not experiment.secure_aggregation.enabled:  # whose thresholds belong to its cohort
        settings += [f"federation.cohort={max(4, federation.min_replies)}"]
    if isinstance(experiment.data, Composites):
        settings += ["data.scenes=40"]
    if experiment.training.warmup >= 2:  # rounds, which there are not
        settings += ["training.warmup=1"]
    return [*settings, "evaluation.every=2"]


@each_config
def test_a_config_holds_every_key_with_its_unit(path: Path) -> None:
    was, now = path.read_text(encoding="utf-8"), complete(path)
    difference = "\n".join(difflib.unified_diff(was.splitlines(), now.splitlines(), "as it is", "complete", lineterm="", n=0))
    assert was == now, f"write it out again with `make configs`:\n{difference}"


@each_config
def test_a_config_says_first_what_it_is_for_and_is_named_as_its_file(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and 40 <= len(first) <= 140
    assert load(path).name == path.stem


@each_config
def test_a_setting_works_on_any_config(path: Path) -> None:
    experiment = load(path, ["seed=5", "federation.rounds=7", "tracking.mlflow=null", "strategy.server_learning_rate=0.5"])
    assert (experiment.seed, experiment.federation.rounds, experiment.tracking.mlflow) == (5, 7, None)
    assert experiment.strategy.server_learning_rate == 0.5


@each_config
def test_a_config_runs(path: Path, tmp_path: Path) -> None:
    experiment = load(path, shortened(path))
    lacking = absent(experiment)
    if lacking is not None:
        pytest.skip(f"{path.stem} is valid, and is not trained here: {lacking}")
    folder, summary = simulate(experiment, tmp_path / "run", None, quiet=True)
    assert summary["status"] == "completed" and summary["rounds"] == 2 and summary["model_sha256"]
    assert experiment.evaluation.best in summary["metrics"] and 0 <= summary["metrics"].get("accuracy", 0) <= 1
    assert [record["status"] for record in folder.rounds()] == ["counted", "counted"]
    for site in [site for site, kind in experiment.conditions.misbehaving.items() if kind != "opposite"]:
        assert all(site in {**record["refused"], **record["declined"]} for record in folder.rounds())


def test_the_config_for_your_own_images_runs_on_a_folder_per_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    monkeypatch.setenv("FEDVISION_CACHE", str(tmp_path / "cache"))
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:120], digits.target[:120], strict=True)):
        folder = tmp_path / "images" / f"digit-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).save(folder / f"{number}.png")
    (tmp_path / "images" / "digit-0" / "broken.png").write_bytes(b"not a picture")
    path = ROOT / "configs" / "image_folder.yaml"
    experiment = load(path, [*shortened(path), f"data.root={tmp_path / 'images'}", "data.image_size=16"])
    folder, summary = simulate(experiment, tmp_path / "run", None, quiet=True)
    assert summary["status"] == "completed" and summary["classes"] == [f"digit-{k}" for k in range(10)]
    assert any("broken.png" in note for note in summary["notes"])


def test_every_algorithm_scheme_and_data_set_has_a_config() -> None:
    from fedvision.algorithms import ALGORITHMS
    from fedvision.data.datasets import DATASETS
    from fedvision.data.schemes import PARTITIONS

    experiments = [load(path) for path in [*CONFIGS, *sorted((ROOT / "examples").glob("*.yaml"))]]  # what is brought has an example
    variants = {"fedyogi", "fedadagrad", "trimmed_mean", "krum"}  # a setting away from fedadam's, median's and multi_krum's
    assert {e.strategy.name for e in experiments} == set(ALGORITHMS) - variants
    assert {e.partition.scheme for e in experiments} == set(PARTITIONS)
    assert {e.data.dataset for e in experiments} == set(DATASETS)


def test_completing_keeps_the_opening_comment_and_relative_paths_and_adds_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "# What it is for\n# and more\nname: own\ndata: {dataset: image_folder, root: ../x}\npartition: {scheme: iid, sites: 2}\nfederation: {rounds: 1}\n"
    )
    text = complete(path)
    assert text.startswith("# What it is for\n# and more\nname: own  #") and "  root: ../x  # folder of the images" in text
    path.write_text(text)
    assert complete(path) == text
