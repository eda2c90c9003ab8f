"""Where a site keeps what it must not forget: whole or not at all, before it answers."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import quote


class Store(Protocol):
    """Named contents."""

    def read(self, name: str) -> bytes | None:
        """The content, None where there is none."""
        ...

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Put `content` in the place of what was there, whole or not at all."""
        ...

    def delete(self, name: str) -> None:
        """Forget it."""
        ...


class Files:
    """A folder that only its owner reads.  Each write is on the disk when `write` returns, also after a power cut.

    durable: False for simulated sites, whose machine is the coordinator's: a write outlives the process, not a power cut.
    Deleting a file or writing over it does not wipe what the disk held: keep the folder on an encrypted volume.
    """

    def __init__(self, folder: Path, durable: bool = True):
        self.folder, self.durable = folder, durable
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While no other process or thread holds the folder: one that does is waited for, one that dies lets go."""
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _path(self, name: str) -> Path:
        return self.folder / quote(name, safe="")

    def read(self, name: str) -> bytes | None:
        """The file's content."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write beside, sync, rename, sync the folder."""
        beside = self.folder / f".{quote(name, safe='')}.{os.getpid()}.part"
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if self.durable:
                os.fsync(file.fileno())
        os.replace(beside, self._path(name))
        if not self.durable:
            return
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def delete(self, name: str) -> None:
        """Unlink."""
        self._path(name).unlink(missing_ok=True)


class Memory:
    """In this process only: for simulated sites, which end with it."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes | memoryview] = {}

    def read(self, name: str) -> bytes | None:
        """The content."""
        content = self.contents.get(name)
        return None if content is None else bytes(content)

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Keep it."""
        self.contents[name] = content

    def delete(self, name: str) -> None:
        """Drop it."""
        self.contents.pop(name, None)
