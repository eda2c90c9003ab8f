"""The report tells every run, whatever became of it, in one safe and self-contained page."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from finished_runs import make_run, partition_of

from fedvision.errors import RunFolderError
from fedvision.tracking.folder import RunFolder
from fedvision.tracking.report import draw_partition, draw_report

Runs = Callable[..., RunFolder]
VOID = {"meta", "link", "br", "img", "hr", "input"}
EVERY_SECTION = ["curves", "sites", "confusion", "partition", "participation", "time", "again", "environment", "config"]


class Page(HTMLParser):
    """A page as a browser reads it: its sections, texts, loaded addresses; AssertionError where tags do not match."""

    def __init__(self, path: Path):
        super().__init__()
        self.sections: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self._open: list[str] = []
        self._texts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self._open.append(tag)
        values = dict(attributes)
        if tag == "section":
            self.sections.append(values["id"] or "")
        self.loads += [value or "" for name, value in attributes if name in {"src", "href", "xlink:href", "data", "srcset"}]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attributes if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self._texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._texts).split())


def test_a_completed_run_has_every_section_and_a_verdict(run: Runs) -> None:
    folder = run()
    page = Page(draw_report(folder.path))
    assert page.sections == EVERY_SECTION
    accuracy = folder.rounds()[-1]["evaluation"]["server"]["test"]["accuracy"]
    assert "FedAvg trained the model cnn on mnist5k, held by 20 sites (dirichlet, α = 0.5), for 30 rounds in 39.0 s." in page.text
    assert f"It reached accuracy {accuracy:.3f} (server test)." in page.text
    assert f"fedvision simulate {folder.path}/config.yaml" in page.text
    assert folder.summary()["model_sha256"] in page.text
    assert "not_finite: conv1.weight holds 3 NaN" in page.text  # who was refused, and why
    assert "2 corrupt images were skipped" in page.text and "Skipped for want of replies: round 12." in page.text
    assert "learning_rate: 0.05" in page.text and "AMD EPYC 7B13" in page.text
    assert 'role="alert"' not in page.source


def test_the_page_loads_nothing(run: Runs) -> None:
    for folder in (run("few"), run("many", sites=100, rounds=6)):
        page = Page(draw_report(folder.path))
        assert all(address.startswith("data:") for address in page.loads)
        assert "script" not in page.tags and "iframe" not in page.tags
        assert not re.search(r"url\(|@import|https?://", page.source)


def test_names_from_files_are_text_and_never_markup(run: Runs) -> None:
    hostile = "<script>alert(1)</script>"
    folder = run(sites=8, rounds=3, names=lambda n: f"{hostile}{n}", classes=["<b>cat", "dog\"'&", hostile])
    folder.write_summary(folder.summary() | {"notes": [hostile], "error": hostile, "status": "failed", "name": hostile})
    record = folder.rounds()[-1]
    folder.append_round(record | {"round": 3, "refused": {f"{hostile}0": f"wrong_names: {hostile}"}})
    page = Page(draw_report(folder.path, {hostile: {"accuracy": 0.9}}))
    assert "script" not in page.tags and "b" not in page.tags
    assert hostile not in page.source and "&lt;script&gt;alert(1)" in page.source
    assert hostile in page.text  # as text


@pytest.mark.parametrize(
    ("status", "says"),
    [("failed", "This run failed."), ("interrupted", "interrupted"), ("running", "still running, or was killed")],
)
def test_a_run_that_did_not_complete_says_so_and_how_to_go_on(run: Runs, status: str, says: str) -> None:
    folder = run(status=status, done=13)
    page = Page(draw_report(folder.path))
    assert 'role="alert"' in page.source and says in page.text and "It did 13 of 30 rounds." in page.text
    assert f"--resume {folder.path}" in page.text
    assert ("min_replies is 5" in page.text) == (status == "failed")


def test_a_run_that_was_killed_before_its_first_round_has_a_report(run: Runs, tmp_path: Path) -> None:
    folder = RunFolder.create(run().experiment(), "simulate", tmp_path / "early")
    page = Page(draw_report(folder.path))
    assert page.sections == ["again", "environment", "config"]
    assert "It did 0 of 30 rounds." in page.text


def test_one_round_draws_points_where_there_is_no_line_yet(run: Runs) -> None:
    page = Page(draw_report(run(done=1, status="interrupted").path))
    assert "curves" in page.sections and "<circle" in page.source
    assert "NaN" not in re.sub("holds 3 NaN", "", page.source) and "inf " not in page.source


def test_a_run_without_evaluation_says_so_and_shows_the_rest(run: Runs) -> None:
    page = Page(draw_report(run(evaluated=False).path))
    assert "No evaluation was recorded" in page.text
    assert [section for section in EVERY_SECTION if section not in page.sections] == ["sites", "confusion"]


def test_a_local_run_shows_its_sites_and_no_rounds(run: Runs) -> None:
    page = Page(draw_report(run(kind="local").path))
    assert "at each of 20 sites alone" in page.text
    assert "sites" in page.sections and "curves" not in page.sections and "participation" not in page.sections


def test_a_centralised_run_speaks_of_epochs_and_has_no_participation(run: Runs) -> None:
    page = Page(draw_report(run(kind="centralised").path))
    assert "pooled in one place, for 30 epochs" in page.text and "participation" not in page.sections


def test_a_private_run_that_records_no_sites_is_drawn(run: Runs) -> None:
    folder = run(rounds=3)
    kept = [
        {key: value for key, value in record.items() if key not in {"asked", "answered", "missing", "declined", "refused"}}
        for record in folder.rounds()
    ]
    folder.truncate_rounds(0)
    for record in kept:
        folder.append_round(record)
    assert "does not record who took part" in Page(draw_report(folder.path)).text


def test_figures_that_are_not_finite_leave_gaps_and_a_note(run: Runs) -> None:
    folder = run(rounds=5)
    records = folder.rounds()
    folder.truncate_rounds(0)
    for record in records:
        if record["round"] == 2:
            record["train"]["loss"] = float("nan")
            record["evaluation"]["server"]["test"]["accuracy"] = float("nan")
            record["evaluation"]["sites"]["per_site"]["site-001"]["loss"] = float("inf")
        folder.append_round(record)
    page = Page(draw_report(folder.path))
    assert "The training loss was not a finite number in round 3." in page.text


def test_metrics_of_any_task_are_drawn_the_main_one_first(run: Runs) -> None:
    folder = run(rounds=2, evaluation={"best": "f1", "server": {"test": 0.2}})
    records = folder.rounds()
    folder.truncate_rounds(0)
    for record in records:
        record["evaluation"] = {
            "server": {"validation": None, "test": {"hausdorff_distance": 4.0, "f1": 0.7}},
            "sites": None,
        }
        folder.append_round(record)
    folder.write_summary(folder.summary() | {"metrics": {"f1": 0.7}, "sites": {}})
    page = Page(draw_report(folder.path))
    captions = re.findall(r"<figcaption>([^<]*)", page.source)
    assert captions[:2] == ["f1", "hausdorff distance"]
    assert "It reached f1 0.700 (server test)." in page.text


def test_a_thousand_sites_are_a_histogram_and_the_ten_worst_in_a_small_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", sites=1000, rounds=4)
    path = draw_report(folder.path)
    page = Page(path)
    assert "the ten worst sites" in page.text and "1,000 sites train on" in page.text
    assert path.stat().st_size < 300_000
    worst = min(folder.summary()["sites"].items(), key=lambda item: item[1]["accuracy"])[0]
    assert f"at the worst ({worst})" in page.text


def test_baselines_are_drawn_as_level_lines(run: Runs) -> None:
    page = Page(draw_report(run().path, {"centralised": {"accuracy": 0.984}, "local mean": {"accuracy": 0.81}}))
    assert "centralised (0.984)" in page.text and "local mean (0.810)" in page.text


def test_a_report_of_a_run_of_an_older_version_is_drawn_though_its_keys_are_unknown(run: Runs) -> None:
    folder = run()
    config = folder.path / "config.yaml"
    config.write_text(config.read_text() + "forgotten_key: 1\n")
    assert "forgotten_key" in Page(draw_report(folder.path)).text


def test_a_partition_alone_is_a_page_of_its_own(tmp_path: Path) -> None:
    partition = partition_of(["north", "<b>south"], ["cat", "dog"], camera=True)
    page = Page(draw_partition(partition, tmp_path / "partition.html", "my data"))
    total = sum(sum(held["train"]) for held in partition["sites"].values())
    assert page.sections == ["partition"] and "b" not in page.tags
    assert f"2 sites train on {total:,} images" in page.text and "Camera of each site" in page.text


def test_what_is_no_run_folder_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"it has no config\.yaml and no summary\.json"):
        draw_report(tmp_path)
