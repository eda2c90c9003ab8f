"""The words that text may hold: defined terms of coded strings, makers, kernels, descriptor words, names of
structures.

A value outside its vocabulary does not pass, whatever its attribute: text is where names end up.  Terms are those of
PS3.3; lists are per attribute, so that a term of one says nothing about another.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Any

PATTERNS = {  # text whose form leaves no room for a name
    "ConvolutionKernel": r"[A-Z]{1,2}\d{2}[a-z]?(\\\d)?|Br\d{2}[a-z]?|FC\d{2}|STANDARD|SOFT|LUNG|BONE|BONEPLUS"
    r"|DETAIL|EDGE|CHEST|ASIR|[A-E]|L|YA|YB|YC|SB|XYZGAUSS|ALLPASS",
    "SequenceName": r"\*?(tfl|tir|tse|se|gre|fl|fi|spc|ep|epfid|h|ciss|de3d|pc|spcir|swi|medic|qflash)\d{0,3}(d\d)?"
    r"(_\d{1,4})*",
    "PulseSequenceName": r"\*?(tfl|tir|tse|se|gre|fl|fi|spc|ep|TSE|SE|FFE|TFE|EPI|MPRAGE)\d{0,3}(d\d)?(_\d{1,4})*",
    "FrameLabel": r"\d{1,5}",
}


@cache
def _lists() -> dict[str, frozenset[str]]:
    """terms.tsv: attribute, or (list) -> terms."""
    result: dict[str, frozenset[str]] = {}
    for line in files("privacy.deidentify").joinpath("terms.tsv").read_text().splitlines():
        if not line.startswith("#"):
            keywords, _, terms = line.partition("\t")
            result |= dict.fromkeys(keywords.split(), frozenset(terms.split("|")))
    return result


@cache
def coded() -> dict[str, frozenset[str]]:
    """The terms of each attribute that holds one of a list, by keyword."""
    return {keyword: terms for keyword, terms in _lists().items() if not keyword.startswith("(")}


@cache
def _structures() -> dict[str, str]:
    return {name.casefold(): name for name in _lists()["(structures)"]}


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    return {keyword: re.compile(pattern) for keyword, pattern in PATTERNS.items()}


def term(keyword: str, value: str) -> str | None:
    """`value` where it is a term of its attribute, else None.  Case is as the list has it."""
    if keyword in PATTERNS:
        return value if _patterns()[keyword].fullmatch(value) else None
    known = coded().get(keyword, frozenset())
    upper = value.upper()
    return value if value in known else upper if upper in known else None


def model(value: str) -> str | None:
    """A device's model name where each of its words is one, e.g. "SOMATOM Definition AS+"; else None."""
    upper = value.upper()
    return value if upper in _lists()["(models)"] or all(word in _lists()["(models)"] for word in upper.split()) else None


def descriptor(value: str) -> str:
    """What is left of a description when every word outside the vocabulary is taken out; numbers go too.

    >>> descriptor("T1 AX POST GD Mrs Smith 1951")
    'T1 AX POST GD'
    """
    return " ".join(word for word in re.split(r"[\s,;:/()_^-]+", value.upper()) if word in _lists()["(descriptors)"])


def structure(value: str, site: frozenset[str] = frozenset()) -> str | None:
    """The name of a segment or region of interest in TG-263 or in the site's own table; None where it is in neither."""
    return _structures().get(value.casefold()) or (value if value in site else None)


@cache
def _codes() -> dict[str, dict[str, str]]:
    from pydicom.sr._concepts_dict import concepts  # the codes of PS3.16, as data

    table: dict[str, dict[str, str]] = {}
    everything: dict[str, Any] = concepts
    for scheme, words in everything.items():
        table[scheme] = {code: meaning for entry in words.values() for code, (meaning, _) in entry.items()}
    return table


@cache
def code(scheme: str, value: str) -> str | None:
    """The meaning that PS3.16 gives to a code, None where it knows none.  SNOMED-RT codes are looked up as their CT
    twins.

    >>> code("SCT", "10200004")
    'Liver structure (body structure)'
    """
    if scheme in ("SRT", "SNM3", "99SDM"):
        from pydicom.sr._snomed_dict import mapping

        scheme, value = "SCT", mapping["SRT"].get(value, "")
    return _codes().get(scheme, {}).get(value)
