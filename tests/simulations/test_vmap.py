"""Many small sites at once: the figures of a loop, within float tolerance, and the same again each time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.schema import validate
from simulations.run import simulate

UNEVEN = {
    "data": {"dataset": "digits", "test": 0.0},
    "partition": {"scheme": "dirichlet", "alpha": 0.5, "sites": 60, "min_examples": 1},
    "federation": {"rounds": 3, "sampling": "fixed", "cohort": 40},
    "model": {"name": "mlp", "width": 16},
    "training": {"epochs": 2, "batch_size": 8, "learning_rate": 0.1, "momentum": 0.5, "weight_decay": 1e-3, "gradient_clip": 1.0},
    "evaluation": {"every": 3, "sites": "none", "server": {"test": 0.1}},
    "tracking": {"mlflow": None, "report": False},
}


def experiment(name: str, **blocks: dict[str, Any]) -> Experiment:
    values = {**UNEVEN, "engine": {"name": name}}
    return validate(Experiment, {key: {**values.get(key, {}), **blocks.get(key, {})} for key in {*values, *blocks}}, "test")


def run(folder: Path, name: str, **blocks: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]], dict[str, Any]]:
    out, summary = simulate(experiment(name, **blocks), folder / name, None, quiet=True)
    return load_file(out.path / "model.safetensors"), out.rounds(), summary


WAYS: dict[str, dict[str, Any]] = {
    "fedavg on uneven sites": {},
    "a cnn that all sites fit into one batch": {
        "model": {"name": "cnn", "width": 4, "hidden": 8}, "training": {"batch_size": 200, "steps": 2, "epochs": None},
    },
    "fedprox": {"strategy": {"name": "fedprox", "mu": 0.5}},
    "fedadam, sites weighed alike": {"strategy": {"name": "fedadam"}, "federation": {"weighting": "uniform"}},
    "faults": {"conditions": {"absent": 0.1, "dropout": 0.2, "deadline": 0.1, "speed_sigma": 0.5}},
    "updates out of range": {"encoding": {"range_weights": 0.2}},
    "updates too large": {"federation": {"max_update_norm": 0.8}},
}  # fmt: skip


@pytest.mark.parametrize("blocks", WAYS.values(), ids=WAYS)
def test_it_ends_where_a_loop_ends(tmp_path: Path, blocks: dict[str, Any]) -> None:
    alone, rounds, _ = run(tmp_path, "inline", **blocks)
    together, same, _ = run(tmp_path, "vmap", **blocks)
    for name, tensor in alone.items():
        np.testing.assert_allclose(together[name], tensor, atol=2e-5, err_msg=name)
    for one, other in zip(rounds, same, strict=True):
        for who in ("asked", "answered", "missing"):
            assert one[who] == other[who]
        assert one["declined"].keys() == other["declined"].keys()
        assert one["refused"].keys() == other["refused"].keys()
        assert one["train"]["examples"] == other["train"]["examples"]
        assert one["train"]["loss"] == pytest.approx(other["train"]["loss"], abs=1e-4)
        assert one["simulated_seconds"] == other["simulated_seconds"]


def test_the_ways_above_meet_what_they_are_named_for(tmp_path: Path) -> None:
    _, rounds, _ = run(tmp_path / "a", "vmap", **WAYS["updates out of range"])
    assert any(reason.startswith("out_of_range") for record in rounds for reason in record["declined"].values())
    _, rounds, _ = run(tmp_path / "b", "vmap", **WAYS["updates too large"])
    assert any(reason.startswith("norm_too_large") for record in rounds for reason in record["refused"].values())


def test_the_same_config_ends_at_the_same_bytes_again(tmp_path: Path) -> None:
    dropping = {"model": {"dropout": 0.3}}
    first, second = (run(tmp_path / name, "vmap", **dropping)[2]["model_sha256"] for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ({"training": {"optimizer": "adamw"}}, "training.optimizer = adamw and engine.name = vmap exclude each other"),
        ({"engine": {"name": "vmap", "workers": 2}}, "engine.workers = 2 and engine.name = vmap exclude each other"),
        ({"encoding": {"rounding": "stochastic"}}, "encoding.rounding = stochastic and engine.name = vmap"),
        ({"strategy": {"name": "scaffold"}, "training": {"momentum": 0.0, "gradient_clip": None}}, "strategy.name = scaffold"),
        ({"model": {"name": "cnn", "norm": "batch"}}, "engine.name = vmap and model.name = cnn exclude each other: .* BatchNorm"),
    ],
)
def test_what_cannot_be_done_for_many_at_once_is_refused_by_name(tmp_path: Path, blocks: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(tmp_path, "vmap", **blocks)


def test_a_run_begun_on_another_engine_is_not_gone_on_with(tmp_path: Path) -> None:
    run(tmp_path, "inline")
    with pytest.raises(ConfigError, match=r"engine.name = 'vmap', and the run was begun with 'inline'"):
        simulate(experiment("vmap"), None, tmp_path / "inline", quiet=True)
