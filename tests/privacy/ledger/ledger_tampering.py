"""Ways to change a run folder's ledgers, as someone would who can write to it, with or without a key."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.ledger.entries import FIRST, written
from privacy.ledger.keys import Roster
from privacy.ledger.reading import Fault
from privacy.ledger.verify import Verdict, verify

Body = dict[str, Any]


def bodies(path: Path) -> list[Body]:
    """The entries' contents, without their places."""
    lines = [json.loads(line)["body"] for line in path.read_bytes().splitlines()]
    return [{name: value for name, value in body.items() if name not in ("prev", "seq")} for body in lines]


def sealed(path: Path, content: list[Body], key: Ed25519PrivateKey) -> None:
    """Write `content` as a chain signed with `key`."""
    prev, lines = FIRST, []
    for number, body in enumerate(content):
        line, entry = written(body, number, prev, key)
        lines.append(line)
        prev = entry.hash
    path.write_bytes(b"".join(lines))


def resealed(path: Path, key: Ed25519PrivateKey, change: Callable[[list[Body]], Any]) -> None:
    """The same chain after `change` to its contents in place, sealed again with `key`."""
    content = bodies(path)
    change(content)
    sealed(path, content, key)


def relined(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Other lines, without any key."""
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def last(content: list[Body], kind: str) -> Body:
    """The newest entry of a kind."""
    return next(body for body in reversed(content) if body["kind"] == kind)


# ------------------------------------------------------------------------------------------------- both verifiers


def _loaded() -> Any:
    place = Path(__file__).parents[3] / "tools" / "verify_ledger.py"
    spec = importlib.util.spec_from_file_location("verify_ledger", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


INDEPENDENT = _loaded()


def judged(run: Path, roster: Roster, head: str | None = None) -> Verdict:
    """The verdict of `privacy verify`, after the independent verifier has come to the same one: sound and as far, or at fault
    in the same line of the same file."""
    try:
        said = list(INDEPENDENT.Run(run, json.loads(roster.written())).verify(head))
    except INDEPENDENT.Fault as fault:
        with pytest.raises(Fault) as caught:
            verify(run, roster, head)
        place = caught.value.file if caught.value.line is None else f"{caught.value.file}, line {caught.value.line}"
        assert str(fault).startswith(place), f"{fault} / {caught.value}"
        raise caught.value from None
    found = verify(run, roster, head)
    alone = sorted(count for count, why in found.crossed.items() if why)
    assert said[-2] == f"not cross-checked by prv: the PLD figures of {alone} charges"
    assert (said[-1] == "closed") == found.closed
    assert [line.split(",")[0] for line in said[:-2]] == [f"{site.site}: {site.rounds} rounds" for site in found.sites]
    return found
