"""What may become of a value: each function gives the new value, unpadded, or None where the value does not pass.

Values are bytes.  A function of `(Context, bytes)` may look at the patient and at the data set it is in.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from privacy.deidentify import terms
from privacy.deidentify.policy import Policy
from privacy.deidentify.pseudonyms import Pseudonyms

MORNING = 6 * 3600 * 1_000_000  # µs; where the clock of each study is set, so that its times stay a study's length apart
DAY = 86_400 * 1_000_000


@dataclass(slots=True)
class Context:
    """The object that a value is of: whose it is, how its dates move, and `sibling(tag)`, a value beside it."""

    pseudonyms: Pseudonyms
    policy: Policy
    patient: str = ""
    days: int = 0
    clock: int = 0  # µs by which times of day move
    identifying: frozenset[str] = frozenset()  # parts of names and IDs, case-folded
    sibling: Callable[[int], bytes] = lambda tag: b""
    memo: dict[Any, bytes] = field(default_factory=dict)


Act = Callable[[Context, bytes], bytes | None]

# possessive (*+), so that a list of any length is matched in one pass, and nothing is tried twice
_DS = rb"(?: *+[+-]?+(?:\d{1,16}+(?:\.\d{0,20}+)?+|\.\d{1,20}+)(?:[eE][+-]?+\d{1,3}+)?+ *+)?+"
_DECIMALS = re.compile(rb"%s(?:\\%s)*+" % (_DS, _DS))
_IS = re.compile(rb" *[+-]?\d{1,10} *")
_AS = re.compile(rb"\d{3}[DWMY]")
_DATE = re.compile(rb"(\d{4})\.?(\d\d)\.?(\d\d)")
_TIME = re.compile(rb"(\d\d):?(\d\d)?:?(\d\d)?(?:\.(\d{1,6}))?")
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_ORIENTATION = re.compile(rb"[LRAPHF]{1,3}(?:\\[LRAPHF]{1,3})?|[LRADVCPTM]{1,4}(?:\\[LRADVCPTM]{1,4})?")
_PRINTED, _ALL_PRINTED = re.compile(rb"[\x20-\x7e]{6}"), re.compile(rb"[\x20-\x7e]+\0*")
_WORD = re.compile(rb"[A-Za-z]{3}|[0-9]{6}")
_DEVICE = re.compile(rb"[A-Za-z0-9 ._/+-]{1,64}")

SIZES = {b"US": 2, b"SS": 2, b"UL": 4, b"SL": 4, b"FL": 4, b"FD": 8, b"AT": 2, b"OW": 2, b"UV": 8, b"SV": 8}

# DA -> the TM that says when on that day; both move together, so that what crossed midnight still does in the right
# order
TIME_OF = {
    0x00080020: 0x00080030,
    0x00080021: 0x00080031,
    0x00080022: 0x00080032,
    0x00080023: 0x00080033,
    0x00080012: 0x00080013,
    0x30060008: 0x30060009,
    0x300A0006: 0x300A0007,
    0x00181200: 0x00181201,
}


def empty(context: Context, value: bytes) -> bytes | None:
    """Nothing, whatever it was."""
    return b""


def constant(new: bytes) -> Act:
    """Always `new`."""
    return lambda context, value: new


# ---------------------------------------------------------------------------------------------------------- numbers


def decimals(context: Context, value: bytes) -> bytes | None:
    """Numbers as text (DS), any count, as they are."""
    value = value.rstrip(b" \0")
    return value if _DECIMALS.fullmatch(value) else None


def integers(context: Context, value: bytes) -> bytes | None:
    """An IS value of whole numbers as it is."""
    value = value.rstrip(b" \0")
    return value if all(_IS.fullmatch(part) or not part for part in value.split(b"\\")) else None


def age(context: Context, value: bytes) -> bytes | None:
    """An age; over 89 years it is 090Y."""
    value = value.strip(b" \0")
    if not _AS.fullmatch(value):
        return None
    return b"090Y" if value.endswith(b"Y") and int(value[:3]) > 89 else value


def spelt(vr: bytes, value: bytes) -> bool:
    """Whether the bytes of numbers are letters, digits and the like.  Of integers: six in a row.  Floating-point
    numbers come to that by chance: all of them, and in a single one a word or a long number."""
    if vr not in (b"FL", b"FD"):
        return _PRINTED.search(value) is not None
    return len(value) >= 6 and _ALL_PRINTED.fullmatch(value) is not None and (len(value) > 8 or _WORD.search(value) is not None)


def binary(vr: bytes, most: int | None) -> Act:
    """Numbers of a binary VR, at most as many as the attribute's multiplicity allows: what is longer could be text."""
    size = 4 if vr == b"AT" else SIZES[vr]
    limit = size * most if most is not None else None

    def act(context: Context, value: bytes) -> bytes | None:
        fits = len(value) % size == 0 and (limit is None or len(value) <= limit)
        return value if fits and not spelt(vr, value) else None

    return act


