"""A comparison shows the figures side by side and says what differs between the runs."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from test_report import Page

from fedvision.errors import FedvisionError, RunFolderError
from fedvision.tracking.compare import compare
from fedvision.tracking.folder import RunFolder

Runs = Callable[..., RunFolder]


def printed(value: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(value)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_config_keys_that_differ_are_named_and_no_others(run: Runs) -> None:
    runs = [
        run("a"),
        run("b", strategy={"name": "fedprox", "mu": 0.1}, training={"learning_rate": 0.02}, tracking={"mlflow": None}),
    ]
    comparison = compare([folder.path for folder in runs])
    assert comparison.config == {
        "strategy.name": ["fedavg", "fedprox"],
        "strategy.mu": [None, 0.1],
        "training.learning_rate": [0.05, 0.02],
    }
    assert "differs: training.learning_rate = 0.05 | 0.02" in printed(comparison)
    assert "training.learning_rate" in Page(comparison.page).text
    assert comparison.warnings == []


def test_the_page_has_the_table_curves_and_sites_of_all_runs_and_loads_nothing(run: Runs, tmp_path: Path) -> None:
    runs = [run("fed"), run("pooled", kind="centralised"), run("alone", kind="local")]
    comparison = compare([folder.path for folder in runs])
    assert comparison.page == tmp_path / "compare.html"
    page = Page(comparison.page)
    assert page.sections == ["table", "curves", "sites", "config"]
    assert "The configs are the same." in page.text
    alone = comparison.metrics["alone"]["accuracy, mean of sites"]
    assert f"alone ({alone:.3f})" in page.text  # a level line
    assert all(address.startswith("data:") for address in page.loads)


def test_the_table_fits_in_80_columns_and_takes_names_for_text(run: Runs) -> None:
    runs = [run("federated-on-20-sites"), run("[red]b", kind="centralised"), run("c", kind="local")]
    text = printed(compare([folder.path for folder in runs]).table)
    assert "federated-on-20-sites" in text and "[red]b" in text
    final = runs[0].summary()["metrics"]["accuracy"]
    assert f"{final:.3f}" in text and max(map(len, text.splitlines())) <= 80


def test_runs_in_different_environments_or_unfinished_or_on_other_data_are_warned_of(run: Runs) -> None:
    a, b = run("a"), run("b", sites=10, done=5, status="interrupted")
    b.write_environment(a.environment() | {"cpu": "Intel Xeon"})
    warnings = compare([a.path, b.path]).warnings
    assert warnings[0] == "b is interrupted, not completed: its figures are not final."
    assert "different environments, so that their bytes need not agree: CPU: AMD EPYC 7B13 and Intel Xeon." in warnings[1]
    assert warnings[2] == "In a and b, the sites hold different data."


def test_runs_that_ended_at_the_same_bytes_are_named(run: Runs) -> None:
    a, b, c = run("a"), run("b"), run("c")
    b.write_summary(b.summary() | {"model_sha256": a.summary()["model_sha256"]})
    comparison = compare([a.path, b.path, c.path])
    assert comparison.same == ["a and b ended at the same model, byte for byte."]
    assert comparison.same[0] in Page(comparison.page).text


def test_runs_of_one_name_in_different_folders_are_told_apart(run: Runs, tmp_path: Path) -> None:
    comparison = compare([run("x/run").path, run("y/run").path], tmp_path / "page.html")
    assert list(comparison.metrics) == ["x/run", "y/run"]
    assert comparison.page == tmp_path / "page.html"


def test_hostile_names_are_text_in_a_comparison(run: Runs) -> None:
    hostile = "<script>alert(1)<script>"
    page = Page(compare([run(hostile, names=lambda n: f"<b>{n}").path, run("b").path]).page)
    assert "script" not in page.tags and "b" not in page.tags


def test_less_than_two_runs_or_one_twice_or_no_folder_for_the_page_are_errors(run: Runs, tmp_path: Path) -> None:
    one, other = run("a").path, run("b").path
    with pytest.raises(FedvisionError, match="needs at least 2 runs, and 1 was given"):
        compare([one])
    with pytest.raises(RunFolderError, match="is given twice"):
        compare([one, one])
    with pytest.raises(RunFolderError, match="there is no folder"):
        compare([one, other], tmp_path / "nowhere" / "page.html")
