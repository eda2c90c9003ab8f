"""Canaries in a private run's noisy sums: the strongest that the promise has to withstand, and none of them in the model.

The vector that a site clips, sums and noises is made longer by one number a canary, where no image has a gradient.  A canary
that takes part is drawn by the run's own sampler, brought to the clip norm C by the run's own clipping, and stands there
alone; the run's own noise falls on the whole vector in one call.  What is delivered is the vector without these numbers.

Places of their own, rather than the model's: scores of the model's numbers without the images' part would tell the noise that
protects them, and with it they would be no fair test: gradients answer to the noise of earlier steps, and steps that the
canaries did not bend would show more of them than a run that had them.  So scores depend on no image, and may be shown.

Each canary takes part by a fair coin, for the whole run.  Kept of it, in the site's own folder: the coins and the scores.
"""

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from fedvision.errors import RunFolderError
from fedvision.protections import DpSgd
from fedvision.types import SiteId
from privacy.attacks.one_run import Traces
from privacy.gradients import Clipping
from privacy.noise import Source, for_simulation_only, secret

FILE = "canaries.npy"  # three arrays, one after the other: coins, scores, (steps, round, attempt, round, attempt, ...)
LOUD = 1000.0  # a canary's gradient before clipping, in clip norms: what clipping lets through is seen


@dataclass
class Shadow:
    """The canaries of one site in one run, and what their places have shown so far.

    took_part: bool [m].  scores: log-likelihood ratios [m], summed over steps; above 0 where a canary seems to have taken part.
    rounds: (round, attempt) of each training that is in the scores.  fresh: whether the noise is new at each.
    """

    took_part: np.ndarray
    scores: np.ndarray
    traces: Traces
    steps: int = 0
    rounds: list[tuple[int, int]] = field(default_factory=list)
    fresh: bool = True

    @classmethod
    def toss(cls, count: int, traces: Traces, source: Source) -> "Shadow":
        """`count` canaries, a fair coin each."""
        return cls(source.uniform(count) < 0.5, np.zeros(count), traces)

    def __len__(self) -> int:
        return len(self.scores)

    def join(self, places: Tensor, spec: DpSgd, clipping: Clipping, source: Source) -> None:
        """Add to `places` [m] what this step's sample of the canaries that take part adds to the sum."""
        sampled = np.zeros(len(self))
        sampled[source.poisson_sample(len(self), spec.sampling_rate)] = 1.0
        other = -1.0 if self.traces.replaced else 0.0
        places += torch.from_numpy(np.where(self.took_part, 1.0, other) * sampled * _clipped(clipping)).to(places)

    def see(self, places: Tensor, clip: float) -> None:
        """Score the noisy `places` [m] of one step."""
        self.scores += self.traces.ratios(places.double().cpu().numpy() / clip)
        self.steps += 1


@lru_cache(maxsize=16)
def _clipped(clipping: Clipping) -> float:
    """What a loud gradient comes to under the run's own clipping."""
    raw = LOUD * clipping.norm
    return raw * float(clipping.weights({"canary": torch.tensor([raw**2])})["canary"][0])


def traces_of(spec: DpSgd, noise_multiplier: float) -> Traces:
    """What a canary leaves where the run keeps its promise."""
    return Traces(noise_multiplier, spec.sampling_rate, spec.relation == "replace_one")


class Canaries:
    """The canaries of one site, in its folder of one run."""

    def __init__(self, folder: Path, site: SiteId):
        self.path, self.site = folder / quote(site, safe="") / FILE, site

    def shadow(self, spec: DpSgd, noise_multiplier: float) -> Shadow | None:
        """Where the run's canaries stand: as kept, or just tossed.  None where the run has none beside its sums."""
        if spec.audit is None or spec.audit.kind != "gradients":
            return None
        traces, seed = traces_of(spec, noise_multiplier), spec.simulation_only_seed
        found = self.read(traces)
        if found is None:
            source = secret() if seed is None else for_simulation_only(seed, "site", self.site, "canaries")
            found = Shadow.toss(spec.audit.canaries, traces, source)
        found.fresh = seed is None
        return found

    def scored(self, shadow: Shadow, round: int, attempt: int) -> None:
        """Keep what a round added.  The same attempt again, where noise repeats, showed nothing new."""
        if (round, attempt) not in shadow.rounds or shadow.fresh:
            shadow.rounds.append((round, attempt))
            self._keep(shadow)

    def read(self, traces: Traces) -> Shadow | None:
        """What was kept; None where there is nothing yet, RunFolderError where it cannot be read."""
        try:
            with self.path.open("rb") as file:
                took_part, scores, counted = (np.load(file) for _ in range(3))
            rounds = [(int(number), int(attempt)) for number, attempt in counted[1:].reshape(-1, 2)]
            return Shadow(took_part, scores, traces, int(counted[0]), rounds)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, IndexError, EOFError) as error:
            raise RunFolderError(f"{self.path} is damaged ({error}); the canaries' scores are lost, delete it to go on without") from None

    def _keep(self, shadow: Shadow) -> None:
        """Replace what was kept, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_suffix(f".{os.getpid()}.part")
        counted = np.array([shadow.steps, *(number for pair in shadow.rounds for number in pair)], np.int64)
        with written.open("wb") as file:
            for array in (shadow.took_part, shadow.scores, counted):
                np.save(file, array)
        os.replace(written, self.path)