def table_data(context: Context, value: bytes) -> bytes | None:
    """A lookup table's entries (PS3.3 C.7.6.3.1.5): exactly as many as the descriptor beside it says."""
    for tag in (0x00281101, 0x00281102, 0x00281103, 0x00283002):
        descriptor = context.sibling(tag)
        if len(descriptor) >= 6:
            entries = int.from_bytes(descriptor[:2], "little") or 65536
            if len(value) in (2 * entries, entries + entries % 2):
                return value
    return None


def segmented_table(context: Context, value: bytes) -> bytes | None:
    """A segmented lookup table (PS3.3 C.7.9.2): segments that unfold to exactly as many entries as its descriptor
    says."""
    words = [int.from_bytes(value[i : i + 2], "little") for i in range(0, len(value) - 1, 2)]
    entries, here = 0, 0
    while here + 2 < len(words) and words[here] in (0, 1):
        count = words[here + 1]
        entries += count
        here += 2 + (count if words[here] == 0 else 1)
    descriptors = [context.sibling(tag) for tag in (0x00281101, 0x00281102, 0x00281103)]
    wanted = {int.from_bytes(descriptor[:2], "little") or 65536 for descriptor in descriptors if len(descriptor) >= 6}
    return value if here == len(words) and entries in wanted else None


# ------------------------------------------------------------------------------------------------------ UIDs, dates


def uid(context: Context, value: bytes) -> bytes | None:
    """The UIDs' pseudonyms."""
    value = value.strip(b" \0")
    if not value:
        return b""
    parts = value.split(b"\\")
    return b"\\".join(context.pseudonyms.uid(part.strip(b" \0")) for part in parts)


