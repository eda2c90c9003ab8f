"""Checkpoints: a strategy's state, whole or not at all on disk, the newest few and the best."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fedvision.errors import RunFolderError
from fedvision.tracking.folder import write_tensors


@dataclass(frozen=True)
class Progress:
    """How far a run is.  next_round: the first one not done.  best: the best value of the criterion so far.
    mark, stale, stopped: of early stopping, the value to beat, the evaluations that did not, and whether the run is over.
    lowest: of the models that were accepted, the lowest loss on held-out data."""

    next_round: int = 0
    best: float | None = None
    mark: float | None = None
    stale: int = 0
    stopped: bool = False
    lowest: float | None = None


class Checkpoints:
    """`round-N.safetensors` under a folder; each holds the strategy's state and a `Progress`."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(".*.safetensors.*"):  # what a kill in the middle of a write left
            torn.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("round-*.safetensors"), key=lambda path: int(path.stem.removeprefix("round-")))

    def write(self, state: Any, progress: Progress, best: bool) -> None:
        """Make `state` durable, then drop what is too old."""
        tensors = flat(state)
        metadata = {"progress": json.dumps(dataclasses.asdict(progress))}
        if best:
            write_tensors(self.folder / "best.safetensors", tensors, metadata)
        write_tensors(self.folder / f"round-{progress.next_round}.safetensors", tensors, metadata)
        for old in self._files()[: -self.keep]:
            old.unlink()

    def newest(self, empty: Any) -> tuple[Any, Progress] | None:
        """The last state and how far it was, in the type of `empty`; None where there is none."""
        files = self._files()
        if not files:
            return None
        tensors, progress = read(files[-1], "progress", "delete it to go on from the checkpoint before it")
        progress.pop("counted", None)  # of older runs: the rounds that are recorded say it too
        return whole(tensors, empty), Progress(**progress)


def flat(state: Any) -> dict[str, Tensor]:
    """A strategy's state as tensors by "part/name"."""
    return {f"{f.name}/{name}": tensor for f in dataclasses.fields(state) for name, tensor in getattr(state, f.name).items()}


def whole(tensors: Mapping[str, Tensor], empty: Any) -> Any:
    """What `flat` took apart, in the type of `empty`."""
    states: dict[str, dict[str, Tensor]] = {f.name: {} for f in dataclasses.fields(empty)}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        states[part][name] = tensor
    return type(empty)(**states)


def read(path: Path, key: str, way_out: str) -> tuple[dict[str, Tensor], Any]:
    """A file's tensors, and the JSON under `key` in its metadata; RunFolderError where it is damaged, with what to do."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[key])
        return load_file(path), about
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); {way_out}") from None
