"""The run folder: everything that is kept of a run, written so that a crash at any moment loses no finished round.

    config.yaml         the experiment, every key
    environment.json    versions, CPU, threads, device, seed
    partition.npz/json  who holds what
    rounds.jsonl        one object a round, each on disk before the next round begins
    summary.json        how it stands: "running" from the first moment, then completed, failed or interrupted
    model.safetensors   the final model
    checkpoints/        to go on from
    ledger.jsonl        of a private run: what was asked and charged; each site's is sites/<SITE>/ledger.jsonl (docs/ledger.md)
    run.log             what was said
    report.html         what to show

JSON here is strict: a number that is not finite (a diverged loss, the AUC of one class) is written as null.
"""

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvision.errors import RunFolderError
from fedvision.experiment import Experiment, load
from fedvision.schema import render
from fedvision.tracking.environment import differences, environment

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RunFolder", "differences", "environment", "write_atomically", "write_tensors"]

RUNS = Path("runs")


class RunFolder:
    """One run's folder.  Make one with `create`, or `open` one that is there."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, experiment: Experiment, kind: str, out: Path | None = None, needed_bytes: int = 0) -> "RunFolder":
        """A new folder with the config and a summary that says "running"; RunFolderError where it cannot be.

        out: absent or empty; None = runs/<name>-<kind>-<yyyymmdd-hhmmss>.
        needed_bytes: what the run will write, so that a disk without the room is an error before training.
        """
        name = f"{experiment.name}-{kind}-{datetime.now():%Y%m%d-%H%M%S}"
        _check_room(Path(out) if out is not None else RUNS, needed_bytes)
        folder = cls(_make(Path(out)) if out is not None else _make_numbered(RUNS / name))
        folder.write_config(experiment)
        folder.write_summary(
            {
                "name": experiment.name,
                "run": f"{name}-{os.urandom(4).hex()}",
                "kind": kind,
                "status": "running",
                "error": None,
                "engine": experiment.engine.name,
                "rounds": 0,
                "rounds_planned": experiment.federation.rounds,
                "metrics": {},
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run folder at `path`; RunFolderError where it is none, naming what is missing."""
        path = Path(path)
        if not path.is_dir():
            raise RunFolderError(f"there is no run folder {path}; give the folder that a run named as its run_dir")
        missing = [name for name in ("config.yaml", "summary.json") if not (path / name).is_file()]
        if missing:
            raise RunFolderError(f"{path} is not a run folder: it has no {' and no '.join(missing)}")
        return cls(path)

    @property
    def run(self) -> str:
        """The run's id, which no other run has."""
        return str(self.summary()["run"])

    @property
    def kind(self) -> str:
        """simulate, centralised or local."""
        return str(self.summary()["kind"])

    # ------------------------------------------------------------------------------------- config and environment

    def write_config(self, experiment: Experiment) -> None:
        """Keep the experiment as complete YAML."""
        write_atomically(self.path / "config.yaml", render(experiment).encode())

    def experiment(self) -> Experiment:
        """The experiment of this run; ConfigError where its config.yaml was spoilt."""
        return load(self.path / "config.yaml")

    def write_environment(self, values: Mapping[str, Any]) -> None:
        """Keep what `environment` tells."""
        write_atomically(self.path / "environment.json", _json(values, indent=2))

    def environment(self) -> dict[str, Any]:
        """What was kept by `write_environment`; {} where the run did not come so far."""
        return self.json("environment.json") or {}

    def partition(self) -> dict[str, Any]:
        """Who holds what, as counts; {} where the run did not come so far."""
        return self.json("partition.json") or {}

    def json(self, name: str) -> dict[str, Any] | None:
        """The object in a JSON file of this folder; None where there is no such file."""
        file = self.path / name
        try:
            value = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{file} cannot be read: {error}") from None
        if not isinstance(value, dict):
            raise RunFolderError(f"{file} holds {type(value).__name__} where an object was written")
        return value

    # ------------------------------------------------------------------------------------------------- the rounds

    def append_round(self, record: Mapping[str, Any]) -> None:
        """Add a round: on disk when this returns.  RunFolderError on a full disk; the earlier ones stay."""
        line = _json(record) + b"\n"
        file = self.path / "rounds.jsonl"
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                end = _end_of_last_line(handle)
                os.ftruncate(handle, end)  # what a kill in the middle of a line left
                _write_whole(handle, line, end)
            finally:
                os.close(handle)
        except OSError as error:
            raise _unwritable(file, error, f"; the rounds before {record['round']} are kept") from None

    def rounds(self) -> list[dict[str, Any]]:
        """Every whole round, in order; a last line torn by a kill is not one."""
        file = self.path / "rounds.jsonl"
        try:
            lines = file.read_bytes().split(b"\n")[:-1]  # what follows the last newline was never finished
        except FileNotFoundError:
            return []
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise RunFolderError(f"{file}, line {number}: not JSON ({error}); restore the line, or resume the run") from None
        return records

    def truncate_rounds(self, keep: int) -> None:
        """Forget round `keep` and all after it, in one step that a crash does or does not do."""
        kept = [record for record in self.rounds() if record["round"] < keep]
        write_atomically(self.path / "rounds.jsonl", b"".join(_json(record) + b"\n" for record in kept))

    # ------------------------------------------------------------------------------------------ the log and the summary

    def log(self, text: str) -> None:
        """Add a line with the time to run.log; a text of several lines stays together, indented."""
        line = f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text.rstrip()}".replace("\n", "\n    ")
        try:
            with open(self.path / "run.log", "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise _unwritable(self.path / "run.log", error) from None

    def summary(self) -> dict[str, Any]:
        """How the run stands or ended."""
        return self.json("summary.json") or {}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace the summary, whole or not at all."""
        write_atomically(self.path / "summary.json", _json(summary, indent=2))


def write_atomically(path: Path, content: bytes) -> None:
    """`content` at `path`, on disk when this returns; a crash or a full disk leaves what was there before.

    RunFolderError where it cannot be written.
    """
    with _replacing(path) as temporary:
        temporary.write_bytes(content)


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> None:
    """`tensors` at `path` as safetensors, written from where they lie: no second copy of a model is made.  Otherwise as
    `write_atomically`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with _replacing(path) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata) if metadata else None)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place, durably, when the block ends well."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _unwritable(path, error) from None
    temporary = Path(name)
    try:
        yield temporary
        os.fsync(handle)
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a run is read by colleagues
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from None
    finally:
        os.close(handle)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)  # the new name itself is only on disk when its folder is
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _end_of_last_line(handle: int) -> int:
    """The number of bytes up to and with the last newline."""
    position = os.lseek(handle, 0, os.SEEK_END)
    while position > 0:
        start = max(0, position - 65536)
        newline = os.pread(handle, position - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _write_whole(handle: int, line: bytes, start: int) -> None:
    """`line` at `start` and on disk, or nothing of it there."""
    try:
        written = os.pwrite(handle, line, start)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, start)
        raise


