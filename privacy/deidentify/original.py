"""What a file held before: the self-check's own reading of the original, which shares no line with the cleaner's.

It collects, at every depth, what could tell whose file it is, and the pixels.
"""

import re
import struct
import zlib
from datetime import date, timedelta
from functools import cache
from typing import Any

TEXT = frozenset(b"AE AS CS DA DT LO LT PN SH ST TM UC UI UR UT".split())
WIDE = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
NARROW = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
PIXELS = 0x7FE00010

Found = tuple[int, bytes, bytes, tuple[int, ...]]  # tag, VR, value, tags of the sequences around it


class Leak(Exception):
    """What the check found, in words without a value: which rule, and at which tag."""

    def __init__(self, reason: str, tag: int = 0):
        super().__init__(f"{reason} at ({tag >> 16:04X},{tag & 0xFFFF:04X})" if tag else reason)


def sealed(data: bytes, here: int) -> int:
    """Where encapsulated pixel data ends."""
    while data[here : here + 4] == b"\xfe\xff\0\xe0":
        here += 8 + int.from_bytes(data[here + 4 : here + 8], "little")
    if data[here : here + 4] != b"\xfe\xff\xdd\xe0":
        raise Leak("encapsulated pixel data without an end")
    return here + 8


class Original:
    """Every value of the original file, private, unknown and nested ones included, by kinds."""

    def __init__(self, source: bytes):
        self.texts: set[bytes] = set()
        self.people: set[bytes] = set()  # parts of names, and the patient's number
        self.uids: set[bytes] = set()
        self.days: set[bytes] = set()
        self.times: set[bytes] = set()
        self.stamps: set[bytes] = set()
        self.pixels = b""
        self.first: dict[int, bytes] = {}
        self.big = False
        if source[128:132] == b"DICM":
            self._preamble(source[:128])
            start = self._walk(source, 132, len(source), False, 2)
            syntax = self.first.get(0x00020010, b"").rstrip(b"\0 ")
            source, start = (zlib.decompressobj(-15).decompress(source[start:]), 0) if syntax.endswith(b".1.99") else (source, start)
            self.big = syntax == b"1.2.840.10008.1.2.2"
            self._walk(source, start, len(source), syntax == b"1.2.840.10008.1.2", 0)
        else:
            self._walk(source, 0, len(source), not source[4:6].isalpha(), 0)

    def _preamble(self, preamble: bytes) -> None:
        self.texts.update(part for part in re.split(rb"[^ -~]+", preamble) if len(part.strip()) >= 4)

    def _walk(self, data: bytes, here: int, end: int, implicit: bool, only: int, depth: int = 0) -> int:
        order: Any = "big" if self.big else "little"
        head = struct.Struct(">HH2sH" if self.big else "<HH2sH").unpack_from
        while here + 8 <= end:
            group, number, vr, size = head(data, here)
            tag = group << 16 | number
            if only and group != only:
                return here
            if not implicit and vr in NARROW and group != 0xFFFE:
                here += 8
                what = _what(tag, vr)
                if what:
                    self._note(what, tag, data[here : here + size], depth)
                here += size
                continue
            if tag in (0xFFFEE00D, 0xFFFEE0DD):
                return here + 8
            if tag == 0xFFFEE000:
                size = int.from_bytes(data[here + 4 : here + 8], order)
                here = self._walk(data, here + 8, end if size == _OPEN else here + 8 + size, implicit, 0, depth)
                continue
            vr, size, here = self._head(data, here, tag, implicit, order)
            if tag == PIXELS and depth == 0:
                after = sealed(data, here) if size == _OPEN else here + size
                self.pixels = data[here:after]
                self.texts.update(_strings(data[after : after + 4096], 4))
                return end  # what follows is never written; it is no element of the object
            if vr == b"SQ" or size == _OPEN or (vr == b"UN" and dictionary_vr(tag) == b"SQ"):
                inner = implicit or vr == b"UN"
                here = self._walk(data, here, end if size == _OPEN else here + size, inner, 0, depth + 1)
                continue
            self._note(_what(tag, vr), tag, data[here : here + size] if size < 70_000 else b"", depth)
            here += size
        return max(here, end) if end < len(data) else here

    @staticmethod
    def _head(data: bytes, here: int, tag: int, implicit: bool, order: Any) -> tuple[bytes, int, int]:
        if implicit:
            return dictionary_vr(tag), int.from_bytes(data[here + 4 : here + 8], order), here + 8
        vr = data[here + 4 : here + 6]
        if vr in WIDE:
            return vr, int.from_bytes(data[here + 8 : here + 12], order), here + 12
        return vr, int.from_bytes(data[here + 6 : here + 8], order), here + 8

    def _note(self, what: int, tag: int, value: bytes, depth: int) -> None:
        if what & _ASKED and depth == 0:
            self.first.setdefault(tag, value)
        if what & _OPAQUE:
            self.texts.update(_strings(value[:4096], 6))
        if not what & _WORDS:
            return
        for part in value.split(b"\\") if b"\\" in value else (value,):
            part = part.strip(b" \0")
            if what & _UIDS:
                self.uids.add(part)
            if what & _DAYS:
                self.days.add(part)
            if what & _TIMES:
                self.times.add(part)
            if what & _STAMPS:
                self.stamps.add(part)
            if len(part) >= 4:
                self.texts.add(part)
                if what & _NAMES or tag == 0x00100020:
                    words = [word for word in re.split(rb"[\^= ,]+", part) if len(word) >= 4]
                    self.texts.update(words)
                    self.people.update(words)


