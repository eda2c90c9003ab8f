"""The independent check of a written file, before it gets its name: its own parser, its own arithmetic, its own list
of reasons.

It shares with the cleaner the standard's tables and the vocabularies, and nothing that reads, decides or writes.
Every element that was written must be explained: a number, a term of its attribute, a code that PS3.16 knows, or the
pseudonym, UID or date that this module works out again from the original.  Beside that, no original text, name, date,
identifier or UID of four characters or more may stand in what is neither number nor vocabulary, nor in binary tables.
"""

import hmac
import re
from dataclasses import dataclass, field
from functools import cache

from privacy.deidentify import terms
from privacy.deidentify.modules import words
from privacy.deidentify.original import (
    PIXELS,
    WIDE,
    Found,
    Leak,
    Original,
    calendar_day,
    clock_text,
    iso_day,
    microseconds,
    sealed,
)
from privacy.deidentify.policy import MEANINGS, Policy
from privacy.deidentify.profile import safe_private
from privacy.deidentify.unaltered import same_pixels

_BINARY = {b"US": 2, b"SS": 2, b"UL": 4, b"SL": 4, b"FL": 4, b"FD": 8, b"AT": 4, b"UV": 8, b"SV": 8}
_MARKS = frozenset([0x00120062, 0x00120063, 0x00120064, 0x00280301, 0x00280303])
_META = [0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013]
_NUMBER = re.compile(rb"[ +-]*[0-9.]+(?:[eE][+-]?[0-9]+)? *")
_FREE = frozenset(
    [
        "DeviceSerialNumber",
        "StationName",
        "GantryID",
        "TreatmentMachineName",
        "InstitutionName",
        "InstitutionalDepartmentName",
    ]
)


@dataclass(frozen=True)
class Expected:
    """What the check needs to know beside the two files."""

    key: bytes
    policy: Policy
    sop_class: str
    codes: tuple[str, ...]
    syntax: str
    pixels_touched: bool = False
    known: set[tuple[int, bytes, bytes]] = field(default_factory=set)  # numbers and terms already found to be such


def check(source: bytes, written: bytes, expected: Expected) -> None:
    """Leak where `written` holds what it must not.  Both are whole files."""
    out = _outer(written, expected)
    original = Original(source)
    judge = _Judge(original, expected, _names(expected.sop_class))
    _elements(out, judge, expected)
    judge.nothing_original()
    if not expected.pixels_touched and PIXELS in judge.names:
        same_pixels(original, out)


def _elements(out: list[Found], judge: "_Judge", expected: Expected) -> None:
    """Every element is in the allow-list, a mark of what was done, or safe and private, and its value is explained."""
    safe = _safe_private(out) if "113111" in expected.policy.options else frozenset()
    for tag, vr, value, around in out:
        if tag >> 16 & 1:
            if tag not in safe:
                raise Leak("a private element", tag)
        elif tag not in judge.names and not (tag in _MARKS and not around) and 0x00120064 not in around:
            raise Leak("an element outside the allow-list", tag)
        if vr != b"SQ" and tag != PIXELS and (tag, vr, value) not in expected.known:
            judge.element(tag, vr, value, around)


def check_form(written: bytes, policy: Policy, sop_class: str, codes: tuple[str, ...], syntax: str) -> None:
    """Leak where a file holds what no output may hold, as far as that can be told without the original and the key."""
    expected = Expected(bytes(32), policy, sop_class, codes, syntax)
    judge = _Form(Original(b"\0" * 256), expected, _names(sop_class))
    _elements(_outer(written, expected), judge, expected)


def _outer(written: bytes, expected: Expected) -> list[Found]:
    """The elements of a written file, its preamble and file meta information checked on the way."""
    if any(written[:128]) or written[128:132] != b"DICM":
        raise Leak("a preamble that is not zero")
    found: list[Found] = []
    _explicit(written, 132, len(written), (), found)
    meta = [element for element in found if element[0] >> 16 == 2]
    if [tag for tag, *_ in meta] != _META:
        raise Leak("file meta information that is not the six elements")
    values = {tag: value.rstrip(b"\0 ") for tag, _, value, _ in meta}
    if values[0x00020002].decode("latin-1") != expected.sop_class or values[0x00020010].decode("latin-1") != expected.syntax:
        raise Leak("file meta information of another object")
    body = found[len(meta) :]
    top = [tag for tag, _, _, around in body if not around]
    if top != sorted(set(top)):
        raise Leak("elements out of order")
    instance = next((value.rstrip(b"\0") for tag, _, value, around in body if tag == 0x00080018 and not around), b"")
    if instance != values[0x00020003]:
        raise Leak("file meta information of another instance")
    return body


