"""A CT slice with a value of its own planted in every row of PS3.15 Table E.1-1 and wherever else identities hide.

Written by hand, byte by byte, so that it can hold what no library would write.  `plant()` gives the file and its
markers; `left(markers, written)` the names of those whose bytes are still there.
"""

import struct
from datetime import date, timedelta

from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag

from privacy.deidentify.profile import table

CT = "1.2.840.10008.5.1.4.1.1.2"
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}


def element(tag: int, vr: str, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<2xI", len(value)) if vr in LONG else struct.pack("<H", len(value))) + value


def dataset(elements: dict[int, tuple[str, bytes]]) -> bytes:
    return b"".join(element(tag, vr, value) for tag, (vr, value) in sorted(elements.items()))


def items(*inner: bytes) -> bytes:
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in inner)


def base(number: int = 1, rows: int = 8) -> dict[int, tuple[str, bytes]]:
    """A plain CT slice of 8 × 8 pixels."""
    return {
        0x00080008: ("CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        0x00080016: ("UI", CT.encode()),
        0x00080018: ("UI", b"1.2.826.0.1.77.%d" % number),
        0x00080020: ("DA", b"20200131"),
        0x00080030: ("TM", b"101500"),
        0x00080060: ("CS", b"CT"),
        0x00080070: ("LO", b"SIEMENS"),
        0x00100010: ("PN", b"Planted^Patient"),
        0x00100020: ("LO", b"PLANTED-ID"),
        0x00180050: ("DS", b"2.5"),
        0x0020000D: ("UI", b"1.2.826.0.1.77.1000"),
        0x0020000E: ("UI", b"1.2.826.0.1.77.2000"),
        0x00200013: ("IS", b"%d" % number),
        0x00280002: ("US", b"\1\0"),
        0x00280004: ("CS", b"MONOCHROME2"),
        0x00280010: ("US", struct.pack("<H", rows)),
        0x00280011: ("US", b"\x08\0"),
        0x00280100: ("US", b"\x10\0"),
        0x00280101: ("US", b"\x10\0"),
        0x00280102: ("US", b"\x0f\0"),
        0x00280103: ("US", b"\0\0"),
        0x7FE00010: ("OW", bytes(range(128)) * (rows // 8)),
    }


def file(elements: dict[int, tuple[str, bytes]], *, preamble: bytes = bytes(128), tail: bytes = b"", meta: bytes = b"") -> bytes:
    """A file in explicit VR little endian."""
    instance = elements.get(0x00080018, ("UI", b"1.2"))[1]
    sop_class = elements.get(0x00080016, ("UI", CT.encode()))[1]
    group = (
        element(0x00020001, "OB", b"\0\1")
        + element(0x00020002, "UI", sop_class)
        + element(0x00020003, "UI", instance)
        + element(0x00020010, "UI", b"1.2.840.10008.1.2.1")
        + element(0x00020012, "UI", b"1.2.826.0.1.77")
        + meta
    )
    return preamble + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(group))) + group + dataset(elements) + tail


def value(vr: str, number: int) -> bytes | None:
    """A value of its own for a VR, None for those that are too short to have one."""
    if vr == "DA":  # further apart than any shift of dates, so that no shifted one meets another
        return (date(1, 1, 2) + timedelta(days=3651 * number % 3_000_000)).strftime("%Y%m%d").rjust(8, "0").encode()
    texts = {
        "PN": f"Canary{number:05}^Planted{number:05}",
        "TM": f"{number % 24:02}{number % 60:02}07.9{number:05}",
        "DT": f"2011{number % 12 + 1:02}10{number % 24:02}3456.8{number:05}",
        "UI": f"1.2.826.0.1.77.66{number:05}",
        "IS": f"73{number:06}",
        "DS": f"73{number:06}.5",
        "AS": None,
        "AT": None,
        "US": None,
        "SS": None,
    }
    binary = {"UL": 4, "SL": 4, "FL": 4, "FD": 8, "OF": 4, "OL": 4, "OD": 8, "OV": 8, "SV": 8, "UV": 8}
    if vr in binary:
        return (0x5A6B000000000000 + number * 7919).to_bytes(8, "big")[-binary[vr] :] if vr in ("UL", "SL") else b"CN%06d" % number
    text = texts.get(vr, f"CANARY{number:05}" if vr in ("AE", "CS", "SH") else f"Canary value {number:05} of the patient")
    return text.encode() if text is not None else None


def rows() -> list[tuple[int, str]]:
    """(tag, VR) of every row of the table that is no sequence; LO where the library's dictionary does not know it."""
    found = []
    for text in table():
        if "X" in text.replace("XX", "X")[4:] or "XX" in text or text.startswith("0002"):
            continue
        tag = int(text, 16)
        try:
            vr = dictionary_VR(Tag(tag))[:2]
        except KeyError:
            vr = "LO"
        if vr != "SQ" and tag not in (0x7FE00010, 0xFFFCFFFC):
            found.append((tag, vr))
    return found


def plant() -> tuple[bytes, dict[str, bytes]]:
    """A file, and its markers: where -> bytes."""
    markers: dict[str, bytes] = {}
    number = 0

    def mark(where: str, vr: str) -> bytes:
        nonlocal number
        number += 1
        found = value(vr, number)
        if found is None:
            return {"AS": b"077Y"}.get(vr, b"\1\0\1\0")[: 4 if vr in ("AS", "AT") else 2]
        markers[where] = found
        return found

    top = base()
    deepest: dict[int, tuple[str, bytes]] = {}
    for tag, vr in rows():
        if tag >> 16 == 4:
            continue
        top[tag] = (vr, mark(f"top {tag:08X}", vr))
        deepest[tag] = (vr, mark(f"nested {tag:08X}", vr))
    for tag, vr in ((0x00080104, "LO"), (0x00189999, "LO"), (0x00400FFE, "ST"), (0x60000022, "LO"), (0x60001500, "LO")):
        top[tag] = (vr, mark(f"unlisted {tag:08X}", vr))
    for tag, vr in (
        (0x00080070, "LO"),
        (0x00200011, "IS"),
        (0x00180015, "CS"),
        (0x00081090, "LO"),
        (0x00181210, "SH"),
        (0x00180022, "CS"),
    ):
        top[tag] = (vr, mark(f"kept text {tag:08X}", vr) if vr != "IS" else b"4")
    second = {0x00080104: ("LO", mark("nested twice", "LO")), 0x00400260: ("SQ", items(dataset(deepest)))}
    top[0x00400275] = ("SQ", items(dataset({0x0040A170: ("SQ", items(dataset(second)))})))
    top[0x00081140] = (
        "SQ",
        items(dataset({0x0008103F: ("SQ", items(dataset(deepest)))})),
    )  # inside a sequence that is kept
    nested_private = {
        0x00290010: ("LO", b"SIEMENS CSA HEADER"),
        0x00291010: ("PN", mark("private in a sequence", "PN")),
    }
    top |= {
        0x00290010: ("LO", b"SIEMENS CSA HEADER"),
        0x00291010: ("OB", mark("CSA header", "OB")),
        0x00330010: ("LO", mark("private creator", "LO")),
        0x00331013: ("PN", mark("private name", "PN")),
        0x00331014: ("SQ", items(dataset(nested_private))),
        0x50003000: ("OW", mark("curve", "LO")),
        0x60003000: ("OW", mark("overlay", "LO")),
        0x60004000: ("LT", mark("overlay comments", "LT")),
    }
    top[0x00041130] = ("CS", mark("group 0004", "CS"))
    meta = element(0x00020013, "SH", mark("meta version", "SH")) + element(0x00020016, "AE", mark("meta title", "AE"))
    meta += element(0x00020100, "UI", mark("meta private creator", "UI")) + element(0x00020102, "OB", mark("meta private", "OB"))
    preamble = mark("preamble", "LO").ljust(128, b"\0")
    tail = element(0xFFFCFFFC, "OB", mark("trailing padding", "OB"))
    return file(top, preamble=preamble, tail=tail, meta=meta), markers


def left(markers: dict[str, bytes], written: bytes) -> list[str]:
    folded = written.lower()
    return [where for where, marker in markers.items() if marker.lower() in folded]
