"""One file from its bytes to a checked copy without identity, or to the code of why there is none."""

import hashlib
import os
import re
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from privacy.deidentify import intake, modules, pixels, selfcheck, values
from privacy.deidentify.cleaner import Cleaner, file_head
from privacy.deidentify.policy import CLEAN_PIXELS, Policy, rule_set
from privacy.deidentify.pseudonyms import Pseudonyms
from privacy.deidentify.reader import ENCAPSULATED, EXPLICIT, Parsed, parse
from privacy.deidentify.states import Refused, Skipped, State

HEAD = re.compile(
    r"\b(HEAD|BRAIN|SKULL|FACE|SINUS|SINUSES|ORBITS?|CRANIUM|CEREBRUM|PITUITARY|IAC|NEURO|HEADNECK|WHOLE ?BODY|"
    r"MPRAGE)\b"
)  # in what an object says of its body part
VOLUMES = {"CT", "CT enhanced", "MR", "MR enhanced", "PT", "PT enhanced"}


@dataclass(slots=True)
class Identity:
    """What tells an object's patient, study, series and instance apart, as the file has it."""

    sop_class: str
    instance: str
    series: str
    study: str
    patient: str
    issuer: str


@dataclass(slots=True)
class Outcome:
    """What became of one input.  Only `identity` holds values of the file; it goes into the vault, encrypted."""

    state: State
    code: str = ""
    name: str = ""  # path below the output folder
    content: str = ""  # keyed hash of the input's bytes
    instance: str = ""  # new SOP instance UID
    patient: str = ""  # pseudonym
    identity: Identity | None = None
    row: dict[str, object] = field(default_factory=dict)  # of the manifest
    partial: str = ""  # the written, checked file that has no name yet
    note: str = ""  # for the site's own eyes, without values: which self-check


def identity(parsed: Parsed) -> Identity:
    """Refused where an object cannot be told from others."""
    found = Identity(
        *(parsed.text(tag) for tag in (0x00080016, 0x00080018, 0x0020000E, 0x0020000D, 0x00100020, 0x00100021))
    )
    if not found.sop_class:
        raise Refused("MISSING_ID")
    if not modules.name(found.sop_class):
        raise Refused("UNSUPPORTED_SOP")
    if not (found.instance and found.series and found.study and found.patient):
        raise Refused("MISSING_ID")
    if any("\\" in uid for uid in (found.instance, found.series, found.study)):
        raise Refused("BAD_UID")
    return found


