"""One file from its bytes to a checked copy without identity, or to the code of why there is none."""

import hashlib
import importlib
import os
import re
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedvision.errors import DataError
from privacy.deidentify import burned_in, intake, modules, pixels, profile, selfcheck, terms, values
from privacy.deidentify.cleaner import Cleaner, encode, file_head
from privacy.deidentify.policy import CLEAN_PIXELS, Policy, rule_set
from privacy.deidentify.pseudonyms import Pseudonyms
from privacy.deidentify.reader import ENCAPSULATED, EXPLICIT, Element, Parsed, parse
from privacy.deidentify.states import Refused, Skipped, State

HEAD = re.compile(
    r"\b(HEAD|BRAIN|SKULL|FACE|SINUS|SINUSES|ORBITS?|CRANIUM|CEREBRUM|PITUITARY|IAC|NEURO|HEADNECK|WHOLE ?BODY|"
    r"MPRAGE)\b"
)  # in what an object says of its body part
SAMPLE = 16  # one in so many images of a CT, MR or PT series is looked at for text
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

    def as_json(self) -> dict[str, str]:
        """Its fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Outcome:
    """What became of one input.  Only `identity` holds values of the file; it goes into the vault, encrypted."""

    state: State
    code: str = ""
    name: str = ""  # path below the output folder
    content: str = ""  # keyed hash of the input's bytes, and, where it was read, of what it says of its patient and study
    instance: str = ""  # new SOP instance UID
    patient: str = ""  # pseudonym
    identity: Identity | None = None
    row: dict[str, object] = field(default_factory=dict)  # of the manifest
    partial: str = ""  # the written, checked file that has no name yet
    note: str = ""  # for the site's own eyes, without values: which self-check


def described(elements: list[tuple[int, bytes]], changes: dict[int, int | str]) -> list[tuple[int, bytes]]:
    """The elements, with those that describe the pixels as they are now."""
    new = {
        tag: encode(tag, b"CS", value.encode()) if isinstance(value, str) else encode(tag, b"US", value.to_bytes(2, "little"))
        for tag, value in changes.items()
    }
    return sorted([entry for entry in elements if entry[0] not in new] + list(new.items())) if new else elements


def identity(parsed: Parsed) -> Identity:
    """Refused where an object cannot be told from others."""
    found = Identity(*(parsed.text(tag) for tag in (0x00080016, 0x00080018, 0x0020000E, 0x0020000D, 0x00100020, 0x00100021)))
    if not found.sop_class:
        raise Refused("MISSING_ID")
    if not modules.name(found.sop_class):
        raise Refused("UNSUPPORTED_SOP")
    if not (found.instance and found.series and found.study and found.patient):
        raise Refused("MISSING_ID")
    if any("\\" in uid for uid in (found.instance, found.series, found.study)):
        raise Refused("BAD_UID")
    return found


def told(parsed: Parsed) -> bytes:
    """What an object says of its patient, study and series, in whatever encoding: two files that differ in it are two
    objects, also where their copies, from which it is gone, are the same."""
    some = [element for element in parsed.elements if element[0] >> 16 in (0x0008, 0x0010) and element[4] is None]
    pairs = [(tag, parsed.data[start:end].strip(b" \0")) for tag, vr, start, end, _ in some if vr not in values.SIZES and tag & 0xFFFF]
    return hashlib.sha256(repr(pairs).encode()).digest()


def unwritable(out: Path, error: OSError) -> DataError:
    """What a run over a full or read-only disk ends with."""
    return DataError(
        f"{out} cannot be written to: {error.strerror}; make room or see to its rights, and run again: what is done stays done"
    )


def load() -> None:
    """Load the tables that every file needs, so that children which are forked afterwards have them in common."""
    profile.table(), profile.safe_private(), terms.code("", ""), terms.coded(), terms.structure("")
    importlib.import_module("pydicom.datadict")
    importlib.import_module("pydicom._uid_dict")


class Deidentifier:
    """The rules, the key and the output folder of a run, in one process.  Calling it handles one file."""

    def __init__(self, key: bytes, policy: Policy, out: Path):
        self.key, self.policy, self.out = key, policy, out
        self.pseudonyms, self.rule_set = Pseudonyms(key), rule_set(policy)
        self.cleaners: dict[str, Cleaner] = {}
        self.number, self.mark = 0, secrets.token_hex(6)
        self.known: set[tuple[int, bytes, bytes]] = set()  # the self-check's own memory

    def __call__(self, path: bytes, thoroughly: bool = False) -> Outcome:
        """The outcome for the file at `path`, which is absolute and has no link in it; a checked copy lies at `outcome.partial`, to be renamed.

        thoroughly: look at every frame whatever the class, since text was found in another image of the series.
        """
        content = ""
        try:
            source = intake.read(path, self.policy.max_file_mib << 20, straight=True)
            content = self.pseudonyms.digest("content", hashlib.sha256(source).digest()).hex()[:32]
            return self.handle(source, content, thoroughly)
        except Skipped as skipped:
            return Outcome(State.SKIPPED, skipped.kind, content=content)
        except Refused as refused:
            return Outcome(State.QUARANTINED, refused.code, content=content)
        except MemoryError:
            return Outcome(State.QUARANTINED, "TOO_LARGE", content=content)

    def handle(self, source: bytes, content: str, thoroughly: bool = False) -> Outcome:
        """The outcome for a file's bytes.  Refused or Skipped where there is no copy."""
        try:
            parsed = parse(source)
        except Refused as refused:
            kind = intake.kind(source) if refused.code == "NOT_DICOM" else ""
            if kind:
                raise Skipped(kind) from None
            raise
        who = identity(parsed)
        cleaner, context = self.cleaner(who.sop_class), self.context(parsed, who)
        self._head(parsed, modules.name(who.sop_class))
        element, shape = self._pixels(parsed, cleaner)
        looked = self._look(parsed, who, element, shape, thoroughly)
        clean = looked.state in ("checked", "blanked")
        codes = [code for code in self.policy.codes if clean or code != CLEAN_PIXELS]
        unsure = parsed.text(0x00280301) == "YES" or who.sop_class.removeprefix(modules.STORAGE) in modules.SAY_BURNED_IN
        burned = b"NO" if clean else b"YES" if unsure else b""
        elements, counts = cleaner.clean(parsed, context, codes, burned)
        counts["tail"] = int(parsed.tail > 0)
        native = looked.state == "blanked" or parsed.syntax not in ENCAPSULATED
        syntax = EXPLICIT if native else parsed.syntax
        instance = self.uid(who.instance)
        head = file_head(who.sop_class.encode(), instance.encode(), syntax.encode())
        image: list[bytes | memoryview] = []
        if element is not None and shape is not None:
            allocated = int(looked.changes.get(0x00280100, shape.allocated))
            image = pixels.native(looked.native, allocated) if looked.native else pixels.pieces(parsed, element, shape)
        partial, written = self._write([head, *(piece for _, piece in described(elements, looked.changes)), *image])
        expected = selfcheck.Expected(self.key, self.policy, who.sop_class, tuple(codes), syntax, looked.state == "blanked", self.known)
        note = self._checked(source, written, expected, (parsed, element, shape, looked))
        if note:
            partial.unlink()
            return Outcome(State.QUARANTINED, "SELF_CHECK", content=content, identity=who, note=note)
        name = f"{context.patient}/{self.uid(who.series)}/{instance}.dcm"
        row = self.row(written, who, counts, parsed, codes, looked)
        content += self.pseudonyms.digest("object", told(parsed)).hex()[:32]
        return Outcome(State.DEIDENTIFIED, "", name, content, instance, context.patient, who, row, partial.name)

    def _checked(
        self,
        source: bytes,
        written: bytes,
        expected: selfcheck.Expected,
        pixel_work: tuple[Any, Any, Any, burned_in.Looked],
    ) -> str:
        """What the independent check found, "" where it found nothing."""
        try:
            selfcheck.check(source, written, expected)
        except selfcheck.Leak as leak:
            return str(leak)
        parsed, element, shape, looked = pixel_work
        if looked.state == "blanked":
            at = written.rindex(looked.native)
            if not burned_in.unchanged_outside(parsed, element, shape, written[at:], looked.mask):
                return "pixels that differ where nothing was blanked"
        return ""

    def cleaner(self, sop_class: str) -> Cleaner:
        """What cleans objects of a SOP class, made once."""
        if sop_class not in self.cleaners:
            self.cleaners[sop_class] = Cleaner(sop_class, self.policy, self.rule_set)
        return self.cleaners[sop_class]

    def uid(self, value: str) -> str:
        """The UID that stands for `value` in the copy."""
        raw = value.encode("latin-1")
        return value if "113110" in self.policy.options and values.is_uid(raw) else self.pseudonyms.uid(raw).decode()

    def context(self, parsed: Parsed, who: Identity) -> values.Context:
        """What the values of one object are judged and changed by."""
        patient = self.pseudonyms.patient(who.patient, who.issuer)
        start = values.clock(parsed.text(0x00080030).encode("latin-1"))
        if start is None:
            start = self.pseudonyms.clock(who.study.encode("latin-1"))
        parts = re.split(r"[\^=, ]+", f"{parsed.text(0x00100010)}^{who.patient}".casefold())
        identifying = frozenset(part for part in parts if len(part) >= 4)
        return values.Context(self.pseudonyms, self.policy, patient, self.pseudonyms.shift(patient), values.MORNING - start, identifying)

    def _head(self, parsed: Parsed, name: str) -> None:
        """Refused where the object is a volume of the head and the policy does not allow those."""
        if name not in VOLUMES or self.policy.head_volumes == "allow":
            return
        described = " ".join(parsed.text(tag) for tag in (0x00180015, 0x00081030, 0x0008103E, 0x00181030)).upper()
        if HEAD.search(described.replace("_", " ")):
            raise Refused("HEAD_VOLUME")

    def _pixels(self, parsed: Parsed, cleaner: Cleaner) -> tuple[Element, pixels.Shape] | tuple[None, None]:
        """The pixel data and its layout, as far as the class has any."""
        if pixels.PIXEL_DATA not in cleaner.rules:
            return None, None
        element = pixels.find(parsed)
        if element is None:
            parsed.warnings.append("NO_PIXELS")
            return None, None
        shape = pixels.shape(parsed, self.policy.max_megapixels * 1_000_000)
        pixels.check(parsed, element, shape)
        return element, shape

    def _look(
        self, parsed: Parsed, who: Identity, element: Element | None, shape: pixels.Shape | None, thoroughly: bool
    ) -> burned_in.Looked:
        """Every frame where the object is at risk; one in SAMPLE of the other images; nothing without option 113101."""
        name = modules.name(who.sop_class)
        if element is None or shape is None or CLEAN_PIXELS not in self.policy.options:
            return burned_in.Looked("unchanged")
        risk = burned_in.at_risk(parsed, name)
        if not risk and name not in VOLUMES:
            return burned_in.Looked("unchanged")
        if not burned_in.available():
            if risk:
                raise Refused("TEXT_UNCHECKED")
            return burned_in.Looked("unchanged")
        if risk or thoroughly:
            return burned_in.look(parsed, name, element, shape)
        drawn = int.from_bytes(self.pseudonyms.digest("sample", who.instance.encode("latin-1"))[:8], "big") % SAMPLE == 0
        if not drawn and shape.frames == 1 and parsed.text(0x00200013) != "1":
            return burned_in.Looked("series sampled")
        found = burned_in.sample(parsed, element, shape)
        return burned_in.look(parsed, name, element, shape) if found else burned_in.Looked("series sampled")

    def _write(self, parts: list[bytes | memoryview]) -> tuple[Path, bytes]:
        """A new file without a name, and what is read back from it.  DataError where there is no room for it."""
        self.number += 1
        partial = self.out / ".partial" / f"{self.mark}-{self.number}.part"
        whole = [b"".join(parts[:-3]), *parts[-3:]] if len(parts) > 3 else parts
        size = sum(map(len, whole))
        try:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                done = os.writev(descriptor, whole)
                rest = memoryview(b"".join(whole))[done:] if done < size else memoryview(b"")
                while rest:
                    rest = rest[file.write(rest) or 0 :]
                return partial, os.pread(descriptor, size + 1, 0)
        except OSError as error:  # no fault of the file: the run ends
            partial.unlink(missing_ok=True)
            raise unwritable(self.out, error) from None

    def row(
        self,
        written: bytes,
        who: Identity,
        counts: Counter[str],
        parsed: Parsed,
        codes: list[str],
        looked: burned_in.Looked,
    ) -> dict[str, object]:
        """The manifest's row: no path, value, UID or hash of the source."""
        return {
            "sha256": hashlib.sha256(written).hexdigest(),
            "bytes": len(written),
            "class": modules.name(who.sop_class),
            "series": self.pseudonyms.subject(self.uid(who.series)),
            "elements": {key: count for key, count in sorted(counts.items()) if count},
            "pixels": looked.state,
            "text": {"boxes": looked.boxes, "share": round(looked.share, 4)},
            "codes": codes,
            "warnings": parsed.warnings,
        }
