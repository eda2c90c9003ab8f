"""Change honest run folders at random, and see whether the change is found.

    python benchmarks/soak_ledger_mutate.py [--count 1000] [--seed 0] [--out benchmarks/results/soak_ledger_mutate.json]

Bytes, lines, files, keys, spliced runs; by someone without any key, with another, or with one party's own.  Each change must be found by
`privacy verify` and by tools/verify_ledger.py alike, or be of the class that no folder can show of itself: then it must be said that the
run is not closed, and a head that was noted elsewhere must show it.  Exit code 1 where a change is neither.
"""

import argparse
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.ledger.entries import FIRST, written
from privacy.ledger.keys import Keyring, Roster, roster_path
from privacy.ledger.reading import Fault
from privacy.ledger.verify import verify
from simulations.rehearsal import DP, begin, planned, play

ROOT = Path(__file__).resolve().parents[1]
SECRET_DRAW = {"mechanism": "central", "noise_multiplier": 1.0, "delta": 1e-2, "clip": 0.5, "amplified": True}


@dataclass(frozen=True)
class Honest:
    """A folder as its run left it, as it was before, another run's, and what its officer noted elsewhere: the last entry of each chain."""

    path: Path
    older: Path
    roster: Roster
    heads: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """Its ledgers, below the folder."""
        return [Path("ledger.jsonl"), *(p.relative_to(self.path) for p in sorted(self.path.glob("sites/*/ledger.jsonl")))]


def honest(folder: Path) -> list[Honest]:
    """Three runs: over, cut short, and of the kind that pays when it joins."""
    made = []
    for name, closed, privacy in (("over", True, DP), ("short", False, DP), ("whole", True, SECRET_DRAW)):
        ledgers = begin(planned(3, 6, 2, privacy), folder / name)
        rounds = range(0) if privacy is SECRET_DRAW else range(5)
        play(ledgers, rounds[:3])
        shutil.copytree(folder / name, folder / f"{name} before")
        play(ledgers, rounds[3:])
        if closed:
            ledgers.close()
        heads = [ledgers.coordinator.chain.read().head, *(ledgers.of(site).chain.read().head for site in ledgers.sites)]
        made.append(Honest(folder / name, folder / f"{name} before", Roster.read(roster_path(ledgers.coordinator.run)), tuple(heads)))
    return made


# ------------------------------------------------------------------------------------------------------------ changes


Draw = np.random.Generator


def _any(draw: Draw, things: list[Any]) -> Any:
    return things[int(draw.integers(len(things)))]


def a_byte(path: Path, file: Path, run: Honest, others: list[Honest], draw: Draw) -> None:
    """One byte changed, added or lost."""
    content = bytearray((path / file).read_bytes())
    at = int(draw.integers(len(content)))
    what = draw.integers(3)
    if what == 0:
        content[at] ^= 1 << int(draw.integers(8))
    elif what == 1:
        content.insert(at, int(draw.integers(256)))
    else:
        del content[at]
    (path / file).write_bytes(content)


def a_digit(path: Path, file: Path, run: Honest, others: list[Honest], draw: Draw) -> None:
    """One digit is another one."""
    content = bytearray((path / file).read_bytes())
    at = _any(draw, [i for i, byte in enumerate(content) if chr(byte).isdigit()])
    content[at] = ord("0") + (content[at] - ord("0") + int(draw.integers(1, 10))) % 10
    (path / file).write_bytes(content)


def lines(path: Path, file: Path, run: Honest, others: list[Honest], draw: Draw) -> None:
    """Lines removed, doubled, moved, or another ledger's put in."""
    content = (path / file).read_bytes().splitlines(keepends=True)
    what, at = draw.integers(5), int(draw.integers(len(content)))
    if what == 0:
        del content[at : at + int(draw.integers(1, 4))]
    elif what == 1:
        content.insert(int(draw.integers(len(content) + 1)), content[at])
    elif what == 2:
        content.insert(int(draw.integers(len(content))), content.pop(at))
    elif what == 3:
        other = _any(draw, run.files)
        content[at] = _any(draw, (path / other).read_bytes().splitlines(keepends=True))
    else:
        content[at:at] = [_any(draw, [b"\n", b"{}\n", b"null\n", b"\xff\n", b" " * 100 + b"\n"])]
    (path / file).write_bytes(b"".join(content))


def cut(path: Path, file: Path, run: Honest, others: list[Honest], draw: Draw) -> None:
    """The end is missing, at any byte or at a line's end."""
    content = (path / file).read_bytes()
    at = int(draw.integers(len(content)))
    (path / file).write_bytes(content[: content.rfind(b"\n", 0, at) + 1 if draw.integers(2) else at])


def a_file(path: Path, file: Path, run: Honest, others: list[Honest], draw: Draw) -> None:
    """A ledger removed, emptied, swapped, doubled under another name, or an older one put back."""
    what, other = draw.integers(5), _any(draw, run.files)
    if what == 0:
        (path / file).unlink()
    elif what == 1:
        (path / file).write_bytes(b"")
    elif what == 2:
        one, two = (path / file).read_bytes(), (path / other).read_bytes()
        (path / file).write_bytes(two)
        (path / other).write_bytes(one)
    elif what == 3:
        shutil.copytree((path / run.files[1]).parent, path / "sites" / f"site-{draw.integers(100, 999)}")
    else:
        shutil.copy(run.older / file, path / file)