def is_uid(value: bytes) -> bool:
    """Whether it has the form of a UID (PS3.5, section 9.1)."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def same_uid(context: Context, value: bytes) -> bytes | None:
    """UIDs as they are, under 113110; what only calls itself a UID is mapped all the same."""
    value = value.strip(b" \0")
    parts = [part.strip(b" \0") for part in value.split(b"\\")]
    return b"\\".join(part if is_uid(part) else context.pseudonyms.uid(part) for part in parts) if value else b""


def day(value: bytes) -> date | None:
    """The day that a DA holds, None where it is none."""
    match = _DATE.fullmatch(value.strip(b" \0"))
    try:
        return date(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None


def clock(value: bytes) -> int | None:
    """The time of day that a TM holds, in µs, None where it is none."""
    match = _TIME.fullmatch(value.strip(b" \0"))
    if match is None:
        return None
    hour, minute, second = (int(match[n] or 0) for n in (1, 2, 3))
    if hour > 23 or minute > 59 or second > 60:
        return None
    return ((hour * 60 + minute) * 60 + min(second, 59)) * 1_000_000 + int((match[4] or b"0").ljust(6, b"0"))


def _day(moved: date, days: int) -> bytes | None:
    try:
        return (moved + timedelta(days=days)).strftime("%Y%m%d").encode().rjust(8, b"0")
    except OverflowError:
        return None


def moved_date(tag: int) -> Act:
    """Dates go back by the patient's shift, and one day more or less where their time of day crosses midnight."""

    def act(context: Context, value: bytes) -> bytes | None:
        found = day(value)
        if found is None:
            return None
        time = clock(context.sibling(TIME_OF[tag])) if tag in TIME_OF else None
        return _day(found, context.days + ((time + context.clock) // DAY if time is not None else 0))

    return act


def moved_time(context: Context, value: bytes) -> bytes | None:
    """Times of day move with their study, whose own time becomes 06:00."""
    found = clock(value)
    if found is None:
        return None
    return _time((found + context.clock) % DAY, b"." in value)


def _time(microseconds: int, fraction: bool) -> bytes:
    seconds, rest = divmod(microseconds, 1_000_000)
    text = b"%02d%02d%02d" % (seconds // 3600, seconds // 60 % 60, seconds % 60)
    return text + b".%06d" % rest if fraction else text


def moved_datetime(context: Context, value: bytes) -> bytes | None:
    """A DT value, moved as the patient's dates and times are."""
    text = value.strip(b" \0")
    match = re.fullmatch(rb"(\d{8})(\d{2,6}(?:\.\d{1,6})?)?([+-]\d{4})?", text)
    found = day(match[1]) if match else None
    if match is None or found is None:
        return None
    time = clock(match[2]) if match[2] else None
    if match[2] and time is None:
        return None
    carry, rest = divmod(time + context.clock, DAY) if time is not None else (0, 0)
    new = _day(found, context.days + carry)
    return None if new is None else new + (_time(rest, b"." in text) if time is not None else b"") + (match[3] or b"")


def same_date(context: Context, value: bytes) -> bytes | None:
    """A DA value as it is, under 113106."""
    return value.strip(b" \0") if day(value) else None


def same_time(context: Context, value: bytes) -> bytes | None:
    """A TM value as it is."""
    return value.strip(b" \0") if clock(value) is not None else None


def same_datetime(context: Context, value: bytes) -> bytes | None:
    """A DT value as it is."""
    text = value.strip(b" \0")
    return text if re.fullmatch(rb"\d{8}(\d{2,6}(\.\d{1,6})?)?([+-]\d{4})?", text) and day(text[:8]) else None


# -------------------------------------------------------------------------------------------------------------- text


def coded(keyword: str) -> Act:
    """One or more terms of the attribute's list.  In ImageType what is unknown becomes OTHER, after the third place
    NONE."""

    def act(context: Context, value: bytes) -> bytes | None:
        parts = [part.strip() for part in value.decode("latin-1").strip(" \0").split("\\")]
        found = [terms.term(keyword, part) if part else "" for part in parts]
        if keyword in ("ImageType", "FrameType"):
            if None in found[:2] or len(found) < 2:
                return None
            found = [*found[:2], *(word or "OTHER" for word in found[2:3]), *(word or "NONE" for word in found[3:])]
        elif keyword in ("ScanOptions", "CorrectedImage", "SequenceVariant", "ScanningSequence"):
            found = [word for word in found if word]
        elif None in found:
            return None
        return "\\".join(word or "" for word in found).encode() or None

    return act


def orientation(context: Context, value: bytes) -> bytes | None:
    r"""A patient orientation, e.g. A\L, as it is."""
    value = value.strip(b" \0")
    return value if _ORIENTATION.fullmatch(value) else None


def model(context: Context, value: bytes) -> bytes | None:
    """A manufacturer's model name that is known, in the known spelling."""
    found = terms.model(value.decode("latin-1").strip(" \0"))
    return found.encode() if found else None


def kernel(context: Context, value: bytes) -> bytes | None:
    """A convolution kernel that is known."""
    found = terms.term("ConvolutionKernel", value.decode("latin-1").strip(" \0"))
    return found.encode() if found else None


def descriptor(context: Context, value: bytes) -> bytes | None:
    """What is left of a description when only known words stay."""
    return terms.descriptor(value.decode("latin-1"))[:64].strip().encode() or None


def structure(label: str, number_tag: int) -> Act:
    """A structure's name where TG-263 or the site's table has it, else its number."""

    def act(context: Context, value: bytes) -> bytes | None:
        site = frozenset(context.policy.structures)
        found = terms.structure(value.decode("utf-8", "replace").strip(" \0"), site)
        if found:
            return found.encode()
        raw = context.sibling(number_tag).strip(b" \0")
        number = raw.decode() if raw.isdigit() else str(int.from_bytes(raw[:2], "little"))
        return f"{label} {number[:10]}".encode()

    return act


def institution(context: Context, value: bytes) -> bytes | None:
    """An institution that the policy names."""
    return value.strip(b" \0") if value.decode("utf-8", "replace").strip(" \0") in context.policy.institutions else None


def device(context: Context, value: bytes) -> bytes | None:
    """A device's name or number: short, plain, and without a part of the patient's names or numbers."""
    value = value.strip(b" \0")
    folded = value.decode("latin-1").casefold()
    return value if _DEVICE.fullmatch(value) and not any(part in folded for part in context.identifying) else None


def patient_id(context: Context, value: bytes) -> bytes | None:
    """The patient's pseudonym."""
    return context.patient.encode()


def removed(context: Context, value: bytes) -> bytes | None:
    """Not there."""
    return None
