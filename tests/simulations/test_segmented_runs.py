"""A segmentation from its config to its report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_runs import FlowerRuns
from segments import experiment, squares

from fedvision.errors import ConfigError
from fedvision.tracking.folder import RunFolder
from simulations.baselines import centralised, local
from simulations.engines import ENGINES
from simulations.pictures import shown
from simulations.run import simulate

FLIP = {"training": {"transforms": [{"name": "RandomHorizontalFlip", "p": 0.5}], "epochs": 5, "optimizer": "adamw", "learning_rate": 0.01}}


def test_a_federated_a_pooled_and_a_local_run_learn_and_the_first_two_show_pictures(tmp_path: Path) -> None:
    e = experiment(
        options={"n": 32},
        federation={"rounds": 6},
        evaluation={"every": 6},
        segmentation={"background": "ground"},
        **FLIP,
        tracking={"mlflow": None, "report": True, "pictures": 2},
    )
    figures = {}
    for run in (simulate, centralised, local):
        folder, summary = run(e, tmp_path / run.__name__, *([None] if run is simulate else []), quiet=True)
        figures[run.__name__] = summary["metrics"]
        page = (folder.path / "report.html").read_text()
        assert ("data:image/png;base64" in page) == (run is not local)
        assert "pixels were classified right" in page
    assert figures["simulate"]["dice"] > 0.8 and figures["centralised"]["dice"] > 0.8 and "boundary_f" in figures["local"]
    about = json.loads((tmp_path / "simulate/pictures/about.json").read_text())
    assert list(about) == ["augmentations", "predictions", "failures"]


def test_the_order_in_which_a_config_names_its_losses_changes_no_byte(tmp_path: Path) -> None:
    losses = {"cross_entropy": 1.0, "dice": 0.7, "boundary": 0.1, "tversky": 0.3}
    turned = dict(reversed(losses.items()))
    ended = [
        simulate(experiment(segmentation={"losses": own}), tmp_path / next(iter(own)), None, quiet=True)[1] for own in (losses, turned)
    ]
    assert ended[0]["model_sha256"] == ended[1]["model_sha256"]


BITS = {"encoding": {"bits": 32, "range_weights": 4.0}, "tracking": {"mlflow": None, "report": False, "pictures": 0}}
PUBLIC = {"evaluation": {"sites": "none", "server": {"test": 0.2}}, "federation": {"rounds": 2, "min_replies": 4}, **BITS}
ALL_LOSSES = {"cross_entropy": 1.0, "dice": 1.0, "tversky": 0.5, "boundary": 0.1}
ON_RAY = {
    "pictures, refined": {**FLIP, "segmentation": {"losses": ALL_LOSSES, "crf": {}}},
    "volumes": {"options": {"depth": 5, "n": 16}, "segmentation": {"losses": ALL_LOSSES}},
}


@pytest.mark.ray
@pytest.mark.parametrize("kind", ON_RAY)
def test_two_workers_end_at_the_bytes_of_a_loop(a_ray: object, kind: str, tmp_path: Path) -> None:
    _, loop = simulate(experiment(**ON_RAY[kind]), tmp_path / "loop", None, quiet=True)
    _, two = simulate(experiment(**ON_RAY[kind], engine={"name": "ray", "workers": 2}), tmp_path / "two", None, quiet=True)
    assert two["model_sha256"] == loop["model_sha256"] and two["metrics"] == loop["metrics"]


@pytest.mark.flower
def test_a_run_on_flower_ends_at_the_bytes_of_inline(on_flower: FlowerRuns, tmp_path: Path) -> None:
    e = experiment(segmentation={"losses": {"cross_entropy": 1.0, "dice": 1.0, "boundary": 0.1}})
    _, inline = simulate(e, tmp_path / "inline", None, quiet=True)
    flower = on_flower.run(e, tmp_path / "flower")
    assert flower["model_sha256"] == inline["model_sha256"] and flower["metrics"] == inline["metrics"]
    assert not any(record["declined"] for record in RunFolder(tmp_path / "flower").rounds())


@pytest.mark.parametrize(
    "sections",
    [
        {
            "secure_aggregation": {"enabled": True},
            "encoding": {"bits": 32},
            "evaluation": {"sites": "none", "server": {"test": 0.2}},
            "federation": {"min_replies": 3},
        },
        {"tracking": {"mlflow": None, "report": False, "pictures": 0}},
    ],
)
def test_what_is_protected_or_not_wanted_is_not_shown(sections: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    from fedvision.data.federation import open_federated

    e = experiment(**sections)
    data = open_federated(e)
    may = shown(e, data)
    if "secure_aggregation" in sections:
        assert may is not None and np.array_equal(may.rows, data.server("test").rows)
        alone = e.model_copy(update={"evaluation": e.evaluation.model_copy(update={"server": None})})
        assert shown(alone, open_federated(alone)) is None
    else:
        folder, _ = simulate(e, tmp_path / "run", None, quiet=True)
        assert not (folder.path / "pictures").exists()


def test_volumes_of_several_channels_are_learned_and_shown(tmp_path: Path) -> None:
    e = experiment(options={"depth": 5, "channels": 2, "n": 16}, tracking={"mlflow": None, "report": True, "pictures": 1})
    folder, summary = simulate(e, tmp_path / "run", None, quiet=True)
    assert summary["metrics"]["accuracy"] > 0.5 and (folder.path / "pictures/failures.png").stat().st_size > 1000
    assert squares(depth=5, channels=2).shape == (2, 5, 13, 11)


class PowerCut(Exception):
    """The machine goes down."""


def cut(name: str) -> Callable[..., Any]:
    """The engine of that name, until the second round begins."""

    def engine(setting: Any, conduct: Any) -> Any:
        def failing(exchange: Any) -> Any:
            ask = exchange.ask

            def until(requests: Any) -> Any:
                if any(request.round == 1 for request in requests.values()):
                    raise PowerCut
                return ask(requests)

            exchange.ask = until
            return conduct(exchange)

        return ENGINES[name](setting, failing)

    return engine


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a loop that nobody cut or masked."""
    return simulate(experiment(**PUBLIC), tmp_path_factory.mktemp("clear") / "run", None, quiet=True)[1]


