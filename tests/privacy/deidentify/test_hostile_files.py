"""Each bad input ends in its code, in little memory and time."""

import os
import socket
import struct
import time
import zlib

import pytest
from planted import CT, base, dataset, element, file, items

from privacy.deidentify import burned_in, intake, reader
from privacy.deidentify.intake import walk
from privacy.deidentify.states import Refused, Skipped


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = element(0x00082218, "SQ", items(inner))
    return inner


def deflated(body: bytes) -> bytes:
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    meta = element(0x00020002, "UI", CT.encode()) + element(0x00020010, "UI", b"1.2.840.10008.1.2.1.99")
    return bytes(128) + b"DICM" + meta + machine.compress(body) + machine.flush()


GOOD = file(base())
START = GOOD.index(b"\x08\0\x08\0CS")
PIXELS = base()[0x7FE00010][1]

CASES = {
    "no byte": (b"", "EMPTY"),
    "random bytes after the mark": (bytes(128) + b"DICM" + bytes(range(256)) * 4, "BAD_META"),
    "cut in the pixels": (GOOD[:-40], "TRUNCATED"),
    "cut in the header": (GOOD[:400], "TRUNCATED"),
    "random bytes": (bytes(range(256)) * 8, "NOT_DICOM"),
    "a second patient name after the pixels": (GOOD + element(0x00100010, "PN", b"Smith^Jane"), "DUPLICATE_TAG"),
    "a tag out of order": (file(base(), tail=element(0x00100030, "DA", b"19510829")), "ORDER"),
    "an illegal VR": (GOOD.replace(b"CS\x02\0CT", b"Z?\x02\0CT"), "BAD_VR"),
    "sequences 100 deep": (GOOD[: GOOD.index(b"\x08\0\x20\0DA")] + nested(100), "DEPTH"),
    "sequences 1,500 deep": (GOOD[: GOOD.index(b"\x08\0\x20\0DA")] + nested(1500), "DEPTH"),
    "a length of 4 GiB": (
        GOOD[:START] + struct.pack("<HH2s2xI", 0x0008, 0x0005, b"UT", 0xFFFFFFF0) + b"SMITH",
        "TRUNCATED",
    ),
    "an undefined length of text": (
        GOOD[:START] + struct.pack("<HH2s2xI", 0x0008, 0x0005, b"UT", 0xFFFFFFFF) + b"SMITH",
        "BAD_LENGTH",
    ),
    "too few pixels": (file(base() | {0x7FE00010: ("OW", PIXELS[:-2])}), "PIXEL_LENGTH"),
    "too many pixels": (file(base() | {0x7FE00010: ("OW", PIXELS + b"SMITH JANE")}), "PIXEL_LENGTH"),
    "65535 squared, 1000 frames": (
        file(base() | {0x00280008: ("IS", b"1000"), 0x00280010: ("US", b"\xff\xff"), 0x00280011: ("US", b"\xff\xff")}),
        "PIXEL_BOMB",
    ),
    "no patient ID": (file(base() | {0x00100020: ("LO", b" ")}), "MISSING_ID"),
    "no study": (file({tag: value for tag, value in base().items() if tag != 0x0020000D}), "MISSING_ID"),
    "two instances in one UID": (file(base() | {0x00080018: ("UI", b"1.2.3\\1.2.4")}), "BAD_UID"),
    "a structured report": (file(base() | {0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.88.11")}), "UNSUPPORTED_SOP"),
    "an encapsulated PDF": (file(base() | {0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.104.1")}), "UNSUPPORTED_SOP"),
    "a private class": (file(base() | {0x00080016: ("UI", b"1.3.12.2.1107.5.9.1")}), "UNSUPPORTED_SOP"),
    "an unknown transfer syntax": (
        GOOD.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0"),
        "UNSUPPORTED_SYNTAX",
    ),
    "a deflated bomb": (deflated(bytes(300 << 20)), "BOMB"),
    "deflated, cut": (deflated(dataset(base()))[:-20], "TRUNCATED"),
    "a head": (file(base() | {0x00180015: ("CS", b"HEAD")}), "HEAD_VOLUME"),
    "a head by its description": (file(base() | {0x0008103E: ("LO", b"sT1W brain 3D")}), "HEAD_VOLUME"),
    "a zip": (b"PK\x03\x04" + bytes(200), "archive"),
    "a gzip": (b"\x1f\x8b" + bytes(200), "archive"),
    "a PDF": (b"%PDF-1.4 Jane Smith", "document"),
    "a letter": (b"Dear Mrs Smith,\n" * 20, "document"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "image"),
    "a DICOMDIR": (GOOD.replace(CT.encode() + b"\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0"), "dicomdir"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_ends_in_its_code(bench, name):
    source, code = CASES[name]
    begin = time.process_time()
    outcome, written = bench().run(source)
    assert (outcome.code, written) == (code, b"")
    assert time.process_time() - begin < 2
    assert outcome.state == ("skipped" if code.islower() else "quarantined")


def test_a_data_set_without_preamble_is_read_where_it_parses_to_its_last_byte(bench):
    outcome, _ = bench().run(dataset(base()))
    assert outcome.state == "deidentified" and outcome.row["warnings"] == ["NO_PREAMBLE"]
    assert bench().run(dataset(base())[:-2])[0].code == "NOT_DICOM"


def test_a_deflated_file_is_written_in_the_clear_with_the_same_pixels(bench):
    outcome, written = bench().run(deflated(dataset(base())))
    assert outcome.state == "deidentified" and PIXELS in written and b"1.2.840.10008.1.2.1\0" in written[:400]


def test_a_million_elements_are_the_limit(monkeypatch):
    monkeypatch.setattr(reader, "MAX_ELEMENTS", 1000)
    many = b"".join(element(0x00091000 + number, "LO", b"x ") for number in range(1001))
    with pytest.raises(Refused, match="TOO_MANY_ELEMENTS"):
        reader.parse(file({}) + many)


def test_links_fifos_and_what_is_still_being_received_are_named_and_not_read(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "SMITH.dcm").write_bytes(GOOD)
    store = tmp_path / "store"
    store.mkdir()
    (store / "link").symlink_to(tmp_path / "outside" / "SMITH.dcm")
    (store / "loop").symlink_to(store)
    (store / "outside").symlink_to(tmp_path / "outside")
    os.mkfifo(store / "fifo")
    (store / "real").write_bytes(GOOD)
    (store / ".0123456789abcdef.part").write_bytes(GOOD)
    kinds = {os.path.basename(item.path): item.kind for item in walk(os.fsencode(store))}
    assert kinds.pop(b".0123456789abcdef.part") == "partial"
    assert kinds == {b"fifo": "special", b"link": "symlink", b"loop": "symlink", b"outside": "symlink", b"real": ""}


def test_sockets_and_devices_are_named_and_not_opened(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        kinds = {os.path.basename(item.path): item.kind for item in walk(os.fsencode(tmp_path))}
        assert kinds == {b"socket": "special"}
    assert [item.kind for item in walk(b"/dev") if item.path == b"/dev/zero"] == ["special"]
    with pytest.raises(Skipped):
        intake.read(b"/dev/zero", 1 << 20)


def test_a_folder_that_was_replaced_by_a_link_meanwhile_is_not_read_through(bench, tmp_path):
    (tmp_path / "store" / "folder").mkdir(parents=True)
    (tmp_path / "store" / "folder" / "1.dcm").write_bytes(GOOD)
    (item,) = walk(os.fsencode(tmp_path / "store"))
    place = bench()
    assert place.deidentifier(item.path).state == "deidentified"
    (tmp_path / "store" / "folder").rename(tmp_path / "elsewhere")
    assert place.deidentifier(item.path).code == "UNREADABLE"
    (tmp_path / "store" / "folder").symlink_to(tmp_path / "elsewhere")
    assert place.deidentifier(item.path).code == "symlink"


def test_a_file_that_may_not_be_read_is_held_back(bench, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(GOOD)

    def refuse(*given):
        raise PermissionError(13, "SMITH")

    monkeypatch.setattr(os, "open", refuse)  # root may read everything, so that a mode would not do
    with pytest.raises(Refused, match="UNREADABLE") as refused:
        intake.read(os.fsencode(tmp_path / "file"), 1 << 20)
    assert "SMITH" not in str(refused.value)


@pytest.mark.parametrize("rows", [2000, 60_000])
def test_pixels_that_unfold_to_far_more_than_the_file_end_in_a_code(bench, rows):
    if not burned_in.available():
        pytest.skip("rapidocr is not installed")
    segment = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 2000  # RLE: 256,000 zeros, and no more
    items_ = b"\xfe\xff\0\xe0\0\0\0\0" + b"\xfe\xff\0\xe0" + struct.pack("<I", len(segment)) + segment + b"\xfe\xff\xdd\xe0\0\0\0\0"
    size = ("US", struct.pack("<H", rows))
    elements = base() | {0x00280010: size, 0x00280011: size, 0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.6.1")}
    elements |= {tag: ("US", b"\x08\0") for tag in (0x00280100, 0x00280101)} | {0x00280102: ("US", b"\x07\0")}
    pixels = struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + items_
    source = file({tag: value for tag, value in elements.items() if tag != 0x7FE00010}, tail=pixels)
    source = source.replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x14\x001.2.840.10008.1.2.5\0", 1)
    policy = {"options": ["113101"], "max_megapixels": 100}
    assert bench(**policy).run(source)[0].code == ("PIXEL_BOMB" if rows == 60_000 else "PIXELS_UNREADABLE")


LIES = {  # where a length lies -> the code
    "an item past its sequence": (element(0x00082218, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 400) + bytes(8)), "BAD_LENGTH"),
    "a sequence past the file": (struct.pack("<HH2s2xI", 0x0008, 0x2218, b"SQ", 0x7FFFFFFF), "TRUNCATED"),
    "an item that ends within an element": (
        element(0x00082218, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 6) + b"\x08\0\0\1SH"),
        "TRUNCATED",
    ),
    "an open sequence that never ends": (struct.pack("<HH2s2xI", 0x0008, 0x2218, b"SQ", 0xFFFFFFFF) + items(b""), "BAD_LENGTH"),
    "an end of an item outside of one": (struct.pack("<HHI", 0xFFFE, 0xE00D, 0), "BAD_LENGTH"),
    "10,000 deep": (nested(1200), "DEPTH"),
    "10,000 deep and open": (struct.pack("<HH2s2xIHHI", 0x0008, 0x2218, b"SQ", 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * 10_000, "DEPTH"),
    "10,000 deep in an unknown VR": (
        struct.pack("<HH2s2xI", 0x0008, 0x2218, b"UN", 0xFFFFFFFF)
        + struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0xFFFFFFFF, 0x0008, 0x2218, 0xFFFFFFFF) * 10_000,
        "DEPTH",
    ),
    "a million empty items": (element(0x00082218, "SQ", items(b"") * 1_000_000), "TOO_MANY_ELEMENTS"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_length_that_lies_ends_in_its_code(bench, name):
    lie, code = LIES[name]
    start = GOOD[: GOOD.index(b"\x10\0\x10\0PN")]
    begin = time.process_time()
    outcome, written = bench().run(start + lie + GOOD[len(start) :])
    assert (outcome.code, written) == (code, b"") and time.process_time() - begin < 5


def test_a_fifo_that_took_a_files_place_is_not_waited_for(bench, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert bench().deidentifier(str(tmp_path / "fifo").encode()).code == "special"


def test_a_file_over_the_limit_is_not_read(bench, tmp_path):
    with open(tmp_path / "big", "wb") as big:
        big.truncate(3 << 20)
    assert bench(max_file_mib=2).deidentifier(str(tmp_path / "big").encode()).code == "TOO_LARGE"


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_changes_while_it_is_read_gets_one_more_chance(bench, tmp_path, monkeypatch, times):
    path = tmp_path / "growing"
    path.write_bytes(GOOD)
    read, left = intake._all, [times]

    def slow(descriptor: int, size: int) -> bytes:
        found = read(descriptor, size)
        if left[0]:
            left[0] -= 1
            os.utime(path, ns=(0, left[0] + 1))  # somebody touches it meanwhile
        return found

    monkeypatch.setattr(intake, "_all", slow)
    outcome = bench().deidentifier(str(path).encode())
    assert outcome.code == ("" if times == 1 else "CHANGED_DURING_READ")
