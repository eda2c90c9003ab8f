"""What a file holds, element by element, and what would become of each."""

import secrets
from pathlib import Path

from fedvision.errors import DataError
from privacy.deidentify import intake, modules
from privacy.deidentify.cleaner import Cleaner
from privacy.deidentify.instance import Deidentifier, identity
from privacy.deidentify.policy import Policy, rule_set
from privacy.deidentify.profile import table
from privacy.deidentify.reader import PIXEL_DATA, Element, Parsed, parse
from privacy.deidentify.states import Refused, Skipped
from privacy.deidentify.values import Context

SHOWN = 40  # characters of a value, and elements of a sequence's items beyond the first are not listed twice


def lines(path: Path, policy: Policy, values: bool = False) -> list[dict[str, str]]:
    """A line for each element: tag (indented by depth), VR, attribute, bytes, what happens, why; the value where
    asked for.

    Pseudonyms are made under a key that is thrown away.  DataError, with the code, for a file that would be held
    back.
    """
    try:
        parsed = parse(intake.read(str(path).encode(), policy.max_file_mib << 20))
        who = identity(parsed)
    except (Refused, Skipped) as error:
        raise DataError(f"the file would not be de-identified; {error}") from None
    key = secrets.token_bytes(32)
    context = Deidentifier(key, policy, path.parent).context(parsed, who)
    return _Listing(parsed, Cleaner(who.sop_class, policy, rule_set(policy)), context, values).level(parsed.elements, 0)


class _Listing:
    def __init__(self, parsed: Parsed, cleaner: Cleaner, context: Context, values: bool):
        self.parsed, self.cleaner, self.context, self.values = parsed, cleaner, context, values

    def level(self, elements: list[Element], depth: int) -> list[dict[str, str]]:
        found = []
        for element in elements:
            found.append(self.line(element, elements, depth))
            if element[4] is not None and element[0] != PIXEL_DATA:
                for item in element[4]:
                    found += self.level(item, depth + 1)
        return found

    def line(self, element: Element, beside: list[Element], depth: int) -> dict[str, str]:
        tag, vr, start, end, _ = element
        what, why = self.fate(element, beside)
        line = {
            "tag": "  " * depth + f"({tag >> 16:04X},{tag & 0xFFFF:04X})",
            "VR": vr.decode("latin-1"),
            "attribute": _keyword(tag),
            "bytes": f"{end - start:,}",
            "becomes": what,
            "because": why,
        }
        if self.values:
            raw = self.parsed.data[start : min(end, start + SHOWN)].decode("latin-1").strip(" \0")
            line["value"] = "".join(letter if letter.isprintable() else "." for letter in raw)
        return line

    def fate(self, element: Element, beside: list[Element]) -> tuple[str, str]:
        """(what becomes of an element, why)."""
        tag, _, start, end, items = element
        if tag == PIXEL_DATA:
            return "checked", "its length must fit; text in it is looked for in classes at risk"
        rule = self.cleaner.rules.get(tag)
        row = table().get(f"{tag:08X}")
        if rule is None:
            if tag >> 16 & 1:
                return "removed", "private"
            return (
                "removed",
                f"Table E.1-1: {row[0]}" if row and "X" in row[0] else f"not in the allow-list of {modules.name(self.cleaner.sop_class)}",
            )
        why = f"Table E.1-1: {rule.action}" if row else "in the allow-list"
        if rule.act is None:
            return ("cleaned", why) if items is not None else ("removed", "no sequence")
        if rule.keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"):
            return "checked", "a code stays where PS3.16 knows it, with PS3.16's meaning"
        self.context.sibling = lambda wanted: next((self.parsed.data[e[2] : e[3]] for e in beside if e[0] == wanted), b"")
        old = self.parsed.data[start:end].strip(b" \0")
        new = rule.act(self.context, self.parsed.data[start:end])
        if new is None:
            new = rule.fallback
            why = "not a term, number or form that may pass" if old else why
        if new is None:
            return "removed", why
        return ("emptied" if not new and old else "kept" if new.strip(b" \0") == old else "replaced"), why


def _keyword(tag: int) -> str:
    from pydicom.datadict import keyword_for_tag

    return "private" if tag >> 16 & 1 else keyword_for_tag(tag) or "unknown"
