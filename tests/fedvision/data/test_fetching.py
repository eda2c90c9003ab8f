"""What is fetched is what was pinned, only its data is unpacked, and a run never fetches."""

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedvision.data import sources
from fedvision.data.fetch import check, fetch, sources_of, table, unpack
from fedvision.data.fetched import unpickled
from fedvision.data.sources import Archive
from fedvision.errors import ConfigError, DataError

FILES = {"package/data/a.txt": b"data", "package/data/b.txt": b"more", "package/install.js": b"evil()", "package/LICENSE": b"free"}
KEEP = ("package/data/*.txt", "package/LICENSE")


def pinned(content: bytes, via: str = "npm") -> Archive:
    return Archive(via, "thing", "1.0", hashlib.sha256(content).hexdigest(), len(content) / 1e6, KEEP, "MIT")  # type: ignore[arg-type]


def tgz(files: dict[str, bytes], link: str | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        if link is not None:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            file.addfile(info)
    return stream.getvalue()


def wheel(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return stream.getvalue()


def deb(files: dict[str, bytes]) -> bytes:
    def part(name: str, content: bytes) -> bytes:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        return header + content + b"\n" * (len(content) % 2)

    return b"!<arch>\n" + part("debian-binary", b"2.0\n") + part("control.tar.gz", b"odd") + part("data.tar.gz", tgz(files))


@pytest.mark.parametrize(("suffix", "make"), [(".tgz", tgz), (".whl", wheel), (".deb", deb)])
def test_only_data_and_licence_are_unpacked_from_each_kind_of_archive(suffix: str, make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"thing{suffix}"
    path.write_bytes(make(FILES))
    assert unpack(path, pinned(path.read_bytes()), tmp_path / "out") == ["package/LICENSE", "package/data/a.txt", "package/data/b.txt"]
    assert (tmp_path / "out/package/data/b.txt").read_bytes() == b"more" and not (tmp_path / "out/package/install.js").exists()


def test_a_link_is_not_unpacked_and_a_path_that_leads_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "thing.tgz"
    path.write_bytes(tgz(FILES, link="package/data/passwd.txt"))
    assert "package/data/passwd.txt" not in unpack(path, pinned(b""), tmp_path / "out")
    path.write_bytes(tgz({"package/data/../../../x.txt": b"x"}))
    with pytest.raises(DataError, match="would lie outside its folder"):
        unpack(path, pinned(b""), tmp_path / "other")
    assert not (tmp_path / "x.txt").exists()


def test_other_bytes_than_those_pinned_are_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "thing.tgz"
    path.write_bytes(tgz(FILES))
    with pytest.raises(DataError, match=r"thing 1\.0: its SHA-256 is [0-9a-f]{64}, and [0-9a-f]{64} was pinned"):
        check(path, pinned(b"something else"))


def test_an_archive_on_a_shelf_is_found_by_its_bytes_and_is_there_from_then_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tgz(FILES)
    (tmp_path / "renamed.tgz").write_bytes(content)
    (tmp_path / "other.tgz").write_bytes(tgz({"package/data/a.txt": b"not this"}))
    monkeypatch.setitem(sources.SOURCES, "thing", (pinned(content),))
    said: list[str] = []
    with pytest.raises(DataError, match=r"thing is not in the cache .* bring it once with `fedvision data fetch thing` \(0 MB, MIT\)"):
        sources.fetched("thing")
    fetch("thing", said.append, tmp_path)
    (folder,) = sources.fetched("thing")
    assert (folder / "package/data/a.txt").read_bytes() == b"data" and folder.is_relative_to(cache)
    about = json.loads((folder / "about.json").read_text())
    assert about["licence"] == "MIT" and about["sha256"] == hashlib.sha256(content).hexdigest()
    fetch("thing", said.append, tmp_path)
    assert said == ["thing: fetched and checked; licence: MIT", f"thing: already there, {cache / 'fetched'}"]


def test_a_package_whose_tool_is_not_here_is_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.SOURCES, "thing", (pinned(b"x"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"comes by npm, and npm is not installed here; .* give its folder with --from"):
        fetch("thing", lambda text: None)


def test_an_unknown_name_is_said_with_the_nearest_and_the_table_names_all() -> None:
    with pytest.raises(ConfigError, match="did you mean animals"):
        sources_of("animal")
    assert table().row_count == len(sources.SOURCES) + len(sources.TOGETHER)


def test_every_archive_is_pinned_and_says_its_licence() -> None:
    archives = [archive for several in sources.SOURCES.values() for archive in several]
    assert all(len(a.sha256) == 64 and a.version and a.licence and a.keep and a.megabytes > 0 for a in archives)
    assert len({a.sha256 for a in archives}) == len(archives) == len({a.folder for a in archives})


def test_a_pickle_that_names_anything_but_arrays_is_refused_and_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.mkdir, (str(tmp_path / "ran"),)

    array, evil = tmp_path / "array.gz", tmp_path / "evil.gz"
    array.write_bytes(gzip.compress(pickle.dumps(np.arange(3), protocol=2)))
    evil.write_bytes(gzip.compress(pickle.dumps(Evil())))
    with pytest.raises(DataError, match=r"names posix\.mkdir, which is no array; nothing of it was run"):
        unpickled(evil)
    assert not (tmp_path / "ran").exists()
