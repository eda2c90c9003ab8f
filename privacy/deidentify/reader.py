"""A strict reader of DICOM files: where each element lies, at every depth, or the code of what is wrong.

Values are not looked at; an `Element` is the tuple (tag, VR, start, end, items) with `data[start:end]` its value and
`items` the data sets of a sequence.  Tags are ints, VRs are two bytes.  Encoding: PS3.5 sections 7 and A, PS3.10
section 7.
"""

import struct
import zlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from privacy.deidentify.states import Refused, Skipped

Element = tuple[int, bytes, int, int, Any]  # (tag, VR, start, end, [[Element, ...], ...] or None)

IMPLICIT, EXPLICIT, DEFLATED, BIG = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))
NATIVE = {IMPLICIT, EXPLICIT, DEFLATED, BIG}
ENCAPSULATED = {
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)),
    "1.2.840.10008.1.2.5",
}
DICOMDIR = "1.2.840.10008.1.3.10"

LONG = frozenset([b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"])
SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
PIXEL_DATA, ITEM, ITEM_END, SEQUENCE_END = 0x7FE00010, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
TRAILING_PADDING = 0xFFFCFFFC
UNDEFINED = 0xFFFFFFFF
MAX_DEPTH, MAX_ELEMENTS = 16, 1_000_000
MAX_INFLATED, MAX_RATIO = 512 << 20, 200


@dataclass(slots=True)
class Parsed:
    """A file's structure.  `data` is what the offsets count in (the inflated data set where the file was deflated)."""

    data: bytes
    elements: list[Element]
    meta: list[Element]
    source: bytes
    syntax: str
    big: bool = False
    tail: int = 0
    warnings: list[str] = field(default_factory=list)
    top: dict[int, Element] = field(init=False)

    def __post_init__(self) -> None:
        self.top = {element[0]: element for element in self.elements}

    def value(self, tag: int) -> bytes:
        """The top-level value of `tag`, b"" where it is absent."""
        element = self.top.get(tag)
        return self.data[element[2] : element[3]] if element is not None else b""

    def text(self, tag: int) -> str:
        """The top-level value of `tag`, stripped, as Latin-1; "" where it is absent."""
        return self.value(tag).decode("latin-1").strip(" \0")


def parse(source: bytes) -> Parsed:
    """The structure of a file's bytes.  Refused with a code, or Skipped("dicomdir")."""
    if source[128:132] != b"DICM":
        return _without_preamble(source)
    meta, start = _meta(source)
    values = {tag: source[begin:end].rstrip(b" \0").decode("latin-1") for tag, _, begin, end, _ in meta if tag in (0x20002, 0x20010)}
    if values.get(0x20002) == DICOMDIR:
        raise Skipped("dicomdir")
    syntax = values.get(0x20010, "")
    if not syntax:
        raise Refused("BAD_META")
    if syntax not in NATIVE and syntax not in ENCAPSULATED:
        raise Refused("UNSUPPORTED_SYNTAX")
    data, begin = (_inflate(source[start:]), 0) if syntax == DEFLATED else (source, start)
    scan = Scan(data, big=syntax == BIG)
    elements = scan.dataset(begin, implicit=syntax == IMPLICIT)
    return Parsed(data, elements, meta, source, syntax, syntax == BIG, scan.tail)


def _meta(source: bytes) -> tuple[list[Element], int]:
    """The elements of group 0002, and where the data set starts.  Goes by group, since the group length may lie."""
    scan, position = Scan(source), 132
    elements: list[Element] = []
    while source[position : position + 2] == b"\x02\0":
        element, position = scan.element(position, len(source), 0, False)
        if elements and element[0] <= elements[-1][0]:
            raise Refused("BAD_META")
        elements.append(element)
    return elements, position


def _inflate(data: bytes) -> bytes:
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    limit = min(MAX_INFLATED, max(1 << 20, MAX_RATIO * len(data)))
    try:
        inflated = machine.decompress(data, limit + 1)
    except zlib.error:
        raise Refused("TRUNCATED") from None
    if len(inflated) > limit:
        raise Refused("BOMB")
    if not machine.eof:
        raise Refused("TRUNCATED")
    return inflated


def _without_preamble(source: bytes) -> Parsed:
    """A bare data set in little endian: accepted only if it starts in group 0008 and parses to its last byte."""
    if source[:2] != b"\x08\0" or len(source) < 64:
        raise Refused("NOT_DICOM")
    implicit = source[4:6] not in SHORT and source[4:6] not in LONG
    scan = Scan(source)
    try:
        elements = scan.dataset(0, implicit=implicit)
    except Refused:
        raise Refused("NOT_DICOM") from None
    parsed = Parsed(source, elements, [], source, IMPLICIT if implicit else EXPLICIT, tail=scan.tail, warnings=["NO_PREAMBLE"])
    if scan.tail or not parsed.text(0x00080016) or not parsed.text(0x00080018):
        raise Refused("NOT_DICOM")
    return parsed


@cache
def dictionary_vr(tag: int) -> bytes:
    """The VR that an implicit VR element has: that of the standard's dictionary, the first where it has several."""
    from pydicom._dicom_dict import DicomDictionary

    if tag & 0xFFFF == 0:
        return b"UL"
    if tag >> 16 & 1:
        return b"LO" if 0x10 <= tag & 0xFFFF <= 0xFF else b"UN"
    known = DicomDictionary.get(tag)
    vr = known[0].split(" or ")[0] if known else "UN"
    return {"OB": b"OW", "": b"UN", "NO": b"UN"}.get(vr[:2], vr.encode()) if vr in ("OB", "", "NONE") else vr.encode()


class Scan:
    """One pass over `data`.  Recursion is bounded by MAX_DEPTH, work by MAX_ELEMENTS."""

    def __init__(self, data: bytes, big: bool = False):
        order = ">" if big else "<"
        self.data, self.tail, self.count = data, 0, 0
        self.explicit = struct.Struct(order + "HH2sH").unpack_from
        self.implicit = struct.Struct(order + "HHI").unpack_from
        self.length = struct.Struct(order + "I").unpack_from

    def dataset(self, start: int, implicit: bool) -> list[Element]:
        """The elements of the top level; what follows the pixel data and is no element is counted in `tail`."""
        elements: list[Element] = []
        position, end, last = start, len(self.data), 0
        while position < end:
            try:
                element, after = self.element(position, end, 0, implicit)
            except Refused:
                if any(found[0] == PIXEL_DATA for found in elements) or not any(memoryview(self.data)[position:]):
                    self.tail = end - position
                    break
                raise
            tag = element[0]
            if tag <= last:
                raise Refused("DUPLICATE_TAG" if any(tag == e[0] for e in elements) else "ORDER")
            if tag >> 16 == 0xFFFE:
                raise Refused("BAD_LENGTH")
            elements.append(element)
            position, last = after, tag
        return elements

    def level(self, position: int, end: int, depth: int, implicit: bool, closed: bool) -> tuple[list[Element], int]:
        """The elements of one item, to `end`, or, where not `closed`, to its Item Delimitation."""
        elements: list[Element] = []
        last = -1
        while position < end:
            element, position = self.element(position, end, depth, implicit)
            tag = element[0]
            if tag == ITEM_END and not closed:
                return elements, position
            if tag <= last:
                raise Refused("DUPLICATE_TAG" if any(tag == e[0] for e in elements) else "ORDER")
            if tag >> 16 == 0xFFFE:
                raise Refused("BAD_LENGTH")
            elements.append(element)
            last = tag
        if not closed:
            raise Refused("TRUNCATED")
        return elements, position

    def element(self, position: int, end: int, depth: int, implicit: bool) -> tuple[Element, int]:
        """The element at `position`, and where the next one starts."""
        self.count += 1
        if self.count > MAX_ELEMENTS:
            raise Refused("TOO_MANY_ELEMENTS")
        if position + 8 > end:
            raise Refused("TRUNCATED")
        if not implicit:
            group, number, vr, length = self.explicit(self.data, position)
            after = position + 8 + length
            if vr in SHORT and after <= end and group != 0xFFFE:  # nearly all of them
                return (group << 16 | number, vr, position + 8, after, None), after
        if implicit:
            group, number, length = self.implicit(self.data, position)
            tag, start = group << 16 | number, position + 8
            vr = dictionary_vr(tag) if group != 0xFFFE else b"\0\0"
        else:
            tag, start = group << 16 | number, position + 8
            if vr in LONG:
                if position + 12 > end:
                    raise Refused("TRUNCATED")
                length, start = self.length(self.data, start)[0], position + 12
            elif group == 0xFFFE:
                length = self.length(self.data, position + 4)[0]
            elif vr not in SHORT:
                raise Refused("BAD_VR")
        if length == UNDEFINED:
            return self._undefined(tag, vr, start, end, depth, implicit)
        after = start + length
        if after > end:
            raise Refused("TRUNCATED" if end == len(self.data) else "BAD_LENGTH")
        if vr == b"SQ":
            items, _ = self._items(start, after, depth + 1, implicit, True)
            return (tag, vr, start, after, items), after
        if vr == b"UN" and dictionary_vr(tag) == b"SQ" and length:
            # a sequence that passed through a program which did not know it: implicit VR inside (PS3.5 6.2.2)
            items, _ = self._items(start, after, depth + 1, True, True)
            return (tag, b"SQ", start, after, items), after
        return (tag, vr, start, after, None), after

    def _undefined(self, tag: int, vr: bytes, start: int, end: int, depth: int, implicit: bool) -> tuple[Element, int]:
        if tag == PIXEL_DATA and depth == 0 and vr in (b"OB", b"OW", b"UN"):
            fragments, after = self._fragments(start, end)
            return (tag, b"OB", start, after, fragments), after
        if vr not in (b"SQ", b"UN") or tag >> 16 == 0xFFFE:
            raise Refused("BAD_LENGTH")
        # an undefined length makes an unknown VR a sequence, in implicit VR even where the file is explicit (PS3.5
        # 6.2.2)
        items, after = self._items(start, end, depth + 1, implicit or vr == b"UN", False)
        return (tag, b"SQ", start, after, items), after

    def _items(self, position: int, end: int, depth: int, implicit: bool, closed: bool) -> tuple[list[list[Element]], int]:
        if depth > MAX_DEPTH:
            raise Refused("DEPTH")
        items: list[list[Element]] = []
        while position < end:
            if position + 8 > end:
                raise Refused("TRUNCATED" if end == len(self.data) else "BAD_LENGTH")
            group, number, length = self.implicit(self.data, position)
            tag, position = group << 16 | number, position + 8
            if tag == SEQUENCE_END and not closed:
                return items, position
            if tag != ITEM:
                raise Refused("BAD_LENGTH")
            self.count += 1  # an empty item is work and memory too
            if self.count > MAX_ELEMENTS:
                raise Refused("TOO_MANY_ELEMENTS")
            if length == UNDEFINED:
                elements, position = self.level(position, end, depth, implicit, False)
            elif position + length > end:
                raise Refused("TRUNCATED" if end == len(self.data) else "BAD_LENGTH")
            else:
                elements, position = self.level(position, position + length, depth, implicit, True)
            items.append(elements)
        if not closed:
            raise Refused("TRUNCATED")
        return items, position

    def _fragments(self, position: int, end: int) -> tuple[list[tuple[int, int]], int]:
        """(start, end) of each item of encapsulated pixel data, the offset table first; PS3.5 A.4."""
        fragments: list[tuple[int, int]] = []
        while position + 8 <= end:
            group, number, length = self.implicit(self.data, position)
            tag, position = group << 16 | number, position + 8
            if tag == SEQUENCE_END:
                return fragments, position
            if tag != ITEM or length == UNDEFINED:
                raise Refused("BAD_LENGTH")
            if position + length > end:
                break
            fragments.append((position, position + length))
            position += length
        raise Refused("TRUNCATED")
