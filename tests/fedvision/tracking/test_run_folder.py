"""The run folder keeps every finished round, whatever happens in the middle of one."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from finished_runs import experiment_of, record_of

from fedvision.errors import RunFolderError
from fedvision.tracking.environment import cpu_model
from fedvision.tracking.folder import RunFolder, differences, environment, write_atomically

SITES = ["a", "b", "c", "d"]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(experiment_of(4, 3), "simulate", tmp_path / "run")


def test_config_rounds_and_summary_come_back_as_they_were_written(folder: RunFolder) -> None:
    records = [record_of(number, 3, SITES, 2) for number in range(3)]
    for record in records:
        folder.append_round(record)
    folder.write_summary({"name": "x", "metrics": {"accuracy": 0.5}})
    folder.write_environment({"threads": 1})

    again = RunFolder.open(folder.path)
    assert again.rounds() == records
    assert again.experiment() == experiment_of(4, 3)
    assert again.summary() == {"name": "x", "metrics": {"accuracy": 0.5}}
    assert again.environment() == {"threads": 1}
    assert again.partition() == {}  # not written yet


def test_a_new_folder_says_that_its_run_is_running_and_has_an_id_of_its_own(tmp_path: Path) -> None:
    one, other = (RunFolder.create(experiment_of(), "local", tmp_path / name) for name in ("1", "2"))
    assert (one.kind, one.summary()["status"], one.summary()["rounds_planned"]) == ("local", "running", 30)
    assert one.run != other.run


def test_a_torn_last_line_is_no_round_and_the_next_append_takes_its_place(folder: RunFolder) -> None:
    folder.append_round({"round": 0})
    with open(folder.path / "rounds.jsonl", "ab") as file:
        file.write(b'{"round": 1, "asked": ["a", "b')
    assert folder.rounds() == [{"round": 0}]
    folder.append_round({"round": 1})
    assert (folder.path / "rounds.jsonl").read_bytes() == b'{"round": 0}\n{"round": 1}\n'


def test_a_torn_line_longer_than_a_block_is_dropped_too(folder: RunFolder) -> None:
    folder.append_round({"round": 0})
    with open(folder.path / "rounds.jsonl", "ab") as file:
        file.write(b"x" * 200_000)
    folder.append_round({"round": 1})
    assert folder.rounds() == [{"round": 0}, {"round": 1}]


def test_a_spoilt_line_in_the_middle_is_an_error_that_names_it(folder: RunFolder) -> None:
    (folder.path / "rounds.jsonl").write_bytes(b'{"round": 0}\n{"rou\n{"round": 2}\n')
    with pytest.raises(RunFolderError, match=r"rounds\.jsonl, line 2: not JSON"):
        folder.rounds()


def test_truncating_keeps_the_rounds_before_and_leaves_no_other_file(folder: RunFolder) -> None:
    for number in range(5):
        folder.append_round({"round": number})
    before = sorted(os.listdir(folder.path))
    folder.truncate_rounds(3)
    assert [record["round"] for record in folder.rounds()] == [0, 1, 2]
    folder.write_summary(folder.summary())
    assert sorted(os.listdir(folder.path)) == before


def test_a_number_that_is_not_finite_is_kept_as_null_and_numpys_as_plain_ones(folder: RunFolder) -> None:
    folder.append_round({"round": np.int64(0), "train": {"loss": float("nan")}, "norms": np.array([1.5, np.inf])})
    line = (folder.path / "rounds.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"round": 0, "train": {"loss": None}, "norms": [1.5, None]}


def test_the_log_has_a_time_before_each_text_and_keeps_long_texts_together(folder: RunFolder) -> None:
    folder.log("round 1 begins")
    folder.log("an error\nof two lines\n")
    first, second, third = (folder.path / "run.log").read_text().splitlines()
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:.]+\+00:00 round 1 begins", first)
    assert second.endswith(" an error") and third == "    of two lines"


def test_what_is_no_json_is_refused_before_anything_is_written(folder: RunFolder) -> None:
    with pytest.raises(TypeError, match="cannot be kept as JSON"):
        folder.append_round({"round": 0, "site": object()})
    assert folder.rounds() == []


def test_a_folder_that_is_not_empty_is_refused_naming_the_ways_out(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"not empty.*--resume .*run, or give another folder with --out"):
        RunFolder.create(experiment_of(), "simulate", folder.path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds thesis\.txt\): give another folder with --out"):
        RunFolder.create(experiment_of(), "simulate", other)
    assert os.listdir(other) == ["thesis.txt"]


def test_without_out_two_runs_of_one_second_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {RunFolder.create(experiment_of(), "simulate").path for _ in range(3)}
    assert len(paths) == 3
    assert all(path.parent == Path("runs") and path.name.startswith("mnist-dirichlet-simulate-") for path in paths)


def test_a_folder_that_cannot_be_written_is_an_error_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot be written: Not a directory; give a folder that you may write with --out"):
        RunFolder.create(experiment_of(), "simulate", tmp_path / "file" / "run")


def test_a_disk_without_the_room_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"needs about 4,398,046,511,104 MiB and its disk has [\d,]+ MiB free; make room"):
        RunFolder.create(experiment_of(), "simulate", tmp_path / "run", needed_bytes=2**62)
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_folder_is_refused_naming_what_is_missing(tmp_path: Path, folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="there is no run folder"):
        RunFolder.open(tmp_path / "nowhere")
    (folder.path / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=r"is not a run folder: it has no summary\.json$"):
        RunFolder.open(folder.path)


def test_a_disk_that_fills_up_in_a_round_loses_none_before_it(folder: RunFolder) -> None:
    folder.append_round({"round": 0})
    summary = folder.summary()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the limit is an error of the write, like a full disk
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(RunFolderError, match=r"the rounds before 1 are kept"):
            folder.append_round({"round": 1, "asked": ["site"] * 1000})
        with pytest.raises(RunFolderError, match=r"summary\.json cannot be written"):
            folder.write_summary({"notes": ["x" * 4000]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (folder.path / "rounds.jsonl").read_bytes() == b'{"round": 0}\n'
    assert folder.summary() == summary
    assert not [name for name in os.listdir(folder.path) if name.startswith(".")]


WRITES_UNTIL_KILLED = """
import sys
from pathlib import Path
from fedvision.tracking.folder import RunFolder
folder, number = RunFolder(Path(sys.argv[1])), 0
while True:
    folder.append_round({"round": number, "asked": ["site"] * 20000})
    print(number, flush=True)
    number += 1