MASKED = {"secure_aggregation": {"enabled": True}}


def test_a_run_that_is_cut_and_resumed_and_one_that_is_masked_end_at_the_bytes_of_the_plain_one(
    clear: dict[str, Any], tmp_path: Path
) -> None:
    _, masked = simulate(experiment(**PUBLIC, **MASKED), tmp_path / "masked", None, quiet=True)
    with pytest.raises(PowerCut):
        simulate(experiment(**PUBLIC), tmp_path / "cut", None, quiet=True, engine=cut("inline"))
    _, resumed = simulate(experiment(**PUBLIC), None, tmp_path / "cut", quiet=True)
    assert {own["model_sha256"] for own in (masked, resumed)} == {clear["model_sha256"]} and masked["metrics"] == clear["metrics"]


TWO = {"engine": {"name": "ray", "workers": 2}}


@pytest.mark.ray
def test_a_masked_run_on_two_workers_that_is_cut_and_resumed_ends_at_the_bytes_of_a_loop_in_the_clear(
    a_ray: object, clear: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(PowerCut):
        simulate(experiment(**PUBLIC, **MASKED, **TWO), tmp_path / "cut", None, quiet=True, engine=cut("ray"))
    _, resumed = simulate(experiment(**PUBLIC, **MASKED, **TWO), None, tmp_path / "cut", quiet=True)
    assert resumed["model_sha256"] == clear["model_sha256"] and resumed["metrics"] == clear["metrics"]


@pytest.mark.ray
def test_a_private_masked_run_on_two_workers_promises_what_a_private_loop_does(a_ray: object, tmp_path: Path) -> None:
    own: dict[str, Any] = {
        **PUBLIC,
        "federation": {**PUBLIC["federation"], "weighting": "uniform"},
        "privacy": {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-5, "sampling_rate": 0.4, "divisor": 3},
        "training": {"batch_size": None, "epochs": None, "steps": 2},
    }
    _, loop = simulate(experiment(**own), tmp_path / "loop", None, quiet=True)
    _, two = simulate(experiment(**own, **MASKED, **TWO), tmp_path / "two", None, quiet=True)
    assert two["status"] == "completed" and two["privacy"]["epsilon"] == loop["privacy"]["epsilon"] > 0


def test_many_sites_at_once_end_where_a_loop_ends_and_refuse_the_boundary_loss_saying_why(tmp_path: Path) -> None:
    losses = {"cross_entropy": 1.0, "dice": 1.0}
    _, alone = simulate(experiment(segmentation={"losses": losses}), tmp_path / "inline", None, quiet=True)
    _, together = simulate(experiment(segmentation={"losses": losses}, engine={"name": "vmap"}), tmp_path / "vmap", None, quiet=True)
    assert together["metrics"]["loss"] == pytest.approx(alone["metrics"]["loss"], abs=1e-4)
    refused = r"segmentation\.losses\.boundary = 0\.1 and engine\.name = vmap exclude each other: the distances .* mask by mask"
    with pytest.raises(ConfigError, match=refused):
        experiment(segmentation={"losses": {**losses, "boundary": 0.1}}, engine={"name": "vmap"})
