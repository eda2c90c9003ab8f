"""A chain of entries in a file: append-only, each entry on disk before `append` returns, one writer at a time.

What follows the last newline was torn by a crash before anyone acted on it: it is dropped when the file is next written.
Whatever else is not as it was written is `LedgerDamaged`, and nothing is appended any more.
"""

import fcntl
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvision.errors import ConfigError, LedgerDamaged
from privacy.ledger.entries import FIRST, Broken, Entry, canonical, parsed, written


def _ignored(entry: Entry) -> None:
    """Nobody listens."""


class Chain:
    """The entries of one file.

    key: signs what is appended; None = unsigned.  take: called with every entry once and in order, those found in the file
    and those appended here, so that its owner can keep a running account.  One that it cannot read is damage, unsigned as some are.
    apart: a file elsewhere that remembers how long the chain is and its head, written after each synced entry; an older copy
    of the chain in its place is then noticed.  None = nobody remembers.

    Many processes may hold a chain of the same file: each sees the others' entries when it holds the lock.
    """

    def __init__(
        self, path: Path, key: Ed25519PrivateKey | None = None, take: Callable[[Entry], None] = _ignored, apart: Path | None = None
    ):
        self.path, self.key, self.take, self.apart = path, key, take, apart
        self.count, self.head = 0, FIRST
        self._public = None if key is None else key.public_key()
        self._end = 0  # bytes that were read, all of them whole lines
        self._starts: array[int] = array("q")  # where each line begins
        self._handle: int | None = None

    @contextmanager
    def held(self) -> Iterator["Chain"]:
        """The chain with all its entries taken, while no one else can append.  LedgerDamaged where it cannot be believed."""
        if self._handle is not None:
            yield self
            return
        handle = self._opened()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._handle = handle
            self._catch_up(handle)
            yield self
        finally:
            self._handle = None
            os.close(handle)

    def _opened(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)

    def read(self) -> "Chain":
        """The chain with all its entries taken; an absent file has none, and is not made."""
        if self.path.exists() or self.apart is not None:
            with self.held():
                pass
        return self

    def append(self, body: Mapping[str, Any], sync: bool = True) -> Entry:
        """Write the next entry; it is on disk when this returns.  sync: False where only the process may die, not the machine:
        the next entry that is synced takes it along."""
        with self.held():
            assert self._handle is not None
            line, entry = written(body, self.count, self.head, self.key)
            new = self._end == 0
            if os.fstat(self._handle).st_size > self._end:
                os.ftruncate(self._handle, self._end)  # torn, see above
            _write(self._handle, line, self._end)
            if sync:
                os.fsync(self._handle)
                if new:
                    _sync_folder(self.path.parent)
            self._accept(entry, len(line))
            if sync:  # else a power cut could lose the entry and leave the memory of it
                self._remember()
        return entry

    def line(self, number: int) -> bytes:
        """Entry `number` as it stands in the file, without its newline."""
        with self.held():
            assert self._handle is not None
            start = self._starts[number]
            end = self._starts[number + 1] if number + 1 < self.count else self._end
            return os.pread(self._handle, end - start - 1, start)

    def _accept(self, entry: Entry, length: int) -> None:
        self.take(entry)
        self._starts.append(self._end)
        self._end += length
        self.count, self.head = entry.number + 1, entry.hash

    def _catch_up(self, handle: int) -> None:
        size = os.fstat(handle).st_size
        if size < self._end:
            raise self._damaged(self.count, "entries that were here are gone")
        known, head = self._recalled()
        self._compare(self.count, self.head, known, head)
        content = os.pread(handle, size - self._end, self._end)
        for line in content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]:
            try:
                entry = parsed(line, self.count, self.head, self._public, signed=self.key is not None)
            except Broken as broken:
                raise self._damaged(self.count + 1, str(broken)) from None
            self._compare(entry.number + 1, entry.hash, known, head)
            try:
                self._accept(entry, len(line) + 1)
            except (ConfigError, LookupError, TypeError, ValueError):
                raise self._damaged(self.count + 1, "it is no entry of such a chain") from None
        if self.count < known:
            raise self._damaged(self.count + 1, f"{known} entries were written, and it has {self.count}: an older file was put back")

    # ------------------------------------------------------------------------------------- what is remembered elsewhere

    def _compare(self, count: int, found: str, known: int, head: str) -> None:
        if count == known and found != head:
            raise self._damaged(known, "it is another entry than the one that was written here")

    def _recalled(self) -> tuple[int, str]:
        if self.apart is None:
            return 0, FIRST
        try:
            count, head = (self.apart.read_text() or f"0 {FIRST}").split()
            return int(count), head
        except FileNotFoundError:
            return 0, FIRST
        except ValueError:
            raise self._damaged(1, f"{self.apart}, which remembers how long it is, cannot be read") from None

    def _remember(self) -> None:
        """In place and not synced: a line of always the same length, which after a power cut may be behind the chain, never ahead."""
        if self.apart is None:
            return
        self.apart.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.apart, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(handle, f"{self.count:020d} {self.head}\n".encode(), 0)
        finally:
            os.close(handle)

    def _damaged(self, line: int, why: str) -> LedgerDamaged:
        return LedgerDamaged(
            f"{self.path}, line {line}: {why}; what was spent is not known, so no more is spent: put back the file as it was, or begin another run"
        )


def _write(handle: int, content: bytes, at: int) -> None:
    while content:
        done = os.pwrite(handle, content, at)
        content, at = content[done:], at + done


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = ["FIRST", "Broken", "Chain", "Entry", "canonical", "parsed"]