def spliced(path: Path, file: Path, run: Honest, others: list[Honest], draw: Draw) -> None:
    """Two runs in one: a whole ledger, or the tail of one, is another run's."""
    other = (_any(draw, others).path / file).read_bytes().splitlines(keepends=True)
    own = (path / file).read_bytes().splitlines(keepends=True)
    at = int(draw.integers(len(own))) if draw.integers(2) else 0
    (path / file).write_bytes(b"".join(own[:at] + other[at:]))


def the_folder(path: Path, file: Path, run: Honest, others: list[Honest], draw: Draw) -> None:
    """The folder as it was some rounds before, or another run's under this one's name."""
    source = run.older if draw.integers(2) else _any(draw, others).path
    shutil.rmtree(path)
    shutil.copytree(source, path)


def a_key(path: Path, file: Path, run: Honest, others: list[Honest], draw: Draw) -> None:
    """Something changed, and the chain sealed again: with a new key, with another party's, or with its own."""
    content = [json.loads(line)["body"] for line in (path / file).read_bytes().splitlines()]
    who = [None, *sorted(run.roster.sites)]
    owner = who[run.files.index(file)]
    keys = [Ed25519PrivateKey.generate(), *(Keyring.here().key(run.roster.run, name) for name in (owner, owner, _any(draw, who)))]
    body = _any(draw, content)
    name = _any(draw, [name for name in body if name not in ("seq", "prev")])
    body[name] = _other(body[name], draw)
    prev, sealed, key = FIRST, [], _any(draw, keys)
    for number, each in enumerate(content):
        line, entry = written(each, number, prev, key)
        sealed.append(line)
        prev = entry.hash
    (path / file).write_bytes(b"".join(sealed))


def _other(value: Any, draw: Draw) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return type(value)(value + draw.integers(1, 4))
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    if isinstance(value, list):
        return value[:-1] if draw.integers(2) or not value else [*value[:-1], _other(value[-1], draw)]
    return {**value, "more": 1}


Change = Callable[[Path, Path, Honest, list[Honest], Draw], None]
CHANGES: dict[str, Change] = {f.__name__: f for f in (a_byte, a_digit, lines, cut, a_file, spliced, the_folder, a_key)}


# ------------------------------------------------------------------------------------------------------------ verdicts


def _independent() -> Any:
    spec = importlib.util.spec_from_file_location("verify_ledger", ROOT / "tools" / "verify_ledger.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcome(tool: Any, path: Path, run: Honest) -> str:
    """found, outside, missed, or that the two verifiers do not agree."""
    try:
        found = verify(path, run.roster)
    except Fault:
        found = None
    try:
        closed = list(tool.Run(path, json.loads(run.roster.written())).verify())[-1] == "closed"
    except tool.Fault:
        closed = None
    if (found is None) != (closed is None) or (found is not None and found.closed != closed):
        return "disagree"
    if found is None:
        return "found"
    if found.closed or not any("noted elsewhere" in note for note in found.notes):
        return "missed"
    return "outside" if any(_shows(path, run, head) for head in run.heads) else "missed"


def _shows(path: Path, run: Honest, head: str) -> bool:
    try:
        verify(path, run.roster, head)
    except Fault:
        return True
    return False


def _content(path: Path) -> list[tuple[str, bytes]]:
    return [(str(p.relative_to(path)), p.read_bytes()) for p in sorted(path.rglob("ledger.jsonl"))]


def soak(count: int, seed: int) -> dict[str, Any]:
    """`count` changes, by kind and outcome; those that were missed, by their number."""
    tool, tally, missed = _independent(), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEDVISION_STATE"] = f"{folder}/state"
        runs = honest(Path(folder))
        for run in runs:
            assert outcome(tool, run.path, run) in ("missed", "outside"), "an honest folder is not sound"
        for number in range(count):
            draw = np.random.default_rng([seed, number])
            name, run, path = _any(draw, list(CHANGES)), _any(draw, runs), Path(folder) / "changed"
            while True:
                shutil.rmtree(path, ignore_errors=True)
                shutil.copytree(run.path, path)
                CHANGES[name](path, _any(draw, run.files), run, [other for other in runs if other is not run], draw)
                if _content(path) != _content(run.path):
                    break  # else it was no change
            said = outcome(tool, path, run)
            tally[f"{name}: {said}"] += 1
            if said in ("missed", "disagree"):
                missed.append({"number": number, "change": name, "run": run.path.name, "outcome": said})
    by = Counter(key.partition(": ")[2] for key in tally.elements())
    return {"count": count, "seed": seed, "outcomes": dict(sorted(by.items())), "by_change": dict(sorted(tally.items())), "missed": missed}


def main() -> int:
    """Soak, print, keep; 1 where a change was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "soak_ledger_mutate.json")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # of dp-accounting, about orders that it leaves out
    warnings.simplefilter("ignore", RuntimeWarning)  # of Opacus, about log 0 at the edge of its grid
    found = soak(given.count, given.seed)
    print(json.dumps(found, indent=1))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    return bool(found["missed"])


if __name__ == "__main__":
    raise SystemExit(main())
