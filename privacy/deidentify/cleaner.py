"""Applies the rules of a SOP class to a parsed data set, at every depth, and writes it anew.

What is written is explicit VR little endian, sequences with their lengths, text in ASCII, and file meta information
and preamble of our own (PS3.15 E.1.1: the old ones can hold identities).  Pixel data is not touched here.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version

from privacy.deidentify import terms
from privacy.deidentify.policy import MEANINGS, Policy
from privacy.deidentify.profile import Rule, rules, safe_private
from privacy.deidentify.reader import LONG, PIXEL_DATA, Element, Parsed
from privacy.deidentify.states import Refused
from privacy.deidentify.values import SIZES, Context, binary, decimals, integers

IMPLEMENTATION = b"2.25.211180457094012853098531107465109830165"
VERSION = b"FEDVISION"
TEXT = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())
_TISSUE = ("SCT", "85756007", "Tissue")  # where a code has to be and PS3.16 does not know the one that was there
_FALLBACK_CODES = {"MeasurementUnitsCodeSequence": ("UCUM", "1", "no units")}

_short = struct.Struct("<HH2sH").pack
_long = struct.Struct("<HH2s2xI").pack
_item = struct.Struct("<HHI").pack


def encode(tag: int, vr: bytes, value: bytes) -> bytes:
    """One element in explicit VR little endian, padded to even length; a text too long for its VR's short form goes
    as UN."""
    if len(value) & 1:
        value += b" " if vr in TEXT and vr != b"UI" else b"\0"
    if vr in LONG:
        return _long(tag >> 16, tag & 0xFFFF, vr, len(value)) + value
    if len(value) > 0xFFFF:
        return _long(tag >> 16, tag & 0xFFFF, b"UN", len(value)) + value
    return _short(tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def sequence(tag: int, items: list[bytes]) -> bytes:
    """A sequence element of these items, explicit VR little endian."""
    body = b"".join([part for item in items for part in (_item(0xFFFE, 0xE000, len(item)), item)])
    return _long(tag >> 16, tag & 0xFFFF, b"SQ", len(body)) + body


@dataclass
class Cleaner:
    """The rules of one SOP class under one policy, and the elements they have already made."""

    sop_class: str
    policy: Policy
    rule_set: str
    rules: dict[int, Rule] = field(init=False)
    memo: dict[tuple[int, bytes, bytes], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rules = rules(self.sop_class, self.policy)

    def clean(self, parsed: Parsed, context: Context, codes: list[str], burned_in: bytes) -> tuple[list[tuple[int, bytes]], Counter[str]]:
        """The new top-level elements in order, without pixel data, and how many were kept, changed, emptied, removed,
        private, unknown.  `codes`: what was done, from CID 7050; `burned_in`: b"NO", b"YES" or b"" (say nothing)."""
        if len(self.memo) > 50_000:
            self.memo.clear()
        work = _Work(parsed, self, context)
        pieces = work.level(parsed.elements)
        return sorted(pieces + self.marks(codes, burned_in)), work.counts

    def marks(self, codes: list[str], burned_in: bytes) -> list[tuple[int, bytes]]:
        """The attributes that say what was done (PS3.15 E.1.1)."""
        dates = b"UNMODIFIED" if "113106" in codes else b"MODIFIED" if "113107" in codes else b"REMOVED"
        method = f"fedvision {_version()}\\rules {self.rule_set[:16]}".encode()
        items = [code_item("DCM", code, MEANINGS[code]) for code in codes]
        marks = [
            (0x00120062, encode(0x00120062, b"CS", b"YES")),
            (0x00120063, encode(0x00120063, b"LO", method)),
            (0x00120064, sequence(0x00120064, items)),
            (0x00280303, encode(0x00280303, b"CS", dates)),
        ]
        return marks + ([(0x00280301, encode(0x00280301, b"CS", burned_in))] if burned_in else [])


@cache
def _version() -> str:
    return version("fedvision")


def code_item(scheme: str, value: str, meaning: str) -> bytes:
    """An item of a code sequence: scheme, value and meaning (PS3.3, section 8)."""
    return (
        encode(0x00080100, b"SH", value.encode())
        + encode(0x00080102, b"SH", scheme.encode())
        + encode(0x00080104, b"LO", meaning[:64].strip().encode("ascii", "replace"))
    )


class _Work:
    """One data set on its way."""

    def __init__(self, parsed: Parsed, cleaner: Cleaner, context: Context):
        self.parsed, self.cleaner, self.context = parsed, cleaner, context
        self.data, self.rules, self.memo = parsed.data, cleaner.rules, cleaner.memo
        self.private = "113111" in cleaner.policy.options
        self.counts: Counter[str] = Counter()
        self.signed = parsed.text(0x00280103)[:1] == "\x01"

    def level(self, elements: list[Element]) -> list[tuple[int, bytes]]:
        pieces, data, rules, memo = [], self.data, self.rules, self.memo
        kept = changed = emptied = removed = 0
        before = self.context.sibling
        self.context.sibling = lambda tag: self.value(elements, tag)
        for element in elements:
            tag, vr, start, end, _ = element
            rule = rules.get(tag)
            if rule is None:
                if tag != PIXEL_DATA:
                    removed += 1
                    self.counts["private" if tag >> 16 & 1 else "removed"] += 1
                continue
            if tag == PIXEL_DATA:
                continue
            if rule.act is None:
                piece = self.sequence(rule, element)
                same = True
            else:
                value = data[start:end]
                key = (tag, vr, value)
                piece = memo.get(key, b"") if rule.pure else b""
                if not piece:
                    piece = self.element(rule, vr, value)
                    if rule.pure and end - start < 256:
                        memo[key] = piece
                same = piece.endswith(value)
            if not piece:
                removed += 1
                self.counts["removed"] += 1
            else:
                pieces.append((tag, piece))
                if same:
                    kept += 1
                elif len(piece) == 8:
                    emptied += 1
                else:
                    changed += 1
        if self.private:
            pieces += self.safe(elements)
        self.context.sibling = before
        self.counts.update(kept=kept, changed=changed, emptied=emptied)
        return pieces

    def value(self, elements: list[Element], tag: int) -> bytes:
        """A value of this level, b"" where it is absent; small numbers in little endian."""
        found = next((element for element in elements if element[0] == tag), None)
        if found is None:
            return b""
        value = self.data[found[2] : found[3]]
        return _swapped(value, 2) if self.parsed.big and found[1] in (b"US", b"SS") else value

    def element(self, rule: Rule, vr: bytes, value: bytes) -> bytes:
        """The encoded element, b"" to remove it."""
        out = self.vr(rule, vr)
        if out in SIZES and vr not in rule.vrs and vr not in (b"UN", b"OB", b"OW"):
            raise Refused("BAD_VR")  # text, or numbers of another size, where numbers have to be
        if self.parsed.big and out in SIZES:
            value = _swapped(value, SIZES[out])
        if not value.strip(b" \0") and vr in TEXT:
            return encode(rule.tag, out, b"")  # what was empty may stay so
        new = rule.act(self.context, value) if rule.act is not None else None
        if new is None:
            new = rule.fallback
        return b"" if new is None or (not new and rule.kind == 3 and value) else encode(rule.tag, out, new)

    def vr(self, rule: Rule, vr: bytes) -> bytes:
        """The VR that is written: the file's own where the standard allows it, else the standard's."""
        if len(rule.vrs) == 1:
            return rule.vr
        if rule.vrs == {b"US", b"SS"} and (vr == b"UN" or self.parsed.syntax.endswith(".1.2")):
            return b"SS" if self.signed else b"US"
        return vr if vr in rule.vrs else b"OW" if b"OW" in rule.vrs else rule.vr

    def sequence(self, rule: Rule, element: Element) -> bytes:
        items = element[4]
        if items is None:  # no sequence in the file, whatever the standard says: nothing of it is kept
            return b""
        cleaned: list[bytes] = []
        for item in items:
            elements = self.level(item)
            if any(found[0] == 0x00080100 for found in item):
                cleaned += self.code(rule, item, elements)
            elif elements or rule.kind < 3:
                cleaned.append(b"".join([piece for _, piece in elements]))
        if items and not cleaned and rule.kind == 3:
            return b""
        return sequence(rule.tag, cleaned)

    def code(self, rule: Rule, item: list[Element], pieces: list[tuple[int, bytes]]) -> Iterator[bytes]:
        """A code that PS3.16 knows, with PS3.16's own meaning; where one has to be and is not known, that of tissue."""
        value, scheme = (self.context_text(item, tag) for tag in (0x00080100, 0x00080102))
        meaning = terms.code(scheme, value)
        if meaning is None and rule.kind > 1:
            return
        if meaning is None:
            scheme, value, meaning = _FALLBACK_CODES.get(rule.keyword, _TISSUE)
        yield b"".join(piece for _, piece in sorted([*pieces, (0x00080100, code_item(scheme, value, meaning))]))

    def context_text(self, item: list[Element], tag: int) -> str:
        return next(
            (self.data[start:end].decode("latin-1").strip(" \0") for found, _, start, end, _ in item if found == tag),
            "",
        )

    def safe(self, elements: list[Element]) -> list[tuple[int, bytes]]:
        """Private numbers of Table E.3.10-1, under their creators.  Text is not kept, whatever the table says."""
        creators, kept, known = {}, {}, safe_private()
        for tag, _, start, end, _ in elements:
            group, number = tag >> 16, tag & 0xFFFF
            if not group & 1:
                continue
            if 0x10 <= number <= 0xFF:
                creators[group, number] = self.data[start:end].decode("latin-1").strip(" \0")
                continue
            creator = creators.get((group, number >> 8), "")
            vr, most = known.get((creator, group, number & 0xFF), (b"", None))
            value = self.data[start:end]
            if vr in SIZES and self.parsed.big:
                value = _swapped(value, SIZES[vr])
            passed = _safe_numbers(vr, most, self.context, value)
            if passed:
                kept[tag] = encode(tag, vr, passed)
                kept[group << 16 | number >> 8] = encode(group << 16 | number >> 8, b"LO", creator.encode("ascii"))
        return sorted(kept.items())


