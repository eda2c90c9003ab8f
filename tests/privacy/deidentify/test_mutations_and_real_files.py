"""Mutated headers and the real files of installed packages: each ends in a state, and no output fails the check."""

import importlib.util
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from mutations import mutants
from planted import base, dataset, file, plant
from planted_elsewhere import SYNTAXES
from planted_elsewhere import plant as plant_elsewhere

from privacy.deidentify import selfcheck
from privacy.deidentify.reader import PIXEL_DATA, parse
from privacy.deidentify.states import CODES, SKIPS

SEEDS = [
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "rtstruct.dcm",
    "JPEG2000.dcm",
    "liver_1frame.dcm",
]


def package_files(package: str, folder: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    paths = sorted((Path(spec.origin).parent / folder).rglob("*"))
    return [path for path in paths if path.is_file() and path.suffix not in (".py", ".pyc", ".txt", ".json", ".zip")]


def seeds() -> list[bytes]:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    real = [(folder / name).read_bytes() for name in SEEDS if (folder / name).exists()]
    return [file(base()), plant()[0], *(plant_elsewhere(syntax)[0] for syntax in SYNTAXES), *real]


def test_of_two_thousand_mutants_none_crashes_and_no_output_holds_what_it_must_not(bench):
    place = bench(options=["113107"], head_volumes="allow", head_volumes_reason="test")
    counts: Counter[str] = Counter()
    for mutant in mutants(seeds(), 2000):
        outcome, written = place.run(mutant)
        counts[outcome.code or str(outcome.state)] += 1
        if written:
            pixels = parse(written).top.get(PIXEL_DATA, (0, b"", len(written)))[2]
            assert b"smith^jane" not in written[:pixels].lower()
            (place.folder / ".partial" / outcome.partial).unlink()
    assert counts["deidentified"] > 150 and len(counts) > 8
    assert set(counts) <= {*CODES, *SKIPS, "deidentified"}
    assert not counts["SELF_CHECK"]


@pytest.mark.parametrize("package", ["pydicom", "data_store", "pynetdicom", "nibabel"])
def test_every_real_file_ends_in_a_state_and_none_is_held_back_by_a_false_match(bench, package):
    place = bench(options=["113107"], head_volumes="allow", head_volumes_reason="test")
    paths = package_files(package, "data" if package in ("pydicom", "data_store") else "tests")
    if not paths:
        pytest.skip(f"{package} is not installed, or came without its test files")
    counts: Counter[str] = Counter()
    for path in paths:
        if path.stat().st_size > 4_000_000:
            continue
        outcome = place.deidentifier(str(path).encode())
        counts[outcome.code or str(outcome.state)] += 1
        if outcome.partial:
            written = place.folder / ".partial" / outcome.partial
            again = written.read_bytes()
            sop_class = parse(again).text(0x00080016)
            selfcheck.check_form(again, place.deidentifier.policy, sop_class, tuple(outcome.row["codes"]), parse(again).syntax)
            written.unlink()
    assert sum(counts.values()) > 0 and counts["SELF_CHECK"] == 0, counts
    assert set(counts) <= {*CODES, *SKIPS, "deidentified"}


def test_a_leak_that_the_cleaner_would_let_through_is_held_back_by_the_check(bench, monkeypatch):
    from privacy.deidentify import attributes, values

    monkeypatch.setitem(attributes.BY_KEYWORD, "PatientID", values.same_date)  # a broken rule: passes a date as it is
    outcome, written = bench(options=["113107"]).run(file(base() | {0x00100020: ("LO", b"19510829")}))
    assert (outcome.code, written) == ("SELF_CHECK", b"") and "(0010,0020)" in outcome.note
    assert "19510829" not in outcome.note


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00080090, "PN", b"Jones^Mary"),
        (0x00091001, "LO", b"private"),
        (0x00080060, "CS", b"SMITH"),
        (0x00180050, "DS", b"Smith"),
        (0x0020000D, "UI", b"1.2.826.0.1.77.1000"),
        (0x00080020, "DA", b"20200131"),
        (0x00189999, "LO", b"unknown"),
    ],
)
def test_the_check_finds_what_is_put_into_a_finished_file(bench, tag, vr, value):
    place = bench()
    source = file(base())
    _, written = place.run(source)
    keeper = place.deidentifier
    expected = selfcheck.Expected(keeper.key, keeper.policy, "1.2.840.10008.5.1.4.1.1.2", ("113100", "113107"), "1.2.840.10008.1.2.1")
    selfcheck.check(source, written, expected)
    parsed = parse(written)
    parts = {t: (v.decode(), written[a:b]) for t, v, a, b, items in parsed.elements if items is None}
    marks = written[parsed.top[0x00120064][2] - 12 : parsed.top[0x00120064][3]]
    head = written[: parsed.elements[0][2] - 8]

    def again(elements):
        encoded = [(t, dataset({t: entry})) for t, entry in elements.items()]
        return head + b"".join(part for _, part in sorted([*encoded, (0x00120064, marks)]))

    selfcheck.check(source, again(parts), expected)
    with pytest.raises(selfcheck.Leak):
        selfcheck.check(source, again(parts | {tag: (vr, value)}), expected)
