"""What was drawn of a private sum, durable before anything follows from it.

Where the coordinator draws the noise, a second draw of a round would be a second release that nobody paid for.  So the
strategy's new state is on disk before it is judged, measured, or sent to anyone: a run that was killed after that goes on
from it, and one that was killed before draws for the first time as far as anyone can tell.

    checkpoints/release.safetensors        the newest release: the strategy's state, and how its round came to it
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvision.errors import RunFolderError
from fedvision.tracking.folder import write_tensors
from server.checkpoints import flat, read, whole


@dataclass(frozen=True)
class Release:
    """One round's.  attempts: how often it was tried; told: what its record says of the sites; simulated: seconds, where they count."""

    round: int
    attempts: int
    told: dict[str, Any]
    simulated: float | None
    state: Any


@dataclass(frozen=True)
class Releases:
    """The newest release of a run, in its folder of checkpoints."""

    folder: Path

    @property
    def _file(self) -> Path:
        return self.folder / "release.safetensors"

    def keep(self, release: Release) -> None:
        """Make it durable, in the place of the one before, whose round's checkpoint is whole."""
        about = {"round": release.round, "attempts": release.attempts, "told": release.told, "simulated": release.simulated}
        write_tensors(self._file, flat(release.state), {"release": json.dumps(about)})

    def of(self, round: int, empty: Any) -> Release | None:
        """That of `round`, in the type of `empty`; None where it was not drawn yet.  RunFolderError where a later one was: the
        run has lost a checkpoint, and would draw again what was drawn."""
        if not self._file.exists():
            return None
        tensors, about = read(self._file, "release", "begin another run: what was drawn must not be drawn again")
        if about["round"] > round:
            raise RunFolderError(
                f"round {round}: its noise was drawn, and its checkpoint is gone from {self.folder}; drawing it again would be a release that the plan "
                "does not pay for: put the checkpoint back, or begin another run"
            )
        if about["round"] < round:
            return None
        return Release(round, about["attempts"], about["told"], about["simulated"], whole(tensors, empty))