def _explicit(data: bytes, here: int, end: int, around: tuple[int, ...], found: list[Found]) -> None:
    """Collect explicit VR little endian with explicit lengths; only encapsulated pixel data may be open-ended, at the
    end."""
    while here < end:
        tag = data[here] << 16 | data[here + 1] << 24 | data[here + 2] | data[here + 3] << 8
        vr = data[here + 4 : here + 6]
        wide = vr in WIDE
        size = int.from_bytes(data[here + 8 : here + 12] if wide else data[here + 6 : here + 8], "little")
        here += 12 if wide else 8
        if tag == PIXELS and size == 0xFFFFFFFF:
            size = sealed(data, here) - here
        if here + size > end:
            raise Leak("a length past the end", tag)
        if vr == b"SQ":
            found.append((tag, vr, b"", around))
            _explicit_items(data, here, here + size, (*around, tag), found)
        else:
            found.append((tag, vr, data[here : here + size], around))
        here += size


def _explicit_items(data: bytes, here: int, end: int, around: tuple[int, ...], found: list[Found]) -> None:
    while here < end:
        if data[here : here + 4] != b"\xfe\xff\0\xe0":
            raise Leak("a sequence without items", around[-1])
        size = int.from_bytes(data[here + 4 : here + 8], "little")
        if here + 8 + size > end:
            raise Leak("a length past the end", around[-1])
        _explicit(data, here + 8, here + 8 + size, around, found)
        here += 8 + size


@cache
def _names(sop_class: str) -> dict[int, str]:
    from pydicom.datadict import tag_for_keyword

    return {int(tag_for_keyword(keyword) or 0): keyword for keyword in words(sop_class)}


def _safe_private(out: list[Found]) -> frozenset[int]:
    """The private tags of `out` that Table E.3.10-1 has, and their creators."""
    creators: dict[tuple[tuple[int, ...], int, int], str] = {}
    safe: set[int] = set()
    for tag, vr, value, around in out:
        group, number = tag >> 16, tag & 0xFFFF
        if group & 1 and number <= 0xFF:
            creators[around, group, number] = value.decode("latin-1").strip()
        elif group & 1:
            creator = creators.get((around, group, number >> 8), "")
            if (creator, group, number & 0xFF) in safe_private() and (vr in _BINARY or vr in (b"DS", b"IS")):
                safe |= {tag, group << 16 | number >> 8}
    return frozenset(safe)


# ---------------------------------------------------------------------------------------------------------- judging


@cache
def _most(tag: int) -> int:
    """How many values an attribute may have, 0 for any number."""
    from pydicom._dicom_dict import DicomDictionary

    limit = DicomDictionary.get(tag, ("", "n"))[1].rpartition("-")[2]
    return int(limit) if limit.isdigit() else 0


