"""Secret draws of sites, on which amplification by sampling rests: in each round, who is in the noisy sum.

The price of a round is that of a Poisson sample only as long as nobody outside the coordinator learns who was drawn.  So a
draw decides nothing that can be seen: every site is asked in every round, trains, answers and pays, and each update goes
through the same checks into one of two sums, of which that of the sites not drawn is forgotten.  Requests, replies,
ledgers, records and clocks are the same whatever was drawn.

The operating system gives a run one key, once; it is on disk before the first request, among the coordinator's own state
and not in the run folder:

    $FEDVISION_STATE/draws/<run>.key        32 secret bytes

A round's draw is a function of the key and the round: it was made when the key was, so a crash at any moment neither loses
it nor makes another.  An empty draw stands; the round then releases noise.  The key is removed when the run is over.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedvision.errors import ConfigError, RunFolderError
from fedvision.experiment import Experiment
from fedvision.protections import Central
from fedvision.types import SiteId
from privacy.ledger.entries import canonical
from privacy.ledger.keys import PLACE, create_once, state_folder
from privacy.noise import Source, for_simulation_only


def key_path(run: str) -> Path:
    """Where the key of a run's draws is, until the run is over."""
    return state_folder() / "draws" / f"{quote(run, safe='')}.key"


@dataclass(frozen=True)
class Draws:
    """Who is in each round's sum.  Not shown when printed.

    key: of the run.  repeatable: None, or the simulation_only_seed that makes the draws, which then are NOT SECRET.
    """

    key: bytes
    rate: float
    repeatable: int | None = None

    def __repr__(self) -> str:
        return "Draws(…)"

    def of(self, round: int, sites: Sequence[SiteId]) -> frozenset[SiteId]:
        """The sites of a round: each with probability `rate`, independently; the same whenever it is asked for."""
        if self.repeatable is not None:
            source = for_simulation_only(self.repeatable, "central", "draw", round)
        else:
            info = b"fedvision/draw/1/" + canonical([round])
            source = Source(HKDF(hashes.SHA256(), 32, None, info).derive(self.key), secret=True)
        return frozenset(sites[i] for i in source.poisson_sample(len(sites), self.rate))


def draws_of(experiment: Experiment, run: str, begun: bool) -> Draws | None:
    """The draws of a run, their key on disk when this returns; None where nothing is amplified.

    begun: whether a request was sent, after which no other key may take the place of one that is gone: RunFolderError.
    """
    p, rate = experiment.privacy, experiment.federation.rate
    if not isinstance(p, Central) or not p.amplified:
        return None
    assert rate is not None  # as the config's own checks have it
    if p.simulation_only_seed is not None:
        return Draws(b"", rate, p.simulation_only_seed)
    path = key_path(run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists() and not begun:
            create_once(path, os.urandom(32))
        key = path.read_bytes()
    except FileNotFoundError:
        raise RunFolderError(
            f"{path}, from which the secret draws of run {run} are made, is gone: other draws would break its promise; put it back, name the "
            f"folder of the user who began the run in {PLACE}, or begin another run"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; a run's secret draws live there: name a folder that can be written in {PLACE}"
        ) from None
    if len(key) != 32:
        raise RunFolderError(f"{path}: {len(key)} bytes, and a key has 32; put back the file as it was, or begin another run")
    return Draws(key, rate)


def forget(run: str) -> None:
    """The run is over: from now on nobody can tell who was drawn."""
    key_path(run).unlink(missing_ok=True)
