"""Nothing that is planted anywhere in a file is left in its copy."""

import pytest
from planted import base, file, items, left, plant, rows


@pytest.mark.parametrize(
    "options",
    [["113107"], [], ["113106", "113111"], ["113105", "113107", "113108", "113112"]],
    ids=["modified dates", "basic profile", "full dates and safe private", "descriptors, characteristics, institution"],
)
def test_of_a_value_in_every_row_of_the_table_at_two_depths_and_elsewhere_none_is_left(bench, options):
    source, markers = plant()
    outcome, written = bench(options=options).run(source)
    assert outcome.state == "deidentified", (outcome.code, outcome.note)
    assert len(markers) > 1000 and set(left(markers, source)) == set(markers)
    kept = left(markers, written)
    dates = {f"top {tag:08X}" for tag, vr in rows() if vr in ("DA", "TM", "DT")}  # 113106 keeps them, as it says
    numbers = {"top 00101020", "top 00101030"}  # 113108 keeps size and weight
    allowed = (dates if "113106" in options else set()) | (numbers if "113108" in options else set())
    assert set(kept) <= allowed


def test_a_name_in_a_wrong_vr_is_not_kept(bench):
    elements = base() | {
        0x00100010: ("DS", b"SMITH^JANE"),
        0x00180060: ("DS", b"SMITH"),
        0x00180015: ("CS", b"SMITH JANE"),
    }
    outcome, written = bench().run(file(elements))
    assert outcome.state == "deidentified" and b"SMITH" not in written


def test_a_name_under_the_root_of_the_standards_uids_is_not_kept(bench):
    elements = base() | {0x00081140: ("SQ", items(b"".join([b"\x08\0\x55\x11UI\x1a\x00" + b"1.2.840.10008.SMITH.JANE.1"])))}
    outcome, written = bench().run(file(elements))
    assert outcome.state == "deidentified" and b"SMITH" not in written


def test_an_unknown_code_goes_and_a_known_one_keeps_the_standards_meaning_not_the_files(bench):
    from planted import dataset

    known = {0x00080100: ("SH", b"T-62000"), 0x00080102: ("SH", b"SRT"), 0x00080104: ("LO", b"Liver of Mrs Smith")}
    unknown = {0x00080100: ("SH", b"SMITH1951"), 0x00080102: ("SH", b"99LOCAL"), 0x00080104: ("LO", b"Jane Smith")}
    elements = base() | {0x00082218: ("SQ", items(dataset(known), dataset(unknown)))}
    _, written = bench().run(file(elements))
    assert b"Liver structure" in written and b"Smith" not in written and b"SMITH" not in written


def test_text_that_follows_the_pixels_does_not_pass(bench):
    for tail in (b"Jane Smith 1951", b"\0" * 64 + b"Smith", b"\xfc\xff\xfc\xffOB\0\0\x06\0\0\0SMITH "):
        outcome, written = bench().run(file(base(), tail=tail))
        assert outcome.state == "deidentified" and outcome.row["elements"].get("tail", 0) + outcome.row["elements"].get("removed", 0) > 0
        assert b"mith" not in written.lower()


def test_text_where_numbers_have_to_be_holds_the_file_back_and_too_many_numbers_go(bench):
    outcome, written = bench().run(file(base() | {0x00280106: ("LO", b"SMITH^JANE")}))
    assert (outcome.code, written) == ("BAD_VR", b"")
    outcome, written = bench().run(file(base() | {0x00280106: ("US", b"SMITH^JANE")}))
    assert outcome.state == "deidentified" and b"SMITH" not in written
