"""The user's cache folder: what took long to make and can always be made again."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedvision.errors import DataError


def cache_folder() -> Path:
    """$FEDVISION_CACHE, else ~/.cache/fedvision; made where it is absent."""
    folder = Path(os.environ.get("FEDVISION_CACHE") or Path.home() / ".cache" / "fedvision").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be made ({error.strerror}): set FEDVISION_CACHE to a folder that can be written"
        ) from None
    return folder


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at `path` only when it is complete; readers never see a half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` only when it is complete; where another process was first, its folder stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_away_what_was_left(path.parent)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _clear_away_what_was_left(folder: Path) -> None:
    """Remove what a process that was killed left half made, a day ago or more."""
    for path in folder.glob(".*"):
        with contextlib.suppress(FileNotFoundError):  # another process clears away, too
            if time.time() - path.stat().st_mtime > 86_400:
                shutil.rmtree(path, ignore_errors=True)
