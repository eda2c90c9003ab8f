"""What a site keeps from round to round (SCAFFOLD's c_i, FedBN's layers): on the site's disk, a file a round.

The state written in round n lies beside that of the last counted round, and is current only once a request names round n
as counted.  So a site asked twice, a late reply or a round that failed moves nothing twice.
"""

import os
from pathlib import Path
from urllib.parse import quote

from safetensors.torch import load_file, save_file
from torch import Tensor

from fedvision.errors import RunFolderError
from fedvision.types import SiteId


class SiteStates:
    """The states of the sites that are opened on this machine, under one folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def _of(self, site: SiteId) -> Path:
        return self.folder / quote(site, safe="")

    def current(self, site: SiteId, counted: int | None) -> dict[str, Tensor]:
        """The site's state of round `counted`, {} where no round of it counted yet."""
        if counted is None:
            return {}
        path = self._of(site) / f"{counted}.safetensors"
        if not path.exists():
            raise RunFolderError(
                f"site {site} has no state of round {counted}, which the coordinator counted: {path} is missing; "
                "resume where the sites' states are, or start again"
            )
        return load_file(path)

    def forget_before(self, site: SiteId, counted: int | None) -> None:
        """Delete what is older than round `counted`.

        Only where the coordinator can no longer go back behind it: a request to train names a round whose checkpoint is
        durable; one to evaluate names the round that is being evaluated, whose checkpoint is not yet written.
        """
        if counted is None:
            return
        for other in self._of(site).glob("*.safetensors"):
            if int(other.stem) < counted:
                other.unlink(missing_ok=True)

    def keep(self, site: SiteId, round: int, state: dict[str, Tensor]) -> None:
        """Write the state that round `round` left, whole or not at all; it is not current yet."""
        folder = self._of(site)
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / f".{round}.{os.getpid()}.part"
        save_file(state, written)
        os.replace(written, folder / f"{round}.safetensors")