_WORDS, _UIDS, _DAYS, _TIMES, _STAMPS, _NAMES, _OPAQUE, _ASKED = (1 << bit for bit in range(8))
_OPEN = 0xFFFFFFFF  # an undefined length
_QUESTIONS = frozenset(
    [0x00020010, 0x00080030, 0x00100010, 0x00100020, 0x00100021, 0x0020000D, 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100]
)


def _strings(value: bytes, least: int) -> list[bytes]:
    """Runs of printable characters in bytes of unknown meaning."""
    return [part for part in re.findall(rb"[ -~]{%d,64}" % least, value) if part.strip()]


@cache
def _what(tag: int, vr: bytes) -> int:
    """What the values of an attribute are, by its VR in the file and by the one it should have."""
    known = dictionary_vr(tag)
    kinds = {b"UI": _UIDS, b"DA": _DAYS, b"TM": _TIMES, b"DT": _STAMPS, b"PN": _NAMES}
    what = _ASKED if tag in _QUESTIONS else 0
    if vr == b"UN" and known not in TEXT:
        return what | _OPAQUE
    if vr in TEXT or known in TEXT:
        what |= _WORDS | kinds.get(vr, 0) | kinds.get(known, 0)
    return what


@cache
def dictionary_vr(tag: int) -> bytes:
    """The VR of a tag in the standard's dictionary; LO and UN for private ones."""
    from pydicom._dicom_dict import DicomDictionary

    if tag >> 16 & 1:
        return b"LO" if 0x10 <= tag & 0xFFFF <= 0xFF else b"UN"
    entry = DicomDictionary.get(tag)
    return entry[0][:2].encode() if entry else b"UN"


def calendar_day(value: bytes) -> date | None:
    """The day that a DA value names; None where it names none."""
    digits = value.replace(b".", b"")
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) if len(digits) == 8 and digits.isdigit() else None
    except ValueError:
        return None


def iso_day(day: date | None, days: int) -> bytes:
    """YYYYMMDD of `day` moved by `days`; ? where there is none."""
    try:
        return (day + timedelta(days)).isoformat().replace("-", "").encode() if day else b"?"
    except OverflowError:
        return b"?"


def microseconds(time: bytes) -> int | None:
    """Since midnight, of a TM value; None where it is none."""
    whole, _, fraction = time.strip(b" \0").replace(b":", b"").partition(b".")
    if not whole.isdigit() or len(whole) not in (2, 4, 6) or (fraction and not (fraction.isdigit() and len(fraction) < 7)):
        return None
    hours, minutes, seconds = (int(whole.ljust(6, b"0")[at : at + 2]) for at in (0, 2, 4))
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    return (hours * 3600 + minutes * 60 + min(seconds, 59)) * 1_000_000 + int(fraction.ljust(6, b"0") or 0)


def clock_text(microseconds: int, fraction: bool) -> bytes:
    """A TM value of so many microseconds since midnight."""
    seconds, rest = divmod(microseconds % 86_400_000_000, 1_000_000)
    text = f"{seconds // 3600:02}{seconds // 60 % 60:02}{seconds % 60:02}"
    return (text + f".{rest:06}" if fraction else text).encode()
