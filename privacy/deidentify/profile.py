"""PS3.15 Table E.1-1 with its options, and from it and the allow-list the rules of a SOP class, by integer tag."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from privacy.deidentify import attributes, values
from privacy.deidentify.modules import words
from privacy.deidentify.policy import Policy

OPTION_LETTERS = {  # CID 7050 code -> the letter of its column in profile.tsv; later ones win
    "113105": "T",
    "113107": "M",
    "113106": "F",
    "113108": "H",
    "113109": "D",
    "113110": "U",
    "113112": "I",
}


@cache
def table() -> dict[str, tuple[str, dict[str, str]]]:
    """Table E.1-1: tag as 8 hexadecimal digits (x for any) -> (basic action, {option letter: action})."""
    rows = {}
    for line in files("privacy.deidentify").joinpath("profile.tsv").read_text().splitlines():
        if line and not line.startswith("#"):
            tag, basic, *options = re.split(r"[\t ]", line)
            rows[tag] = (basic, {option[0]: option[1:] for option in options if option})
    return rows


@cache
def safe_private() -> dict[tuple[str, int, int], tuple[bytes, int | None]]:
    """Table E.3.10-1: (private creator, group, last byte of the element) -> VR, and the most values (None: any
    number)."""
    rows = {}
    for line in files("privacy.deidentify").joinpath("safe_private.tsv").read_text().splitlines():
        if not line.startswith("#"):
            creator, group, byte, vr, most = [*line.split("\t"), "", ""][:5]
            rows[creator, int(group, 16), int(byte, 16)] = vr[:2].encode(), int(most) if most else None
    return rows


def action(tag: int, kind: int, options: frozenset[str]) -> str:
    """What E.1-1 says of `tag` under `options`, alternatives resolved by the attribute's type (1, 2 or 3) in its
    object: X remove, Z empty, D dummy, U map, K keep, C clean; "" where the table has no row."""
    row = table().get(f"{tag:08X}")
    if row is None:
        return ""
    basic, columns = row
    for code, letter in reversed(OPTION_LETTERS.items()):
        if code in options and letter in columns:
            return columns[letter]
    if basic == "X/Z/U*":
        return "U"  # references between objects stay whole
    alternatives = basic.split("/")
    wanted = {1: "DZX", 2: "ZXD", 3: "XZD"}[kind]
    return next((letter for letter in wanted if letter in alternatives), alternatives[0])


@dataclass(slots=True, frozen=True)
class Rule:
    """What happens to an attribute.  `act` gives the new value, or None where the value does not pass; `pure` says
    that it depends on the value alone.  For a sequence `act` is None: its items are cleaned."""

    tag: int
    keyword: str
    vr: bytes
    vrs: frozenset[bytes]
    kind: int
    action: str
    act: Callable[[values.Context, bytes], bytes | None] | None
    pure: bool

    @property
    def fallback(self) -> bytes | None:
        """The value where `act` gives none: a dummy for type 1, empty for type 2, None (remove) for type 3."""
        return None if self.kind == 3 else b"" if self.kind == 2 else attributes.dummy(self.keyword, self.vr)


def rules(sop_class: str, policy: Policy) -> dict[int, Rule]:
    """The rules of a SOP class by tag.  What has no rule is removed.  KeyError for an unsupported class."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    options = frozenset(policy.options)
    result = {}
    for keyword, kind in words(sop_class).items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise KeyError(f"{keyword} is no keyword of PS3.6")
        vrs = dictionary_VR(tag).split(" or ")
        rule = _rule(int(tag), keyword, [vr.encode() for vr in vrs], kind, options)
        if rule is not None:
            result[rule.tag] = rule
    return result


def _rule(tag: int, keyword: str, vrs: list[bytes], kind: int, options: frozenset[str]) -> Rule | None:
    what = action(tag, kind, options)
    act: values.Act
    if what == "X":
        return None
    if what == "K" and vrs[0] == b"UI":
        act, pure = values.same_uid, True
    elif vrs[0] == b"SQ":
        if what == "Z":
            return None if kind == 3 else Rule(tag, keyword, b"SQ", frozenset([b"SQ"]), kind, "Z", values.empty, True)
        return Rule(tag, keyword, b"SQ", frozenset([b"SQ"]), kind, what or "K", None, True)
    elif what in ("Z", "D") and keyword not in attributes.BY_KEYWORD:
        act, pure = (values.empty, True) if what == "Z" else (values.constant(attributes.dummy(keyword, vrs[0]) or b""), True)
    else:
        act, pure = attributes.check(keyword, vrs[0], what, options)
    return Rule(tag, keyword, vrs[0], frozenset(vrs), kind, what or "K", act, pure)
