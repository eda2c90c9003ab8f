"""Detection from its config to its report, on every engine, cut and resumed, masked, and under differential privacy."""

import json
from pathlib import Path
from typing import Any

import pytest
from flower_runs import FlowerRuns
from rectangles import experiment

from fedvision.data.federation import open_federated
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.types import TrainRequest
from privacy.check_model import check_experiment
from simulations.baselines import centralised, local
from simulations.engines import inline
from simulations.run import simulate

ROOT = Path(__file__).parents[2]
SERVER = {"sites": "none", "server": {"test": 0.25}}
CHANGED = {"training": {"transforms": [{"name": "Mosaic", "p": 0.3}, {"name": "RandomHorizontalFlip"}]}}
DETECTORS = {
    "fcos": {"channels": 16, "convs": 1},
    "retinanet": {"channels": 16},
    "ssdlite": {},
    "onestage": {"channels": 16, "convs": 1},
    "detr": {"channels": 32, "heads": 2, "layers": 1, "queries": 5},
    "deformable_detr": {"channels": 32, "heads": 2, "layers": 1, "queries": 5, "points": 2},
}
COUPLED = {
    "faster_rcnn": {"channels": 16, "hidden": 32, "proposals": 16},
    "mask_rcnn": {"channels": 16, "hidden": 32, "proposals": 16, "mask_convs": 1},
}


def run_of(name: str, **sections: Any) -> Experiment:
    """A run of that detector on the rectangles; of Mask R-CNN the task is instances."""
    masks = {"task": "instances", "options": {"masks": True}} if name == "mask_rcnn" else {}
    return experiment({"name": f"detection/{name}", "options": (DETECTORS | COUPLED)[name]}, **masks, **sections)


def test_a_federated_a_pooled_and_a_local_run_learn_and_the_first_two_show_pictures(tmp_path: Path) -> None:
    e = experiment(
        options={"n": 48}, federation={"rounds": 4}, tracking={"mlflow": None, "report": True, "pictures": 2},
        training={"epochs": 6, "gradient_clip": 1.0, "transforms": [{"name": "RandomHorizontalFlip"}]},
    )  # fmt: skip
    figures = {}
    for run in (simulate, centralised, local):
        folder, summary = run(e, tmp_path / run.__name__, *([None] if run is simulate else []), quiet=True)
        figures[run.__name__] = summary["metrics"]
        page = (folder.path / "report.html").read_text()
        assert ("data:image/png;base64" in page) == (run is not local)
    assert figures["simulate"]["ap50"] > 0.5 and figures["centralised"]["ap50"] > 0.5 and "map" in figures["local"]
    assert {"ap50_red", "ap50_blue", "recall", "ap75"} <= set(figures["simulate"])
    assert list(json.loads((tmp_path / "simulate/pictures/about.json").read_text())) == ["augmentations", "predictions", "failures"]


@pytest.mark.ray
@pytest.mark.parametrize("name", ["fcos", "detr", "mask_rcnn"])
def test_two_workers_end_at_the_bytes_of_a_loop(a_ray: Any, name: str, tmp_path: Path) -> None:
    _, loop = simulate(run_of(name, **CHANGED), tmp_path / "loop", None, quiet=True)
    _, two = simulate(run_of(name, **CHANGED, engine={"name": "ray", "workers": 2}), tmp_path / "two", None, quiet=True)
    assert two["model_sha256"] == loop["model_sha256"] and two["metrics"] == loop["metrics"]


@pytest.mark.flower
def test_flowers_runtime_ends_at_the_bytes_of_a_loop(on_flower: FlowerRuns, tmp_path: Path) -> None:
    e = run_of("mask_rcnn", **CHANGED, federation={"rounds": 1})  # whose rows and sums hold those of the others
    _, loop = simulate(e, tmp_path / "loop", None, quiet=True)
    assert on_flower.run(e, tmp_path / "flower")["model_sha256"] == loop["model_sha256"]


class PowerCut(Exception):
    """The machine goes down."""


def _until_the_second_round(setting: Any, conduct: Any) -> Any:
    def failing(exchange: Any) -> Any:
        ask = exchange.ask

        def until(requests: Any) -> Any:
            if any(isinstance(r, TrainRequest) and r.round == 1 for r in requests.values()):
                raise PowerCut
            return ask(requests)

        exchange.ask = until
        return conduct(exchange)

    return inline(setting, failing)


@pytest.mark.parametrize("name", ["fcos", "mask_rcnn"])
def test_a_run_that_was_cut_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    e = run_of(name, **CHANGED)
    _, whole = simulate(e, tmp_path / "whole", None, quiet=True)
    with pytest.raises(PowerCut):
        simulate(e, tmp_path / "cut", None, quiet=True, engine=_until_the_second_round)
    _, resumed = simulate(e, None, tmp_path / "cut", quiet=True)
    assert resumed["model_sha256"] == whole["model_sha256"]


@pytest.mark.parametrize("name", ["fcos", "mask_rcnn"])
def test_masked_sums_end_at_the_bytes_of_clear_ones(name: str, tmp_path: Path) -> None:
    own = {"evaluation": SERVER, "federation": {"rounds": 1, "min_replies": 3}}
    _, clear = simulate(run_of(name, **own), tmp_path / "clear", None, quiet=True)
    _, hidden = simulate(run_of(name, **own, secure_aggregation={"enabled": True}), tmp_path / "masked", None, quiet=True)
    assert hidden["model_sha256"] == clear["model_sha256"]


