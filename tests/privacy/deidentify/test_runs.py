"""A run over a store: every input in one state, nothing twice, nothing half-written, whatever stops it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planted import base, file
from typer.testing import CliRunner

from fedvision.errors import ConfigError
from privacy.deidentify.commands import app
from privacy.deidentify.instance import Outcome
from privacy.deidentify.policy import Policy
from privacy.deidentify.run import deidentify
from privacy.deidentify.states import State
from privacy.deidentify.verification import verify
from privacy.deidentify.workers import Pool

POLICY = Policy(options=["113107"])


@pytest.fixture
def place(tmp_path):
    """(store, out, site): three files of two patients in the store."""
    store = tmp_path / "store"
    for number, patient in enumerate([b"SMITH-1", b"SMITH-1", b"JONES-2"]):
        folder = store / patient.decode()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"SMITH_JANE_{number}.dcm").write_bytes(file(base(number) | {0x00100020: ("LO", patient)}))
    return store, tmp_path / "out", tmp_path / "site"


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("*/*/*.dcm"))}


def test_every_input_is_in_one_state_and_nothing_outside_the_vault_names_a_patient_or_a_path(place):
    store, out, site = place
    (store / "SMITH-1" / "copy.dcm").write_bytes((store / "SMITH-1" / "SMITH_JANE_0.dcm").read_bytes())
    (store / "letter.txt").write_text("Dear Mrs Smith,\n")
    (store / "cut.dcm").write_bytes(file(base(9))[:-9])
    (store / "link").symlink_to(store / "cut.dcm")
    summary = deidentify(store, out, site, POLICY, workers=2)
    assert summary.states == {"deidentified": 3, "duplicate": 1, "skipped": 2, "quarantined": 1} and summary.adds_up
    assert summary.codes == {"TRUNCATED": 1, "document": 1, "symlink": 1} and summary.inputs == 7
    everything = b"".join(path.read_bytes() + str(path).encode() for path in out.rglob("*") if path.is_file())
    vault = b"".join(path.read_bytes() for path in site.glob("vault*"))
    for word in (b"SMITH", b"JANE", b"JONES", b"Planted"):
        assert word not in everything and word not in vault


def test_two_patients_get_two_folders_and_a_second_run_does_nothing(place):
    store, out, site = place
    deidentify(store, out, site, POLICY)
    before = files(out)
    again = deidentify(store, out, site, POLICY)
    assert len({name.split("/")[0] for name in before}) == 2
    assert again.fresh == 0 and again.states["deidentified"] == 3 and files(out) == before


def test_only_what_is_new_or_changed_is_done_again(place):
    store, out, site = place
    deidentify(store, out, site, POLICY)
    (store / "new.dcm").write_bytes(file(base(10)))
    (store / "JONES-2" / "SMITH_JANE_2.dcm").write_bytes(file(base(2) | {0x00100020: ("LO", b"MILLER")}))
    summary = deidentify(store, out, site, POLICY)
    assert summary.fresh == 2 and summary.outputs == 4 and len(files(out)) == 4  # the copy under the old patient is gone
    assert not verify(out).findings


def test_two_files_with_one_uid_and_other_contents_are_both_held_back_also_over_runs(place):
    store, out, site = place
    deidentify(store, out, site, POLICY)
    (store / "other.dcm").write_bytes(file(base(2) | {0x00100020: ("LO", b"JONES-2"), 0x00180050: ("DS", b"9")}))
    summary = deidentify(store, out, site, POLICY)
    assert summary.codes == {"UID_CONFLICT": 2} and summary.outputs == 2 == len(files(out))
    assert not verify(out).findings


def test_the_number_of_workers_changes_no_byte(place):
    store, out, site = place
    deidentify(store, out, site, POLICY, workers=1)
    deidentify(store, out.parent / "out2", site, POLICY, workers=3)
    assert files(out) == files(out.parent / "out2")
    assert (out / "manifest.jsonl").read_bytes() == (out.parent / "out2" / "manifest.jsonl").read_bytes()


def test_another_rule_set_does_everything_again(place):
    store, out, site = place
    deidentify(store, out, site, POLICY)
    summary = deidentify(store, out, site, Policy(options=["113106"]))
    assert summary.fresh == 3 and summary.states["deidentified"] == 3 and not verify(out).findings


def test_an_inbox_leaves_fresh_files_for_later(place):
    store, out, site = place
    old = time.time() - 100
    os.utime(store / "SMITH-1" / "SMITH_JANE_0.dcm", (old, old))
    summary = deidentify(store, out, site, POLICY, settle=50)
    assert (summary.inputs, summary.waiting, summary.outputs) == (1, 2, 1)


def test_a_full_disk_ends_the_run_and_blames_no_file(place, tmp_path):
    store, out, site = place
    (store / "large.dcm").write_bytes(file(base(9, rows=40_000)))
    (tmp_path / "policy.yaml").write_text("options: ['113107']\n")
    command = [sys.executable, "-m", "privacy.deidentify", "deidentify", str(store), str(out), "--site", str(site)]
    command += ["--policy", str(tmp_path / "policy.yaml"), "--workers", "1"]
    room = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); os.execv(sys.argv[1], sys.argv[1:])"
    ended = subprocess.run([sys.executable, "-c", room, *command], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.startswith("DataError: ") and "File too large; make room" in ended.stderr
    summary = deidentify(store, out, site, POLICY)  # with room again
    assert summary.states["deidentified"] == 4 == summary.outputs and not summary.codes and not verify(out).findings


@pytest.mark.parametrize("which", ["out in store", "site in out", "foreign out"])
def test_folders_that_must_be_apart_are_refused(place, which):
    store, out, site = place
    (out / "thesis.doc").parent.mkdir()
    (out / "thesis.doc").write_text("mine")
    pairs = {"out in store": (store / "out", site), "site in out": (out, out / "site"), "foreign out": (out, site)}
    with pytest.raises(ConfigError, match=r"keep originals|no run wrote"):
        deidentify(store, *pairs[which], POLICY)


def test_after_kill_9_a_second_run_gives_what_an_undisturbed_one_gives(tmp_path):
    store, site = tmp_path / "store", tmp_path / "site"
    store.mkdir()
    for number in range(300):
        (store / f"{number:03}.dcm").write_bytes(file(base(number, rows=512)))
    deidentify(store, tmp_path / "whole", site, POLICY)
    arguments = [
        sys.executable,
        "-m",
        "privacy.deidentify",
        "deidentify",
        str(store),
        str(tmp_path / "out"),
        "--site",
        str(site),
        "--workers",
        "2",
    ]
    (tmp_path / "policy.yaml").write_text("options: ['113107']\n")
    arguments += ["--policy", str(tmp_path / "policy.yaml")]
    for written in (0, 20, 120):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + 60
        while len(list((tmp_path / "out").rglob("*.dcm"))) <= written and time.monotonic() < until:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)  # not waited for yet, so that its number is still its own
        assert process.wait() == -signal.SIGKILL, "it was to be killed at work"
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert len({(tmp_path / out / "summary.json").read_bytes() for out in ("out", "whole")}) == 1
    assert not verify(tmp_path / "out").findings and not list((tmp_path / "out" / ".partial").glob("*.part"))


def test_when_the_parent_is_killed_its_children_end_too(place, tmp_path):
    store, out, site = place
    for number in range(200):
        (store / f"{number}.dcm").write_bytes(file(base(number + 50, rows=2048)))
    (tmp_path / "policy.yaml").write_text("options: ['113107']\n")
    arguments = [sys.executable, "-m", "privacy.deidentify", "deidentify", str(store), str(out), "--site", str(site)]
    arguments += ["--workers", "2", "--policy", str(tmp_path / "policy.yaml")]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children: list[str] = []
    for _ in range(300):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if len(children) == 2:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while any(map(_alive, children)) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(children) == 2 and not [child for child in children if _alive(child)]


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def sleepy(path: bytes, thoroughly: bool) -> Outcome:
    if path == b"is blocked":
        signal.pause()
    if path == b"stands still":  # for longer than the limit, as on a machine that gives it no time
        time.sleep(1.5)
    while path == b"computes":
        pass
    end = time.process_time() + 0.7
    while path == b"uses 0.7 s of CPU time" and time.process_time() < end:
        pass
    if path == b"dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if path == b"eats":
        bytearray(4 << 30)
    if path == b"raises":
        raise ValueError("SMITH^JANE")
    return Outcome(State.DEIDENTIFIED, name=path.decode())


def answered(paths: list[bytes], **limits) -> list[tuple[bytes, str]]:
    """(path, code), from two children with a second of CPU time and 1 GiB a file."""
    with Pool(lambda: sleepy, 2, 1, 1024, **limits) as pool:
        return [(path, outcome.code) for path, outcome in pool.outcomes(((path, False), path) for path in paths)]


def test_a_file_that_computes_for_ever_dies_or_raises_costs_itself_alone_and_the_order_stays(capfd):
    paths = [b"a", b"computes", b"b", b"dies", b"c", b"raises", b"eats", *(b"%d" % n for n in range(40))]
    outcomes = answered(paths, patience=600)
    assert [path for path, _ in outcomes] == paths
    codes = {path: code for path, code in outcomes if code}
    assert codes == {b"computes": "TIMEOUT", b"dies": "CRASHED", b"raises": "CRASHED", b"eats": "CRASHED"}
    assert "SMITH" not in "".join(capfd.readouterr())


def test_a_file_that_gets_no_processor_for_longer_than_its_limit_of_cpu_time_passes():
    assert answered([b"stands still", b"a"], patience=600) == [(b"stands still", ""), (b"a", "")]


def test_a_file_that_is_blocked_for_ever_ends_by_the_clock():
    assert answered([b"is blocked"], patience=1) == [(b"is blocked", "TIMEOUT")]


def test_every_file_has_the_whole_limit_for_itself():
    assert answered([b"uses 0.7 s of CPU time"] * 2, patience=600) == [(b"uses 0.7 s of CPU time", "")] * 2


def test_who_is_behind_a_pseudonym_is_told_with_a_reason_and_recorded(place):
    store, out, site = place
    deidentify(store, out, site, POLICY)
    name = next(iter(files(out)))
    pseudonym, instance = name.split("/")[0], name.rsplit("/", 1)[1].removesuffix(".dcm")
    runner = CliRunner()
    found = json.loads(runner.invoke(app, ["reidentify", pseudonym, "--site", str(site), "--reason", "finding to report"]).output)
    assert found[0]["patient"] in ("SMITH-1", "JONES-2")
    found = json.loads(runner.invoke(app, ["reidentify", instance, "--site", str(site), "--reason", "finding"]).output)
    assert found[0]["instance"].startswith("1.2.826") and found[0]["path"].endswith(".dcm")
    assert runner.invoke(app, ["reidentify", pseudonym, "--site", str(site), "--reason", " "]).exit_code == 2
    with sqlite3.connect(site / "vault.sqlite") as db:
        assert db.execute("SELECT target, reason FROM accesses").fetchall() == [
            (pseudonym, "finding to report"),
            (instance, "finding"),
        ]


def test_a_subject_stays_the_same_when_the_key_is_rotated(place):
    from privacy.deidentify.vault import Vault, site_key

    store, out, site = place
    deidentify(store, out, site, POLICY)
    old = set(files(out))
    vault = Vault(site, site_key(site, create=False))
    before = vault.subjects()
    vault.rotate()
    vault.close()
    summary = deidentify(store, out, site, POLICY)
    after = Vault(site, site_key(site, create=False)).subjects()
    assert summary.fresh == 3 and not old & set(files(out)) and len(files(out)) == 3
    assert set(after.values()) == set(before.values()) and len(after) == 4 and before.items() <= after.items()


def test_verify_finds_a_changed_an_added_a_lost_and_an_identified_file(place):
    store, out, site = place
    deidentify(store, out, site, POLICY)
    assert CliRunner().invoke(app, ["verify", str(out)]).exit_code == 0
    first, second, third = (out / name for name in files(out))
    first.write_bytes(first.read_bytes()[:-1] + b"\1")
    second.unlink()
    (out / "SMITH.dcm").write_bytes(b"x")
    result = CliRunner().invoke(app, ["verify", str(out), "--json"])
    found = {finding["what"] for finding in json.loads(result.output)["findings"]}
    assert result.exit_code == 1 and "SMITH" not in result.output and len(found) == 3
    assert third.exists()


def test_inspect_tells_what_becomes_of_each_element_and_shows_values_only_when_asked(place):
    store, _, _ = place
    path = str(store / "SMITH-1" / "SMITH_JANE_0.dcm")
    quiet = CliRunner().invoke(app, ["inspect", path, "--json"]).output
    lines = {line["attribute"]: line["becomes"] for line in json.loads(quiet)}
    assert lines["PatientID"] == "replaced" and lines["SliceThickness"] == "kept" and "SMITH-1" not in quiet
    assert "SMITH-1" in CliRunner().invoke(app, ["inspect", path, "--json", "--values"]).output


def test_the_report_is_a_page_without_a_patient(place):
    store, out, site = place
    deidentify(store, out, site, POLICY)
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0
    page = (out / "report.html").read_text()
    assert "113107" in page and "SMITH" not in page and "<td>CT</td>" in page and "are held back" in page
    assert not verify(out).findings
