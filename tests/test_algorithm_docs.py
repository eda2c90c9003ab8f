"""docs/algorithms.md says of every algorithm what it is, and its tables are those that the kept runs make."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fedvision.algorithms import ALGORITHMS
from fedvision.experiment import Experiment
from fedvision.schema import validate

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compare() -> Any:
    spec = importlib.util.spec_from_file_location("compare_algorithms", ROOT / "benchmarks" / "compare_algorithms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_algorithm_is_on_the_page_and_was_compared_or_is_fedbn_whose_claim_needs_cameras(compare: Any) -> None:
    named = {name.strip() for line in PAGE.splitlines() if line.startswith("| ") for name in line.split("|")[1].split(",")}
    assert set(ALGORITHMS) - {"brought"} <= named
    compared = {name for problem in compare.PROBLEMS.values() for name in problem.algorithms}
    assert set(ALGORITHMS) - compared == {"fedbn", "brought"}


def test_the_tables_are_made_of_the_runs_that_were_kept(compare: Any) -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "compare_algorithms.json").read_text())
    assert kept["measured_on"] == list(compare.MEASURED_ON) and not set(kept["tuned_on"]) & set(kept["measured_on"])
    for name in compare.PROBLEMS:
        assert compare.markdown(kept["tables"][name]) in PAGE, (
            f"write the table of {name} out again: python benchmarks/compare_algorithms.py"
        )


def test_every_setting_that_is_compared_is_valid_and_each_algorithm_had_as_many_to_choose_from(compare: Any) -> None:
    for problem in compare.PROBLEMS.values():
        grids = {name: list(compare.grid(compare.merged(problem.setting, block))) for name, block in problem.algorithms.items()}
        assert len({len(grid) for grid in grids.values()}) == 1
        for grid in grids.values():
            for settings in grid:
                validate(Experiment, compare.merged(compare.COMMON, settings), "compared")


def test_an_interval_is_students_over_the_seeds(compare: Any) -> None:
    mean, half = compare.interval([0.1 * n for n in range(10)])
    assert mean == pytest.approx(0.45) and half == pytest.approx(2.262 * 0.30277 / 10**0.5, rel=1e-3)
