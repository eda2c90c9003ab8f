"""One object in several files has one copy; two objects with one UID have none."""

import io

import pydicom
import pytest
from planted import base, file
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from test_burned_in_text import CT, image, needs_ocr, written

from privacy.deidentify.policy import Policy
from privacy.deidentify.run import deidentify
from privacy.deidentify.verification import verify

POLICY = Policy(options=["113107"])


@pytest.fixture
def place(tmp_path):
    """(store, out, site): an empty store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store", tmp_path / "out", tmp_path / "site"


def encoded(source: bytes, syntax: str) -> bytes:
    """The same data set in another transfer syntax."""
    dataset = pydicom.dcmread(io.BytesIO(source))
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset)
    return target.getvalue()


def test_the_same_bytes_and_the_same_object_in_another_encoding_are_duplicates(place):
    store, out, site = place
    source = file(base())
    (store / "a.dcm").write_bytes(source)
    (store / "b.dcm").write_bytes(source)
    (store / "c.dcm").write_bytes(encoded(source, ImplicitVRLittleEndian))
    (store / "d.dcm").write_bytes(encoded(source, ExplicitVRBigEndian))
    (store / "e.dcm").write_bytes(file(base(), preamble=b"II*\0" + bytes(124)))
    summary = deidentify(store, out, site, POLICY, workers=2)
    assert summary.states == {"deidentified": 1, "duplicate": 4, "skipped": 0, "quarantined": 0}
    assert summary.outputs == 1 and not verify(out).findings


def test_two_patients_or_two_pictures_under_one_uid_are_held_back_with_their_duplicates(place):
    store, out, site = place
    source = file(base())
    (store / "a.dcm").write_bytes(source)
    (store / "b.dcm").write_bytes(source)
    (store / "c.dcm").write_bytes(file(base() | {0x00100020: ("LO", b"ANOTHER-ID")}))
    (store / "d.dcm").write_bytes(file(base() | {0x7FE00010: ("OW", bytes(127) + b"\1")}))
    summary = deidentify(store, out, site, POLICY)
    assert summary.codes == {"UID_CONFLICT": 4} and summary.outputs == 0 and not list(out.glob("*/*/*"))


@pytest.mark.parametrize("tag", [0x00100010, 0x00100030, 0x00080050, 0x00081030])
def test_two_objects_that_differ_in_what_is_taken_away_alone_are_two_objects(place, tag):
    store, out, site = place
    (store / "a.dcm").write_bytes(file(base() | {tag: ("LO", b"19510829")}))
    (store / "b.dcm").write_bytes(file(base() | {tag: ("LO", b"19510830")}))
    assert deidentify(store, out, site, POLICY).codes == {"UID_CONFLICT": 2} and not list(out.glob("*/*/*"))


def test_where_the_first_of_two_changes_the_second_gets_the_copy(place):
    store, out, site = place
    (store / "a.dcm").write_bytes(file(base()))
    (store / "b.dcm").write_bytes(file(base()))
    deidentify(store, out, site, POLICY)
    (store / "a.dcm").write_bytes(file(base(2, rows=16)))
    summary = deidentify(store, out, site, POLICY)
    assert summary.states["deidentified"] == 2 == summary.outputs and summary.states["duplicate"] == 0
    assert len(list(out.glob("*/*/*.dcm"))) == 2 and not verify(out).findings


@needs_ocr
def test_an_image_with_a_duplicate_in_a_series_with_text_is_blanked_under_its_name(place):
    store, out, site = place
    for number in (1, 2, 3):
        more = {0x00080018: ("UI", b"1.2.826.0.1.77.%d" % number), 0x00200013: ("IS", b"%d" % number)}
        source = image(written().astype("u2"), CT, elements=more)
        for copy in ("a", "b"):
            (store / f"{number}{copy}.dcm").write_bytes(source)
    summary = deidentify(store, out, site, Policy())
    assert summary.states["deidentified"] == 3 == summary.states["duplicate"] and summary.head["pixels"] == {"blanked": 3}
    for path in out.glob("*/*/*.dcm"):
        assert pydicom.dcmread(path).pixel_array[:30].max() < written()[:30].max()
    assert len(list(out.glob("*/*/*.dcm"))) == 3 and not verify(out).findings


def test_a_file_that_lies_elsewhere_than_before_is_no_duplicate_of_itself(place):
    store, out, site = place
    for number in (1, 2):
        (store / f"{number}.dcm").write_bytes(file(base(number)))
    deidentify(store, out, site, POLICY)
    before = (out / "manifest.jsonl").read_bytes()
    (store / "1.dcm").rename(store / "moved.dcm")
    (store / "copy.dcm").write_bytes(file(base(2)))
    summary = deidentify(store, out, site, POLICY)
    assert (summary.states["deidentified"], summary.states["duplicate"], summary.outputs) == (2, 1, 2) and summary.adds_up
    assert (out / "manifest.jsonl").read_bytes() == before and not verify(out).findings
    assert deidentify(store, out, site, POLICY).fresh == 0


def test_what_cannot_be_made_anew_under_new_rules_is_set_aside(place):
    store, out, site = place
    for number in (1, 2, 3):
        (store / f"{number}.dcm").write_bytes(file(base(number)))
    deidentify(store, out, site, POLICY)
    (store / "1.dcm").unlink()
    (store / "2.dcm").rename(store / "moved.dcm")
    assert deidentify(store, out, site, POLICY).outputs == 3  # what has left the store keeps its copy, under the same rules
    old = {path.read_bytes() for path in out.glob("[!.]*/*/*.dcm")}
    summary = deidentify(store, out, site, Policy(options=["113106"]))
    assert summary.outputs == 2 == len(list(out.glob("[!.]*/*/*.dcm"))) and not verify(out).findings
    aside = [path.read_bytes() for path in (out / ".partial" / "outdated").rglob("*.dcm")]
    assert summary.set_aside == 1 == len(aside) and aside[0] in old