def private(name: str) -> Experiment:
    privacy = {
        "mechanism": "dp_sgd",
        "noise_multiplier": 1.0,
        "delta": 1e-2,
        "sampling_rate": 0.3,
        "divisor": 4.0,
        "simulation_only_seed": None,
    }
    return run_of(
        name, privacy=privacy, evaluation=SERVER, training={"batch_size": None, "epochs": None, "steps": 1},
        federation={"rounds": 1, "weighting": "uniform"},
    )  # fmt: skip


@pytest.mark.parametrize("name", DETECTORS)
def test_each_detectors_loss_and_gradients_are_an_images_own(name: str) -> None:
    e = private(name)
    findings = check_experiment(e, (3, 64, 64), ("red", "blue"))
    assert len(findings) >= 4 and all(f.measured <= f.limit for f in findings)


@pytest.mark.parametrize("name", ["fcos", "detr"])
def test_a_private_run_promises_an_epsilon(name: str, tmp_path: Path) -> None:
    _, summary = simulate(private(name), tmp_path / "run", None, quiet=True)
    assert summary["status"] == "completed" and "ap50" in summary["metrics"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"name": "cnn", "options": {}}}, "model.name = cnn and task = detection exclude each other"),
        ({"task": "classification"}, "model.name = detection/fcos and task = classification exclude each other"),
        ({"task": "instances"}, "detection/fcos and task = instances exclude each other: it says boxes; use detection/mask_rcnn"),
        ({"model": {"name": "detection/mask_rcnn", "options": {}}}, "task = detection exclude each other: it says boxes and masks"),
        (
            {"task": "instances", "model": {"name": "detection/mask_rcnn", "options": {}}, "engine": {"name": "vmap"}},
            "and engine.name = vmap",
        ),
        ({"training": {"cutmix": 1.0}}, "training.cutmix = 1.0 and task = detection"),
        ({"training": {"balance": "sampling"}}, "training.balance = sampling and task = detection"),
        ({"evaluation": {"best": "accuracy"}}, "allowed are map, ap50"),
    ],
)
def test_what_does_not_go_with_detection_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        experiment(**change)


def test_soft_suppression_is_for_those_who_say_a_thing_twice(tmp_path: Path) -> None:
    e = experiment(evaluation={"soft_nms": 0.5}, federation={"rounds": 1})
    _, summary = simulate(e, tmp_path / "soft", None, quiet=True)
    assert "ap50" in summary["metrics"]
    with pytest.raises(ConfigError, match="soft_nms"):
        simulate(
            experiment({"name": "detection/detr", "options": DETECTORS["detr"]}, evaluation={"soft_nms": 0.5}),
            tmp_path / "d",
            None,
            quiet=True,
        )


def test_boxes_that_cannot_be_are_named_before_anything_is_begun() -> None:
    from dataclasses import replace

    from rectangles import rectangles

    from fedvision.data.targets import with_targets
    from fedvision.errors import DataError

    good = rectangles()
    assert good.targets is not None
    for change, said in (([5.0, 0, 0, 9, 9], "has the class 5"), ([0.0, 9, 9, 3, 12], "x1 < x2"), ([1.0, 0, 0, 90, 9], "64 × 64 pixels")):
        targets = good.targets.copy()
        targets[3, 0] = change
        with pytest.raises(DataError, match=f"box 0 of image 3.*{said}"):
            with_targets(replace(good, targets=targets), "detection")
    with pytest.raises(DataError, match="needs boxes"):
        with_targets(replace(good, targets=None), "detection")
    assert with_targets(good, "classification").targets is None
    assert open_federated(experiment()).dataset.has_boxes


# ----------------------------------------------------------------------------------------------- coupled detectors


@pytest.mark.parametrize(("name", "figures"), [("faster_rcnn", {"ap50"}), ("mask_rcnn", {"ap50", "mask_ap50", "mask_ap50_red"})])
def test_a_coupled_detector_learns_what_is_where_through_the_same_loop(name: str, figures: set[str], tmp_path: Path) -> None:
    e = run_of(
        name, federation={"rounds": 4}, training={"epochs": 8, "gradient_clip": 1.0, "learning_rate": 0.004},
        tracking={"mlflow": None, "report": True, "pictures": 2},
    )  # fmt: skip
    folder, summary = simulate(e, tmp_path / "run", None, quiet=True)
    assert figures <= set(summary["metrics"]) and "loss" not in summary["metrics"]
    assert min(summary["metrics"][name] for name in figures) > 0.35
    assert "data:image/png;base64" in (folder.path / "report.html").read_text()


@pytest.mark.parametrize("name", COUPLED)
def test_privacy_an_image_refuses_a_coupled_detector_and_says_why(name: str) -> None:
    from fedvision.errors import ModelRefused

    with pytest.raises(ConfigError, match=rf"detection/{name} and privacy\.mechanism = dp_sgd exclude each other: it samples proposals"):
        private(name)
    e, coupled = private("fcos"), run_of(name)
    coupled = e.model_copy(update={"model": coupled.model, "task": coupled.task, "data": coupled.data})
    with pytest.raises(ModelRefused, match="has no loss an image"):
        check_experiment(coupled, (3, 64, 64), ("red", "blue"))