class _Judge:
    """Asks of each written value why it may stand there."""

    def __init__(self, original: Original, expected: Expected, names: dict[int, str]):
        self.original, self.names, self.expected = original, names, expected
        self.options = set(expected.policy.options)
        self.derived: set[bytes] = set()  # written values that are neither number nor vocabulary
        self.free: list[bytes] = []
        self.tables: list[bytes] = []
        self.patient = self._patient()
        self.codes: dict[tuple[int, ...], list[str]] = {}
        self._uids: set[bytes] | None = None
        self._times: tuple[set[bytes], set[bytes], set[bytes]] | None = None

    def _mac(self, label: str, *parts: bytes) -> bytes:
        counted = [b"\0" + str(len(part)).encode() + b"\0" + part for part in parts]
        return hmac.digest(self.expected.key, b"".join([label.encode(), *counted]), "sha256")

    def _patient(self) -> bytes:
        def tidy(tag: int) -> bytes:
            return " ".join(self.original.first.get(tag, b"").decode("latin-1").strip(" \0").casefold().split()).encode()

        number = int.from_bytes(self._mac("patient", tidy(0x00100020), tidy(0x00100021)), "big") >> (256 - 95)
        return b"P" + bytes(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[number >> 5 * place & 31] for place in reversed(range(19)))

    def element(self, tag: int, vr: bytes, value: bytes, around: tuple[int, ...]) -> None:
        keyword = self.names.get(tag, "")
        if vr in _BINARY:
            most = _most(tag)
            if len(value) % _BINARY[vr] or (most and len(value) > most * _BINARY[vr]):
                raise Leak("numbers of another length than the attribute has", tag)
            if len(value) < 6:
                self._remember(tag, vr, value)
            else:  # what is a number in one file can be a name in the next
                self.tables.append(value)
        elif vr in (b"OW", b"OB") or (vr == b"UN" and keyword == "LUTData"):
            self.tables.append(value)
        elif vr in (b"DS", b"IS", b"UN"):
            if value.translate(None, b"0123456789+-.eE\\ ") or (len(value) < 256 and not self._numbers(value)):
                raise Leak("text in a number", tag)
            self._remember(tag, vr, value)
        elif tag >> 16 & 1:  # a private creator: `check` has found numbers of Table E.3.10-1 under it
            if value.rstrip(b" ").decode("latin-1") not in {creator for creator, *_ in safe_private()}:
                raise Leak("a private creator that is in no table", tag)
        elif not self._explained(tag, keyword, vr, value.rstrip(b" \0"), around):
            raise Leak("a value that is no term, and not what the key gives", tag)

    def _remember(self, tag: int, vr: bytes, value: bytes) -> None:
        """Numbers and terms explain themselves, whosever they are: the next file of the series has most of them too."""
        if len(self.expected.known) > 50_000:
            self.expected.known.clear()
        if len(value) < 256:
            self.expected.known.add((tag, vr, value))

    @staticmethod
    def _numbers(value: bytes) -> bool:
        return all(not part.strip() or _NUMBER.fullmatch(part) for part in value.split(b"\\"))

    def _explained(self, tag: int, keyword: str, vr: bytes, value: bytes, around: tuple[int, ...]) -> bool:
        if not value or value == b"REMOVED":
            return True
        if tag in (0x00100010, 0x00100020):
            self.derived.add(value)
            return value == self.patient
        if vr == b"UI":
            return all(self._uid(keyword, part) for part in value.split(b"\\"))
        if vr in (b"DA", b"TM", b"DT"):
            return self._when(vr, value)
        if tag in (0x00080100, 0x00080102, 0x00080104):
            return self._code(tag, value.decode("latin-1"), around)
        if tag in _MARKS:
            return self._mark(tag, value)
        if vr == b"AS":
            return re.fullmatch(rb"0(?:[0-8]\d|90)Y|\d{3}[DWM]", value) is not None
        return self._text(keyword, value, (tag, vr))

    def _text(self, keyword: str, value: bytes, place: tuple[int, bytes]) -> bool:
        text = value.decode("latin-1")
        if keyword == "PatientOrientation":
            return re.fullmatch(r"[A-Z]{1,4}(\\[A-Z]{1,4})?", text) is not None
        if keyword == "ManufacturerModelName":
            return terms.model(text) is not None
        if keyword in ("ROIName", "SegmentLabel"):
            site = frozenset(self.expected.policy.structures)
            return (
                re.fullmatch(r"(ROI|Segment) \d{1,10}", text) is not None
                or terms.structure(value.decode("utf-8", "replace"), site) is not None
            )
        if keyword == "ContentLabel":
            return text == "OBJECT"
        if keyword in _FREE:
            self.free.append(value)
            return bool(self.options & {"113109", "113112"})
        if keyword in terms.PATTERNS and keyword == "ConvolutionKernel":
            return terms.term(keyword, text) is not None
        if keyword in terms.PATTERNS or keyword in terms.coded():
            known = all(not part or terms.term(keyword, part) is not None for part in text.split("\\"))
            if known:
                self._remember(*place, value + b" " * (len(value) % 2))
            return known
        return "113105" in self.options and terms.descriptor(text) == text

    def _uid(self, keyword: str, value: bytes) -> bool:
        from pydicom._uid_dict import UID_dictionary

        if value.decode("latin-1") in UID_dictionary:
            return True
        if "113110" in self.options and value in self.original.uids:
            return re.fullmatch(rb"[0-9]+(?:\.[0-9]+)+", value) is not None
        if self._uids is None:
            self._uids = {self._mapped(uid) for uid in self.original.uids}
        self.derived.add(value)
        return value in self._uids

    def _mapped(self, uid: bytes) -> bytes:
        import uuid

        digest = bytearray(self._mac("uid", uid)[:16])
        digest[6] = digest[6] & 0x0F | 0x80
        digest[8] = digest[8] & 0x3F | 0x80
        return b"2.25." + str(uuid.UUID(bytes=bytes(digest)).int).encode()

    def _when(self, vr: bytes, value: bytes) -> bool:
        if "113106" in self.options:
            return value in self.original.days | self.original.times | self.original.stamps
        if "113107" not in self.options:
            return value in (b"19000101", b"000000", b"19000101000000")
        if self._times is None:
            self._times = self._moved()
        days, times, stamps = self._times
        return value in {b"DA": days, b"TM": times, b"DT": stamps}[vr]

    def _moved(self) -> tuple[set[bytes], set[bytes], set[bytes]]:
        """Where each original date and time has to be: worked out in seconds, dates with a day's carry either way."""
        shift = 1 + int.from_bytes(self._mac("shift", self.patient)[:8], "big") % 3650
        study = self.original.first.get(0x0020000D, b"").strip(b" \0")
        start = microseconds(self.original.first.get(0x00080030, b""))
        start = int.from_bytes(self._mac("clock", study)[:8], "big") % 86_400 * 1_000_000 if start is None else start
        ahead = 6 * 3_600_000_000 - start
        days = {iso_day(calendar_day(day), carry - shift) for day in self.original.days for carry in (-1, 0, 1)}
        times = {clock_text(micro + ahead, b"." in time) for time in self.original.times if (micro := microseconds(time)) is not None}
        stamps = set()
        for stamp in self.original.stamps:
            body, zone = re.match(rb"([0-9.]*)(.*)", stamp, re.S).groups()  # type: ignore[union-attr]
            micro = microseconds(body[8:]) if body[8:] else None
            carry = (micro + ahead) // 86_400_000_000 if micro is not None else 0
            text = iso_day(calendar_day(body[:8]), carry - shift)
            stamps.add(text + (clock_text(micro + ahead, b"." in body) if micro is not None else b"") + zone)
        return days, times, stamps

    def _code(self, tag: int, value: str, around: tuple[int, ...]) -> bool:
        """Value, scheme and meaning come in this order; the last one is asked whether the three belong together."""
        parts = self.codes.setdefault(around, [])
        parts.append(value)
        if tag != 0x00080104:
            return True
        *_, code, scheme, meaning = ["", "", "", *parts]
        self.codes[around] = []
        if 0x00120064 in around:
            return scheme == "DCM" and code in self.expected.codes and MEANINGS[code][:64] == meaning
        known = terms.code(scheme, code)
        return known is not None and known[:64].strip().encode("ascii", "replace").decode() == meaning

    def _mark(self, tag: int, value: bytes) -> bool:
        dates = b"UNMODIFIED" if "113106" in self.options else b"MODIFIED" if "113107" in self.options else b"REMOVED"
        if tag == 0x00120063:
            return re.fullmatch(rb"fedvision [0-9a-z.+]+\\rules [0-9a-f]{16}", value) is not None
        if tag == 0x00280301:
            return value == b"YES" or (value == b"NO" and "113101" in self.expected.codes)
        return value == (dates if tag == 0x00280303 else b"YES")

    def nothing_original(self) -> None:
        """No original text among what is written and is neither number nor vocabulary, nor inside binary tables."""
        if any(self.codes.values()):
            raise Leak("a code without its meaning")
        originals = {text.lower() for text in self.original.texts}
        written = {value.lower() for value in self.derived}
        if "113110" not in self.options and originals & written:
            raise Leak("an original value")
        long = [text for text in originals if len(text) >= 12]
        joined = b"\0".join(written)
        if any(text in joined for text in long):
            raise Leak("an original value")
        names = {text for text in originals if len(text) >= 4 and not text.isdigit()}
        if self.free and "113112" not in self.options:
            person = self.original.first.get(0x00100010, b"").lower() + b"^" + self.original.first.get(0x00100020, b"").lower()
            parts = [part for part in re.split(rb"[\^=, ]+", person.rstrip(b" \0")) if len(part) >= 4]
            if any(part in value.lower() for part in parts for value in self.free):
                raise Leak("a part of the patient's name or number")
        tables = b"\0".join(self.tables).lower()
        if any(text in tables for text in names if len(text) >= 6):
            raise Leak("an original value in a table")


class _Form(_Judge):
    """Judges without the original: pseudonyms, UIDs and dates by their form alone."""

    def _patient(self) -> bytes:
        return b""

    def _explained(self, tag: int, keyword: str, vr: bytes, value: bytes, around: tuple[int, ...]) -> bool:
        if tag in (0x00100010, 0x00100020):
            return re.fullmatch(rb"(P[A-Z2-7]{19})?", value) is not None
        return super()._explained(tag, keyword, vr, value, around)

    def _uid(self, keyword: str, value: bytes) -> bool:
        from pydicom._uid_dict import UID_dictionary

        form = rb"[0-9]+(\.[0-9]+)+" if "113110" in self.options else rb"2\.25\.[0-9]{30,39}"
        return value.decode("latin-1") in UID_dictionary or re.fullmatch(form, value) is not None

    def _when(self, vr: bytes, value: bytes) -> bool:
        if not {"113106", "113107"} & self.options:
            return super()._when(vr, value)
        form = {b"DA": rb"\d{8}", b"TM": rb"\d{2,6}(\.\d{1,6})?", b"DT": rb"\d{8}(\d{2,6}(\.\d{1,6})?)?([+-]\d{4})?"}[vr]
        return re.fullmatch(form, value.replace(b":", b"")) is not None
