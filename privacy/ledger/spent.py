"""What was spent, round by round, as the ledgers say: read without a roster, so believed only as far as the folder is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedvision.errors import ConfigError, RunFolderError
from privacy.ledger.entries import FIRST, Broken, parsed
from privacy.ledger.figures import Event
from privacy.ledger.site import FILE
from privacy.limits import Stated


@dataclass(frozen=True)
class Spent:
    """One charge: what a site had spent with it.  pld: where the ledger has that figure for this count."""

    site: str
    round: int | None
    attempt: int | None
    rounds: int
    epsilon: float
    pld: float | None
    settled: bool

    def as_json(self) -> dict[str, Any]:
        """One flat object."""
        return asdict(self)


@dataclass(frozen=True)
class Book:
    """A site's chain.  plan: its first entry."""

    site: str
    plan: dict[str, Any]
    charges: tuple[Spent, ...]

    @property
    def last(self) -> Spent | None:
        """The newest charge."""
        return self.charges[-1] if self.charges else None

    def held(self) -> int:
        """How many charges the plan and the limit that the site's account states hold; RunFolderError where that cannot be read."""
        rounds, limit = int(self.plan["rounds"]), self.plan.get("limit")
        if limit is None:
            return rounds
        try:
            return min(rounds, Stated.of(limit).charges(Event.of(self.plan)))
        except (ValueError, TypeError, ConfigError) as error:
            raise RunFolderError(
                f"the limit in the ledger of site {self.site} cannot be read: {error}; `fedvision privacy verify` says more"
            ) from None


def books(path: Path) -> list[Book]:
    """The books under a run folder, or the one of a site's folder or ledger; RunFolderError where there are none."""
    files = [path] if path.is_file() else [path / FILE] if _is_site(path / FILE) else sorted((path / "sites").glob(f"*/{FILE}"))
    if not files:
        raise RunFolderError(f"{path} has no ledger: give the folder of a private run, or of a site in it (RUN/sites/NAME)")
    return [book(file) for file in files]


def _is_site(file: Path) -> bool:
    try:
        with file.open("rb") as lines:
            return b'"site":' in lines.readline()
    except OSError:
        return False


def book(file: Path) -> Book:
    """A site's chain, in order and unbroken but with its signatures unread; RunFolderError where it is not."""
    bodies: list[Mapping[str, Any]] = []
    prev = FIRST
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1]):
        try:
            entry = parsed(line, number, prev)
        except Broken as broken:
            raise RunFolderError(f"{file}, line {number + 1}: {broken}; `fedvision privacy verify` says more") from None
        bodies.append(entry.body)
        prev = entry.hash
    try:
        return _book(bodies)
    except (LookupError, TypeError, ValueError) as error:
        raise RunFolderError(f"{file} is no site's ledger: {error!r} in its entries; `fedvision privacy verify` says more") from None


def _book(bodies: Sequence[Mapping[str, Any]]) -> Book:
    plan, charges, settled = dict(bodies[0]), {}, set()
    pld = {int(count): float(figure) for count, figure in plan["pld"]}
    for number, body in enumerate(bodies[1:], 1):
        if body["kind"] == "charge":
            charges[number] = body
        elif body["kind"] == "settle":
            settled.add(body["charge"])
        else:
            pld[body["rounds"]] = float(body["pld"])
    rows = (
        Spent(plan["site"], b["round"], b["attempt"], int(b["rounds"]), float(b["epsilon"]), pld.get(b["rounds"]), number in settled)
        for number, b in charges.items()
    )
    return Book(plan["site"], plan, tuple(rows))


def run_of(run: Path) -> str:
    """The run that a folder says it is: its ledger's first line, else its summary; RunFolderError where neither says."""
    from privacy.ledger.reading import Fault

    names = []
    for file, read in (
        (FILE, lambda text: json.loads(text.partition(b"\n")[0])["body"]["run"]),
        ("summary.json", lambda text: json.loads(text)["run"]),
    ):
        try:
            names.append((file, read((run / file).read_bytes())))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    if not names or not isinstance(names[0][1], str):
        raise Fault(FILE, None, f"{run} has no ledger that can be read: it is no private run's folder, or its ledger was removed")
    if any(name != names[0][1] for _, name in names):
        raise Fault(FILE, 1, f"it is of run {names[0][1][:80]}, and summary.json of another")
    return str(names[0][1])
