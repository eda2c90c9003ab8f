"""Nothing that is planted where the standard's table does not look is left either, nor said anywhere."""

import json
import subprocess
import sys

import pytest
from mutations import mutants
from planted import left
from planted_elsewhere import BIG, DEFLATED, EXPLICIT, IMPLICIT, NAMES, plant

from privacy.deidentify.reader import PIXEL_DATA, parse

SYNTAX = {"explicit": EXPLICIT, "implicit": IMPLICIT, "big endian": BIG, "deflated": DEFLATED}


@pytest.mark.parametrize("syntax", SYNTAX)
@pytest.mark.parametrize("options", [["113107"], ["113105", "113107", "113109", "113111", "113112"]], ids=["dates", "more"])
def test_in_private_unknown_open_ended_repeating_and_command_elements_none_is_left(bench, syntax, options):
    place = bench(options=options)
    for names in NAMES:
        source, markers = plant(SYNTAX[syntax], names)
        outcome, written = place.run(source)
        assert outcome.state == "deidentified", (names, outcome.code, outcome.note)
        assert len(markers) > 140 and (syntax == "deflated" or set(left(markers, source)) == set(markers))
        assert left(markers, written) == [], names


def test_of_mutants_of_such_files_none_crashes_and_none_keeps_a_marker(bench):
    place = bench(options=["113107"])
    planted = [plant(syntax) for syntax in (EXPLICIT, IMPLICIT, BIG)]
    whole = 0
    for mutant in mutants([source for source, _ in planted], 1500, seed=3):
        outcome, written = place.run(mutant)
        assert outcome.code != "SELF_CHECK", outcome.note
        whole += bool(written)
        header = (
            written[: parse(written).top.get(PIXEL_DATA, (0, b"", len(written)))[2]] if written else b""
        )  # a mutant may have a name as pixels
        assert [left(markers, header) for _, markers in planted] == [[]] * 3
    assert whole > 80


def test_no_word_of_a_file_is_in_what_the_commands_print_and_write(tmp_path):
    store, words = tmp_path / "store", set()
    (store / "Hidden_Jane").mkdir(parents=True)
    for number, (syntax, names) in enumerate(zip(SYNTAX.values(), NAMES, strict=False)):
        source, markers = plant(syntax, names, b"1.2.826.0.1.88.%d" % number)
        words |= set(markers.values())
        (store / "Hidden_Jane" / f"Hidden_{number}.dcm").write_bytes(source)
        (store / f"Hidden_cut_{number}.dcm").write_bytes(source[: len(source) // 2])
    (tmp_path / "policy.yaml").write_text("options: ['113107']\n")
    common = [sys.executable, "-m", "privacy.deidentify"]
    out, site, policy = str(tmp_path / "out"), str(tmp_path / "site"), str(tmp_path / "policy.yaml")
    said = b""
    for command in (
        ["deidentify", str(store), out, "--site", site, "--policy", policy, "--json"],
        ["deidentify", str(store), out, "--site", site, "--policy", policy],
        ["verify", out, "--json"],
        ["verify", out],
        ["report", out],
        ["inspect", str(store / "Hidden_Jane" / "Hidden_0.dcm"), "--policy", policy, "--json"],
        ["inspect", str(store / "Hidden_cut_1.dcm"), "--policy", policy],
    ):
        done = subprocess.run([*common, *command], capture_output=True, timeout=120)
        said += done.stdout + done.stderr
        if command[0] == "deidentify" and "--json" in command:
            assert json.loads(done.stdout)["states"]["deidentified"] == 4 and json.loads(done.stdout)["adds_up"]
    for path in [*(tmp_path / "out").rglob("*"), *(tmp_path / "site").rglob("*")]:
        said += str(path.relative_to(tmp_path)).encode() + (path.read_bytes() if path.is_file() else b"")
    folded = said.replace(str(store).encode(), b"").lower()
    assert [word for word in {*words, b"ELSEWHERE-ID", b"Elsewhere^Patient", b"Hidden_"} if word.lower() in folded] == []
