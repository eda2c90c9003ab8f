"""Checkpoints: a strategy's state, whole or not at all on disk, the newest few and the best."""

import dataclasses
import json
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
    """How far a run is.  next_round: the first one not done.  best: the best value of the criterion so far.  mark, stale, stopped: of early stopping, the value to beat, the evaluations
    that did not, and whether the run is over.  lowest: of the models that were accepted, the lowest loss on held-out data."""

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
        tensors: dict[str, Tensor] = {}
        for f in dataclasses.fields(state):
            tensors |= {f"{f.name}/{name}": tensor for name, tensor in getattr(state, f.name).items()}
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
        try:
            tensors = load_file(files[-1])
            with safe_open(files[-1], "pt") as file:
                progress = json.loads(file.metadata()["progress"])
                progress.pop("counted", None)  # of older runs: the rounds that are recorded say it too
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise RunFolderError(f"{files[-1]} is damaged ({error}); delete it to go on from the checkpoint before it") from None
        states: dict[str, dict[str, Tensor]] = {f.name: {} for f in dataclasses.fields(empty)}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            states[part][name] = tensor
        return type(empty)(**states), Progress(**progress)
