"""The progress shows the round, the sites and the main metric, and costs nothing."""

import io
import re
import time

import pytest
from finished_runs import record_of

from fedvision.tracking.progress import Progress

SITES = [f"s{number}" for number in range(10)]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_each_round_is_one_plain_line() -> None:
    stream = io.StringIO()
    with Progress("accuracy", stream=stream) as progress:
        progress.start(3)
        for number in range(2):
            progress.round_started(number, 5)
            for _ in range(5):
                progress.site_done()
            progress.round_finished(record_of(number, 3, SITES, 5))
        progress.message("[a] message of the run")
    first, second, message = stream.getvalue().splitlines()
    accuracy = record_of(0, 3, SITES, 5)["evaluation"]["server"]["test"]["accuracy"]
    assert first.startswith(f"round 1/3  accuracy {accuracy:.3f} (server test)  training loss 2.365  5/5 answered  ")
    assert second.startswith("round 2/3  ") and second.endswith(" left")
    assert message == "[a] message of the run"
    assert "\x1b" not in stream.getvalue()


def test_a_round_says_who_was_declined_refused_missing_and_that_it_was_skipped() -> None:
    stream = io.StringIO()
    record = {
        "round": 11, "status": "skipped", "asked": ["a", "b", "c", "d"], "answered": ["a"],
        "declined": {"b": "out_of_range: x"}, "refused": {"c": "not_finite: y"}, "missing": {"d": "late"},
        "evaluation": None,
    }  # fmt: skip
    with Progress(stream=stream) as progress:
        progress.start(12, first_round=11)
        progress.round_finished(record)
    assert stream.getvalue() == "round 12/12  1/4 answered (1 declined, 1 refused, 1 missing)  skipped\n"


def test_a_private_run_that_records_no_sites_has_a_line_too() -> None:
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        progress.start(1)
        progress.round_finished({"round": 0, "evaluation": {"server": {"test": {"dice": 0.5}}, "sites": None}})
    assert stream.getvalue() == "round 1/1  dice 0.500 (server test)\n"


def test_on_a_terminal_the_line_lives_and_is_gone_at_the_end() -> None:
    stream = Terminal()
    progress = Progress("accuracy", stream=stream)
    with progress:
        progress.start(30, first_round=10)
        progress.round_started(10, 4)
        progress.site_done()
        progress.site_done()
        assert progress._line().plain.startswith("round 11/30 ━━━━━━━━━━━━━━━━━━━━━━━━  2/4 sites")
        progress.site_done()
        progress.site_done()
        progress.round_finished(record_of(10, 30, SITES, 4))
        assert "(server test)" in progress._line().plain and progress._line().plain.endswith(" left")
        progress.message("kept")
    assert "kept" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in stream.getvalue()  # erased, and the cursor shown again


def test_on_a_narrow_terminal_the_live_line_is_cut_and_never_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    with Progress("accuracy", stream=stream) as progress:
        progress.start(30)
        progress.round_started(0, 4)
        progress.round_finished(record_of(0, 30, SITES, 4))
        progress.message("a message that is longer than the forty columns of it")
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    lines = re.split(r"[\r\n]+", drawn)
    assert max(map(len, lines)) <= 40 and any(line.endswith("…") for line in lines)


def test_quiet_prints_nothing() -> None:
    stream = Terminal()
    with Progress(quiet=True, stream=stream) as progress:
        progress.start(1)
        progress.round_started(0, 1)
        progress.site_done()
        progress.round_finished(record_of(0, 1, SITES, 4))
        progress.message("nothing")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["plain", "terminal"])
def test_a_site_costs_less_than_two_microseconds(stream: io.StringIO) -> None:
    with Progress(stream=stream) as progress:
        progress.start(1)
        progress.round_started(0, 100_000)
        began = time.perf_counter()
        for _ in range(100_000):
            progress.site_done()
        assert (time.perf_counter() - began) / 100_000 < 2e-6