"""


def test_after_kill_9_every_round_that_was_reported_is_there(folder: RunFolder) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITES_UNTIL_KILLED, folder.path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reported = [int(process.stdout.readline()) for _ in range(5)]
        process.kill()
        reported += [int(line) for line in process.stdout]
    rounds = [record["round"] for record in folder.rounds()]
    assert rounds[: len(reported)] == reported
    assert len(rounds) <= len(reported) + 1  # one may be on disk and not yet reported


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "summary.json").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(RunFolderError, match=r"summary\.json cannot be written"):
        write_atomically(tmp_path / "summary.json", b"{}")
    assert os.listdir(tmp_path) == ["summary.json"]


def test_the_environment_says_what_a_run_ran_on() -> None:
    values = environment(experiment_of())
    assert values["versions"]["torch"].startswith("2.")
    assert values["device"] == "cpu" or values["device"].startswith("cuda (")
    assert values["threads"] == 1 and values["cores"] >= 1 and len(values["source_sha256"]) == 64
    assert differences(values, json.loads(json.dumps(values))) == []


def test_the_cpu_is_read_from_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t: avx2\n")
    assert cpu_model(tmp_path / "cpuinfo") == "AMD EPYC 7B13"


def test_differences_name_what_could_change_bytes_and_nothing_else(run: Callable[..., RunFolder]) -> None:
    a = run().environment()
    b = a | {"cpu": "Intel Xeon", "cores": 64, "versions": a["versions"] | {"torch": "2.11.0", "ray": "2.50.0"}}
    assert differences(a, b) == ["CPU: AMD EPYC 7B13 and Intel Xeon", "torch: 2.12.1 and 2.11.0"]