def _make(path: Path) -> Path:
    """The folder `path`, made or found empty."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        beginning = next(path.iterdir(), None)
    except OSError as error:
        raise _unwritable(path, error) from None
    if beginning is not None:
        is_run = (path / "config.yaml").is_file()
        way = f"go on with that run with --resume {path}, or give" if is_run else "give"
        raise RunFolderError(f"{path} is not empty (it holds {beginning.name}): {way} another folder with --out")
    return path


def _make_numbered(path: Path) -> Path:
    """The folder `path`, or path-2, path-3, ..., made now and nobody else's."""
    for number in range(1, 1000):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            if not candidate.parent.is_dir():
                break
        except OSError as error:
            raise _unwritable(candidate, error) from None
    raise RunFolderError(f"{path} cannot be made: something of that name is there; give another folder with --out")


def _check_room(path: Path, needed_bytes: int) -> None:
    there = next(folder for folder in [path.absolute(), *path.absolute().parents] if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise RunFolderError(
            f"{path}: the run needs about {needed_bytes / 2**20:,.0f} MiB "
            f"and its disk has {free / 2**20:,.0f} MiB free; "
            "make room, give a folder on another disk with --out, or lower tracking.checkpoints"
        )


def _unwritable(path: Path, error: OSError, more: str = "") -> RunFolderError:
    way = "make room on its disk" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "give a folder that you may write with --out"
    return RunFolderError(f"{path} cannot be written: {error.strerror or error}; {way}{more}")


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    """`value` of JSON's own types: keys as text, numpy's numbers as Python's, what is not finite as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy and torch, numbers and arrays
        return _plain(value.tolist())
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be kept as JSON")
