"""Every algorithm that works on sums ends under masks at the bytes that it ends at in the clear; the others are refused."""

from pathlib import Path
from typing import Any

import pytest
from secagg_runs import experiment, summary

from fedvision.algorithms import ALGORITHMS, AT_HOME, SEES_SINGLE_UPDATES, UNIFORM
from fedvision.errors import ConfigError

OPTIONS: dict[str, dict[str, Any]] = {"afl": {"losses_known": True}, "krum": {"byzantine": 0}, "multi_krum": {"byzantine": 0}}
ELSEWHERE = {"fedavg", "fedadam", "scaffold", "fedprox", "fedavgm"}  # in the tests of whole runs, or with nothing of their own to send
NOT_IN_ROUNDS = {"fedbuff"}


def changes(name: str) -> dict[str, Any]:
    return {
        "strategy": {"name": name, **OPTIONS.get(name, {})},
        "federation": {"weighting": "uniform" if name in UNIFORM else "examples"},
        "conditions": {"dropout": 0.1},
    }


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"brought"} - SEES_SINGLE_UPDATES - AT_HOME - ELSEWHERE - NOT_IN_ROUNDS))
def test_an_algorithm_on_sums_ends_at_the_same_bytes_masked(name: str, tmp_path: Path) -> None:
    plain, masked = (summary(tmp_path, on, **changes(name)) for on in (False, True))
    assert masked["model_sha256"] == plain["model_sha256"] and masked["metrics"] == plain["metrics"]


@pytest.mark.parametrize("name", sorted(SEES_SINGLE_UPDATES))
def test_a_rule_on_single_updates_is_refused_under_masks(name: str) -> None:
    with pytest.raises(ConfigError, match=f"strategy.name = {name} and secure_aggregation.enabled = true exclude each other: it must see"):
        experiment(True, **changes(name))


@pytest.mark.parametrize("name", sorted(AT_HOME))
def test_a_model_whose_parts_stay_at_the_sites_has_nobody_to_measure_it_under_masks(name: str) -> None:
    with pytest.raises(ConfigError, match=r"leave nothing to measure|coordinator has no whole model to test"):
        experiment(True, **changes(name), model={"name": "cnn", "width": 2, "hidden": 8, "norm": "batch"})


def test_asynchronous_rounds_are_refused_under_masks() -> None:
    with pytest.raises(
        ConfigError, match=r"strategy.name = fedbuff and secure_aggregation.enabled = true exclude each other: a masked sum is"
    ):
        experiment(True, strategy={"name": "fedbuff", "buffer": 3, "concurrency": 3}, federation={"weighting": "uniform", "min_replies": 3})


def test_afl_under_masks_is_refused_until_the_sites_agree_that_their_losses_are_known() -> None:
    with pytest.raises(ConfigError, match=r"strategy.name = afl .* holds each site's training loss .* set strategy.losses_known to true"):
        experiment(True, strategy={"name": "afl"}, federation={"weighting": "uniform"})
