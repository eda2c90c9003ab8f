"""A ledger file read by someone who does not trust it: line by line, each with its place, the first wrong one a fault."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedvision.errors import LedgerDamaged
from privacy.ledger.entries import FIRST, LONGEST, Broken, Entry, parsed

T = TypeVar("T")
KINDS: dict[str, type] = {
    **dict.fromkeys(("version", "seq", "round", "attempt", "steps", "rounds", "new", "charge", "sites_per_unit"), int),
    **dict.fromkeys(("noise_multiplier", "clip", "sampling_rate", "delta", "epsilon"), float),
    **dict.fromkeys(("once_a_round", "repeatable", "whole_plan"), bool),
    **dict.fromkeys(("request", "model", "mechanism", "sampler", "unit", "relation"), str),
    **dict.fromkeys(("orders", "rdp", "heads", "sites"), list),
}  # by name, in every entry


class Fault(LedgerDamaged):
    """What is wrong first.  file: relative to the run folder; line: from 1, None where it is not a line's."""

    def __init__(self, file: str, line: int | None, reason: str):
        super().__init__(f"{file}, line {line}: {reason}" if line is not None else f"{file}: {reason}")
        self.file, self.line, self.reason = file, line, reason

    def __reduce__(self) -> tuple[Any, ...]:  # from one process to another
        return Fault, (self.file, self.line, self.reason)


def lines_of(run: Path, file: str, key: Ed25519PublicKey) -> Iterator[Entry]:
    """The entries of a file that is signed with `key`, each checked before it is given; Fault at the first that is not right."""
    try:
        if (run / file).exists() and not (run / file).is_file():
            raise Fault(file, None, "it is no file: a ledger is missing")  # reading a pipe would never end
        source = (run / file).open("rb")
    except OSError as error:
        raise Fault(file, None, f"it cannot be read ({error.strerror}): a ledger is missing") from None
    number, prev = 0, FIRST
    with source:
        while line := source.readline(LONGEST + 2):
            if not line.endswith(b"\n"):
                raise Fault(file, number + 1, "it does not end: torn by a crash before anyone acted on it, or cut")
            try:
                entry = parsed(line[:-1], number, prev, key)
            except Broken as broken:
                raise Fault(file, number + 1, str(broken)) from None
            if wrong := [name for name, value in entry.body.items() if not _of_its_kind(entry, name, value)]:
                raise Fault(file, number + 1, f"its {wrong[0][:40]} is no {KINDS[wrong[0]].__name__}")
            yield entry
            number, prev = number + 1, entry.hash
    if number == 0:
        raise Fault(file, None, "it is empty")


def _of_its_kind(entry: Entry, name: str, value: Any) -> bool:
    """Whether a part is of the kind that its name has; the charge of a whole plan is of no round."""
    return type(value) is KINDS.get(name, type(value)) or (value is None and entry.body.get("kind") == "charge")


class Place:
    """An entry at its place, whose parts are asked for by name and kind."""

    def __init__(self, file: str, entry: Entry):
        self.file, self.entry, self.line = file, entry, entry.number + 1

    def fault(self, reason: str) -> Fault:
        """What is wrong here."""
        return Fault(self.file, self.line, reason)

    def get(self, name: str, kind: type[T]) -> T:
        """A part; Fault where it is missing or of another kind."""
        value = self.entry.body.get(name)
        if type(value) is not kind:
            raise self.fault(f"its {name} is {'missing' if value is None else f'no {kind.__name__}'}")
        return value

    def want(self, name: str, value: Any, why: str) -> None:
        """Fault unless the part is `value`, and of its kind."""
        found = self.entry.body.get(name)
        if found != value or type(found) is not type(value):
            raise self.fault(f"its {name} is {str(self.entry.body.get(name))[:40]!r}, and {why} {str(value)[:40]!r}")

    def heads(self) -> list[tuple[str, int, str]]:
        """[site, number, hash] of some sites, in the order of their names."""
        rows = self.get("heads", list)
        for row in rows:
            if not (isinstance(row, list) and list(map(type, row)) == [str, int, str]):
                raise self.fault("its heads are no list of site, number and hash")
        names = [row[0] for row in rows]
        if names != sorted(set(names)):
            raise self.fault("its heads are not in the order of the sites' names, each once")
        return [(site, number, hash) for site, number, hash in rows]


def near(found: Sequence[float], wanted: Sequence[float], relative: float = 1e-3) -> bool:
    """Whether two rows of figures agree."""
    return len(found) == len(wanted) and all(abs(a - b) <= relative * abs(b) for a, b in zip(found, wanted, strict=True))
