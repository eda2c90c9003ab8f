"""Files known by their content: what was made of them is kept in the cache, and found there again.

The cache goes by content: the names, the SHA-256 of the bytes, and the settings.  So that a large folder is not read again at every
start, what was hashed is remembered by the files' sizes, times and inodes; a change of any byte also changes a file's ctime, which
nobody can set.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fedvision.data.cache import cache_folder, folder_written_whole, written_whole
from fedvision.data.dataset import images_digest
from fedvision.errors import DataError

_CHECKED = 64 << 20  # bytes up to which a cached array is hashed again when it is opened
AT_ONCE = 256  # files in flight: bounds memory, keeps the threads busy
_SETTLED = 2.0  # seconds: a file changed more recently could change again within one tick of its clock
Kept = TypeVar("Kept")
Item = TypeVar("Item")


def by_content(
    root: Path, names: Sequence[str], settings: Any, load: Callable[[Path], Kept | None], make: Callable[[Path, list[str]], Kept]
) -> Kept:
    """What is made of the files `names` under `root` with these `settings` (plain values), from the cache or made now.

    load: what is in a folder, None where nothing is or it is broken.  make: into that folder, of files with these digests.
    """
    folder = cache_folder()
    remembered = folder / "seen" / _stat_key(root, names, settings)
    content = _recall(remembered)
    ready = load(folder / "prepared" / content) if content is not None else None
    if ready is None:
        digests = _file_digests(root, names)
        content = _content_key(names, digests, settings)
        ready = load(folder / "prepared" / content)
        if ready is None:
            ready = make(folder / "prepared" / content, digests)
        _remember(remembered, content, root, names)
    return ready


def kept(folder: Path, read: Callable[[dict[str, Any]], Kept]) -> Kept | None:
    """What `read` makes of the cached folder, given its about.json; None where nothing is there or it is broken (it is then put away, so
    that it is made anew)."""
    try:
        return read(json.loads((folder / "about.json").read_text("utf-8")))
    except FileNotFoundError:
        if not folder.exists():
            return None
    except (OSError, ValueError, KeyError, TypeError):
        pass  # broken: put away below
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".broken."))
    with contextlib.suppress(FileNotFoundError):  # another process put it away
        folder.rename(aside / "broken")  # renamed first: another process may be reading it
    shutil.rmtree(aside, ignore_errors=True)
    return None


def keep(target: Path, write: Callable[[Path], dict[str, Any]], load: Callable[[Path], Kept | None]) -> Kept:
    """Make the cached folder `target`: `write` puts arrays into a folder and returns its about.json; then what `load` finds there."""
    with folder_written_whole(target) as folder:
        try:
            (folder / "about.json").write_text(json.dumps(write(folder)), "utf-8")
        except OSError as error:
            raise DataError(
                f"the prepared images cannot be written to {target.parent}: {error.strerror}; make room there, or set "
                "FEDVISION_CACHE to another folder"
            ) from None
    ready = load(target)
    if ready is None:
        raise DataError(f"what was just written to {target} cannot be read back: look at the disk")
    return ready


def mapped(path: Path, shape: Sequence[int], digest: str) -> np.ndarray:
    """The uint8 array of a cached file, mapped; ValueError where it is not the one that was written."""
    if path.stat().st_size != math.prod(shape):
        raise ValueError("cut off")
    array = np.memmap(path, np.uint8, "r", shape=tuple(shape))
    if array.nbytes <= _CHECKED and images_digest(array) != digest:
        raise ValueError("changed")
    return array


def in_threads(work: Callable[[Item], Any], items: Sequence[Item], doing: str, at_once: int = AT_ONCE) -> Iterator[Any]:
    """work(item) for each item, in their order, a bounded number ahead; progress goes to stderr if it takes long."""
    started = shown = time.monotonic()
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 2)) as pool:
        waiting: list[Any] = []
        for number, item in enumerate(items):
            waiting.append(pool.submit(work, item))
            if len(waiting) >= at_once:
                yield from _results(waiting[: at_once // 2])
                del waiting[: at_once // 2]
                if time.monotonic() - shown > 2:
                    shown = time.monotonic()
                    print(f"{doing} images: {number:,} of {len(items):,}, {shown - started:.0f} s", file=sys.stderr)
        yield from _results(waiting)


def _results(futures: Iterable[Any]) -> Iterator[Any]:
    for future in futures:
        yield future.result()


def _stat_key(root: Path, names: Sequence[str], settings: Any) -> str:
    digest = hashlib.sha256(json.dumps([str(root), *settings]).encode())
    for name in names:
        s = _stat(root / name, name)
        digest.update(json.dumps([name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_dev, s.st_ino]).encode())
    return digest.hexdigest()[:40]


def _stat(path: Path, name: str) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from None


def _recall(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _remember(path: Path, content: str, root: Path, names: Sequence[str]) -> None:
    newest = max(_stat(root / name, name).st_ctime for name in names)
    if time.time() - newest > _SETTLED:
        path.parent.mkdir(exist_ok=True)
        with written_whole(path) as file:
            file.write(content.encode("ascii"))


def _file_digests(root: Path, names: Sequence[str]) -> list[str]:
    def digest(name: str) -> str:
        try:
            with (root / name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}") from None

    return list(in_threads(digest, names, "reading"))


def _content_key(names: Sequence[str], digests: Sequence[str], settings: Any) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, sha in zip(names, digests, strict=True):
        digest.update(json.dumps([name, sha]).encode())
    return digest.hexdigest()[:40]
