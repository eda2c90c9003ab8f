"""Ways to change a run folder's ledgers, as someone would who can write to it, with or without a key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.ledger.entries import FIRST, written

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