class Deidentifier:
    """The rules, the key and the output folder of a run, in one process.  Calling it handles one file."""

    def __init__(self, key: bytes, policy: Policy, out: Path):
        self.key, self.policy, self.out = key, policy, out
        self.pseudonyms, self.rule_set = Pseudonyms(key), rule_set(policy)
        self.cleaners: dict[str, Cleaner] = {}
        self.number, self.mark = 0, secrets.token_hex(6)

    def __call__(self, path: bytes) -> Outcome:
        """The outcome for the file at `path`; a checked copy lies at `outcome.partial`, to be renamed."""
        content = ""
        try:
            source = intake.read(path, self.policy.max_file_mib << 20)
            content = self.pseudonyms.digest("content", hashlib.sha256(source).digest()).hex()[:32]
            return self.handle(source, content)
        except Skipped as skipped:
            return Outcome(State.SKIPPED, skipped.kind, content=content)
        except Refused as refused:
            return Outcome(State.QUARANTINED, refused.code, content=content)
        except MemoryError:
            return Outcome(State.QUARANTINED, "TOO_LARGE", content=content)

    def handle(self, source: bytes, content: str) -> Outcome:
        """The outcome for a file's bytes.  Refused or Skipped where there is no copy."""
        try:
            parsed = parse(source)
        except Refused as refused:
            kind = intake.kind(source) if refused.code == "NOT_DICOM" else ""
            if kind:
                raise Skipped(kind) from None
            raise
        who = identity(parsed)
        cleaner = self.cleaner(who.sop_class)
        self._head(parsed, modules.name(who.sop_class))
        image = self._image(parsed, cleaner)
        context = self.context(parsed, who)
        codes = [code for code in self.policy.codes if code != CLEAN_PIXELS]
        burned_in = b"YES" if parsed.text(0x00280301) == "YES" else b""
        elements, counts = cleaner.clean(parsed, context, codes, burned_in)
        counts["tail"] = int(parsed.tail > 0)
        syntax = parsed.syntax if parsed.syntax in ENCAPSULATED else EXPLICIT
        instance = self.uid(who.instance)
        name = f"{context.patient}/{self.uid(who.series)}/{instance}.dcm"
        head = file_head(who.sop_class.encode(), instance.encode(), syntax.encode())
        partial = self._write([head, *(piece for _, piece in elements), *image])
        expected = selfcheck.Expected(self.key, self.policy, who.sop_class, tuple(codes), syntax)
        written = partial.read_bytes()
        try:
            selfcheck.check(source, written, expected)
        except selfcheck.Leak as leak:
            partial.unlink()
            return Outcome(State.QUARANTINED, "SELF_CHECK", content=content, identity=who, note=str(leak))
        row = self.row(written, who, counts, parsed, codes)
        return Outcome(State.DEIDENTIFIED, "", name, content, instance, context.patient, who, row, partial.name)

    def cleaner(self, sop_class: str) -> Cleaner:
        if sop_class not in self.cleaners:
            self.cleaners[sop_class] = Cleaner(sop_class, self.policy, self.rule_set)
        return self.cleaners[sop_class]

    def uid(self, value: str) -> str:
        raw = value.encode("latin-1")
        return value if "113110" in self.policy.options and values.is_uid(raw) else self.pseudonyms.uid(raw).decode()

    def context(self, parsed: Parsed, who: Identity) -> values.Context:
        patient = self.pseudonyms.patient(who.patient, who.issuer)
        start = values.clock(parsed.text(0x00080030).encode("latin-1"))
        if start is None:
            start = self.pseudonyms.clock(who.study.encode("latin-1"))
        parts = re.split(r"[\^=, ]+", f"{parsed.text(0x00100010)}^{who.patient}".casefold())
        identifying = frozenset(part for part in parts if len(part) >= 4)
        return values.Context(
            self.pseudonyms, self.policy, patient, self.pseudonyms.shift(patient), values.MORNING - start, identifying
        )

    def _head(self, parsed: Parsed, name: str) -> None:
        """Refused where the object is a volume of the head and the policy does not allow those."""
        if name not in VOLUMES or self.policy.head_volumes == "allow":
            return
        described = " ".join(parsed.text(tag) for tag in (0x00180015, 0x00081030, 0x0008103E, 0x00181030)).upper()
        if HEAD.search(described.replace("_", " ")):
            raise Refused("HEAD_VOLUME")

    def _image(self, parsed: Parsed, cleaner: Cleaner) -> list[bytes | memoryview]:
        """The pixel data element's pieces; [] for a class that has no pixels."""
        if pixels.PIXEL_DATA not in cleaner.rules:
            return []
        element = pixels.find(parsed)
        if element is None:
            parsed.warnings.append("NO_PIXELS")
            return []
        shape = pixels.shape(parsed, self.policy.max_megapixels * 1_000_000)
        pixels.check(parsed, element, shape)
        return pixels.pieces(parsed, element, shape)

    def _write(self, parts: list[bytes | memoryview]) -> Path:
        self.number += 1
        partial = self.out / ".partial" / f"{self.mark}-{self.number}.part"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for part in (b"".join(parts[:-3]), *parts[-3:]) if len(parts) > 3 else parts:
                while len(part):
                    part = part[file.write(part) :]
        return partial

    def row(
        self, written: bytes, who: Identity, counts: Counter[str], parsed: Parsed, codes: list[str]
    ) -> dict[str, object]:
        """The manifest's row: no path, value, UID or hash of the source."""
        return {
            "sha256": hashlib.sha256(written).hexdigest(),
            "bytes": len(written),
            "class": modules.name(who.sop_class),
            "series": self.pseudonyms.subject(self.uid(who.series)),
            "elements": {key: count for key, count in sorted(counts.items()) if count},
            "pixels": "unchanged",
            "codes": codes,
            "warnings": parsed.warnings,
        }
