"""Every algorithm under every mechanism: it runs, or it is refused with the reason that the table gives."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_private_run import _central, _experiment

from fedvision.algorithms import ALGORITHMS
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.protections import UNDER_PRIVACY
from fedvision.schema import validate
from simulations.run import simulate

OPTIONS: dict[str, dict[str, Any]] = {"krum": {"byzantine": 0}, "multi_krum": {"byzantine": 0}, "fedbuff": {"buffer": 3, "concurrency": 1}}
PAIRS = [(name, mechanism) for name in ALGORITHMS for mechanism in ("dp_sgd", "central", "local")]


def experiment(name: str, mechanism: str) -> Experiment:
    values = json.loads(_experiment({"simulation_only_seed": 0}, federation={"min_replies": 3}).model_dump_json())
    values |= {"strategy": {"name": name, **OPTIONS.get(name, {}), **({"source": "own.py:strategy"} if name == "brought" else {})}}
    if mechanism != "dp_sgd":
        values |= {"privacy": _central(mechanism=mechanism, simulation_only_seed=0), "training": {"batch_size": 8}}
    if name == "fedbn":
        values |= {"model": {"name": "cnn", "norm": "batch"}}
    return validate(Experiment, values, "test")  # type: ignore[no-any-return]


def test_the_table_says_of_every_algorithm_and_mechanism_whether_and_why() -> None:
    assert set(UNDER_PRIVACY) == set(ALGORITHMS)
    assert all(len(why) > 20 for kinds in UNDER_PRIVACY.values() for _, why in kinds.values())
    assert all(set(kinds) == {"dp_sgd", "central", "local"} for kinds in UNDER_PRIVACY.values())


@pytest.mark.parametrize(("name", "mechanism"), [pair for pair in PAIRS if UNDER_PRIVACY[pair[0]][pair[1]][0]])
def test_a_pair_that_is_covered_trains(name: str, mechanism: str, tmp_path: Path) -> None:
    folder, summary = simulate(experiment(name, mechanism), tmp_path / "run", None, quiet=True)
    assert summary["status"] == "completed" and summary["privacy"]["mechanism"] == mechanism
    assert all(len(record["answered"]) == 3 and record["train"] is None for record in folder.rounds())


@pytest.mark.parametrize(("name", "mechanism"), [pair for pair in PAIRS if not UNDER_PRIVACY[pair[0]][pair[1]][0]])
def test_a_pair_that_is_not_covered_is_refused_with_the_reason(name: str, mechanism: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(name, mechanism)
    assert f"strategy.name = {name} and privacy.mechanism = {mechanism} exclude each other: {UNDER_PRIVACY[name][mechanism][1]}" in str(caught.value)  # fmt: skip