def _safe_numbers(vr: bytes, most: int | None, context: Context, value: bytes) -> bytes | None:
    """A private value as it is, where it holds numbers, and no more of them than the table allows."""
    if vr in (b"DS", b"IS"):
        passed = decimals(context, value) if vr == b"DS" else integers(context, value)
        return passed if passed and (most is None or passed.count(b"\\") < most) else None
    return binary(vr, most)(context, value) if vr in SIZES and vr != b"OW" else None


def _swapped(value: bytes, size: int) -> bytes:
    """The other byte order, number by number."""
    import numpy as np

    return np.frombuffer(value, f">u{size}").astype(f"<u{size}").tobytes() if len(value) % size == 0 else value


def file_head(sop_class: bytes, sop_instance: bytes, syntax: bytes) -> bytes:
    """128 zero bytes, the mark, and file meta information of six elements (PS3.10 7.1)."""
    meta = b"".join(
        [
            encode(0x00020001, b"OB", b"\0\1"),
            encode(0x00020002, b"UI", sop_class),
            encode(0x00020003, b"UI", sop_instance),
            encode(0x00020010, b"UI", syntax),
            encode(0x00020012, b"UI", IMPLEMENTATION),
            encode(0x00020013, b"SH", VERSION),
        ]
    )
    return bytes(128) + b"DICM" + encode(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta
