"""Copies are objects of their class, as an independent verifier sees it, and references between them lead somewhere."""

import io
import re
import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest
from planted import base, dataset, file, items

FILES = [
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "JPEG2000.dcm",
    "rtstruct.dcm",
]
FILES += ["rtplan.dcm", "rtdose.dcm", "liver_1frame.dcm", "emri_small.dcm", "SC_rgb.dcm", "examples_palette.dcm"]


def errors(path: Path) -> set[str]:
    """The kinds of errors that dciodvfy finds, without values and positions."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, timeout=60)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    plain = (re.sub(r"<[0-9.]*>|\[\d+\]|0x[0-9a-f]+|\(\d+\)|= \d+", "", line) for line in lines if line.startswith("Error"))
    return set(plain)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian package dicom3tools)")
@pytest.mark.parametrize("name", FILES)
def test_a_copy_has_no_error_that_the_original_had_not(bench, tmp_path, name):
    original = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not original.exists():
        pytest.skip(f"this pydicom comes without {name}")
    outcome, written = bench(head_volumes="allow", head_volumes_reason="test").run(original.read_bytes())
    assert outcome.state == "deidentified", (outcome.code, outcome.note)
    (tmp_path / "copy.dcm").write_bytes(written)
    assert errors(tmp_path / "copy.dcm") <= errors(original)


def test_a_structure_set_points_to_the_copies_of_its_images_and_keeps_its_contours(bench):
    place = bench()
    image = pydicom.dcmread(io.BytesIO(place.run(file(base(1)))[1]))
    reference = {0x00081150: ("UI", b"1.2.840.10008.5.1.4.1.1.2"), 0x00081155: ("UI", b"1.2.826.0.1.77.1")}
    contour = {
        0x30060016: ("SQ", items(dataset(reference))),
        0x30060042: ("CS", b"CLOSED_PLANAR"),
        0x30060046: ("IS", b"3"),
        0x30060050: ("DS", b"0\\0\\1\\10.5\\0\\1\\5\\-7.25\\1"),
    }
    rois = [{0x30060022: ("IS", b"%d" % number), 0x30060026: ("LO", name)} for number, name in ((1, b"Lung_L"), (2, b"Mrs Smith GTV"))]
    elements = {tag: value for tag, value in base(7).items() if tag >> 16 not in (0x28, 0x7FE0, 0x18)} | {
        0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.481.3"),
        0x00080060: ("CS", b"RTSTRUCT"),
        0x30060002: ("SH", b"Smith plan"),
        0x30060020: ("SQ", items(*(dataset(roi) for roi in rois))),
        0x30060039: ("SQ", items(dataset({0x30060040: ("SQ", items(dataset(contour))), 0x30060084: ("IS", b"1")}))),
    }
    outcome, written = place.run(file(elements))
    found = pydicom.dcmread(io.BytesIO(written))
    assert outcome.state == "deidentified" and b"Smith" not in written
    assert [roi.ROIName for roi in found.StructureSetROISequence] == ["Lung_L", "ROI 2"]
    copied = found.ROIContourSequence[0].ContourSequence[0]
    assert copied.ContourImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert [float(number) for number in copied.ContourData] == [0, 0, 1, 10.5, 0, 1, 5, -7.25, 1]


def test_a_sequence_that_has_to_be_there_stays_without_what_was_in_it(bench):
    concept = dataset({0x0040A040: ("CS", b"TEXT"), 0x0040A160: ("UT", b"Smith after surgery")})
    sop_class = {0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.1.1"), 0x00080060: ("CS", b"DX")}
    outcome, written = bench().run(file(base() | sop_class | {0x00400555: ("SQ", items(concept))}))
    found = pydicom.dcmread(io.BytesIO(written))
    assert outcome.state == "deidentified" and list(found.AcquisitionContextSequence) == [] and b"Smith" not in written
