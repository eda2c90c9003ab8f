"""Seeds of one config are drawn as their mean and spread, by hand and in a comparison."""

from collections.abc import Callable

import pytest
from test_report import Page

from fedvision.tracking.compare import compare
from fedvision.tracking.folder import RunFolder
from fedvision.tracking.page import Run
from fedvision.tracking.seeds import mean_curve, over, seeds_of, seeds_table, spread

Runs = Callable[..., RunFolder]


def test_the_mean_curve_and_its_band_by_hand() -> None:
    curve = mean_curve("a", [[(1, 0.2), (2, 0.4), (3, 0.9)], [(1, 0.4), (2, 0.8)]], 3)
    assert [at for at, _ in curve.points] == [1, 2], "round 3 is not known of both"
    assert [value for _, value in curve.points] == pytest.approx([0.3, 0.6])
    low, high = curve.band[1][1:]
    assert (low, high) == pytest.approx((0.6 - spread([0.4, 0.8]), 0.6 + spread([0.4, 0.8])))
    assert spread([0.4, 0.8]) == pytest.approx(0.08**0.5)
    assert mean_curve("none", [], 0).points == []


def test_a_table_over_seeds_has_mean_and_spread_of_what_is_known() -> None:
    table = seeds_table({"a": [{"test": 0.9, "worst": 0.5}, {"test": 0.8}], "b": [{"test": 0.7}]})
    assert table.head == ["config", "seeds", "test", "worst"]
    assert table.body == [["a", "2", over([0.9, 0.8]), "0.500"], ["b", "1", "0.700", "–"]]


def test_seeds_of_a_config_are_found_and_are_called_what_their_names_share(run: Runs) -> None:
    made = [
        ("fast/seed-1", {"seed": 1}),
        ("fast/seed-2", {"seed": 2}),
        ("slow-s3", {"seed": 3}),
        ("slow-s4", {"seed": 4}),
        ("other", {"seed": 5}),
    ]
    rates = {"fast": 0.5, "slow": 0.05, "other": 0.2}
    runs = {}
    for name, values in made:
        rate = next(rate for start, rate in rates.items() if name.startswith(start))
        runs[name] = Run.read(run(name.replace("/", "_"), training={"learning_rate": rate}, engine={"workers": 1}, **values).path)
    assert seeds_of(runs) == {"fast, 2 seeds ± sd": ["fast/seed-1", "fast/seed-2"], "slow, 2 seeds ± sd": ["slow-s3", "slow-s4"]}


def test_the_same_seed_twice_is_no_spread(run: Runs) -> None:
    assert seeds_of({name: Run.read(run(name, seed=1).path) for name in ("a", "b")}) == {}


def test_a_comparison_shows_seeds_as_one_and_each_run_in_its_table(run: Runs) -> None:
    folders = [run(f"fed-{seed}", seed=seed) for seed in (1, 2, 3)] + [run("pooled", kind="centralised")]
    comparison = compare([folder.path for folder in folders])
    (called,) = comparison.seeds
    assert called == "fed, 3 seeds ± sd" and "±" in comparison.seeds[called]["server test"]
    text = Page(comparison.page).text
    assert "fed, 3 seeds ± sd" in text and "fed-2" in text and "stands first" in text


def test_runs_without_seeds_are_compared_as_before(run: Runs) -> None:
    comparison = compare([run("a").path, run("b").path])
    assert comparison.seeds == {} and "± sd" not in Page(comparison.page).text
