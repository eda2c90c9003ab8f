"""The source store: walked without following links, opened for reading only, and what is no DICOM file named."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from privacy.deidentify.states import Refused, Skipped

_MAGIC = [  # (offset, bytes, kind)
    (0, b"PK\x03\x04", "archive"),
    (0, b"PK\x05\x06", "archive"),
    (0, b"\x1f\x8b", "archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "archive"),
    (0, b"\xfd7zXZ\0", "archive"),
    (0, b"BZh", "archive"),
    (0, b"\x28\xb5\x2f\xfd", "archive"),
    (0, b"Rar!\x1a\x07", "archive"),
    (257, b"ustar", "archive"),
    (0, b"%PDF", "document"),
    (0, b"<?xml", "document"),
    (0, b"<!DOCTYPE", "document"),
    (0, b"<html", "document"),
    (0, b"{\\rtf", "document"),
    (0, b"\x89PNG", "image"),
    (0, b"\xff\xd8\xff", "image"),
    (0, b"GIF8", "image"),
    (0, b"BM", "image"),
    (0, b"II*\0", "image"),
    (0, b"MM\0*", "image"),
    (344, b"n+1\0", "image"),
    (344, b"ni1\0", "image"),
]


PARTIAL = re.compile(rb"\.[0-9a-f]{16}\.part")  # what an inbox writes to until a file is whole


@dataclass(frozen=True, slots=True)
class Input:
    """A file of the store as it was found: its path and what `stat` said.  `kind` where it is not read at all."""

    path: bytes
    size: int = 0
    mtime_ns: int = 0
    inode: int = 0
    kind: str = ""


def walk(root: bytes) -> Iterator[Input]:
    """Every file under `root`, in the order of their names, links and special files included but not followed."""
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            yield Input(folder, kind="unreadable")
            continue
        folders = []
        for entry in found:
            if entry.is_symlink():
                yield Input(entry.path, kind="symlink")
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                yield _input(entry)
        pending += reversed(folders)


def _input(entry: os.DirEntry[bytes]) -> Input:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return Input(entry.path, kind="unreadable")
    kind = "special" if not stat.S_ISREG(status.st_mode) else "partial" if PARTIAL.fullmatch(entry.name) else ""
    return Input(entry.path, status.st_size, status.st_mtime_ns, status.st_ino, kind)


def read(path: bytes, largest: int, straight: bool = False) -> bytes:
    """A file's bytes.  Refused or Skipped where it is no plain, stable, readable file of at most `largest` bytes.

    straight: `path` has no link in it, so that one which is there now was put in the place of a folder.
    """
    for _ in range(2):  # a file that changes under the reader gets one more chance
        source = _read_once(path, largest, straight)
        if source is not None:
            return source
    raise Refused("CHANGED_DURING_READ")


def _read_once(path: bytes, largest: int, straight: bool) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if os.path.islink(path):
            raise Skipped("symlink") from None
        raise Refused("UNREADABLE") from error
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise Skipped("special")
        if straight and os.readlink(b"/proc/self/fd/%d" % descriptor) != path:
            raise Skipped("symlink")
        if before.st_size == 0:
            raise Refused("EMPTY")
        if before.st_size > largest:
            raise Refused("TOO_LARGE")
        source = _all(descriptor, before.st_size)
        after = os.fstat(descriptor)
    except OSError as error:
        raise Refused("UNREADABLE") from error
    finally:
        os.close(descriptor)
    same = (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)
    return source if same and len(source) == before.st_size else None


def _all(descriptor: int, size: int) -> bytes:
    """`size` bytes and one more, so that a file that grew is seen."""
    source = os.read(descriptor, size + 1)
    if len(source) == size:
        return source
    parts = [source]
    while sum(map(len, parts)) <= size and (more := os.read(descriptor, size + 1 - sum(map(len, parts)))):
        parts.append(more)
    return b"".join(parts)


def kind(source: bytes) -> str:
    """The kind of a file that is no DICOM, "" where none is recognised."""
    for offset, magic, name in _MAGIC:
        if source[offset : offset + len(magic)] == magic:
            return name
    head = source[:4096]
    if not head.translate(None, bytes(range(32, 127)) + b"\t\r\n\f") or _is_text(head):
        return "document"
    return ""


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head[: head.rfind(b"\n") + 1 or len(head)].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\n" in head
