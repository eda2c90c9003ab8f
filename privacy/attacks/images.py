"""Canaries as images: noise with labels at random, held by a site among its own, and so IN the model that is delivered.

They try the whole of the training, gradients and clipping included, with what the delivered model alone tells: far less than
canaries beside the sums find.  An image that takes part stays among the site's for the whole run; a fair coin each.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor, nn

from fedvision.data.dataset import Dataset
from fedvision.data.site import Batch, Examples, Source
from fedvision.errors import RunFolderError
from fedvision.protections import DpSgd
from fedvision.seeds import named, stream
from fedvision.types import SiteId

FILE = "canary-images.npy"  # two arrays, one after the other: coins, (key)


@dataclass(frozen=True)
class Pictures:
    """The canary images of one site.  took_part: bool [m]; key: what the images, labels and nothing else are drawn from."""

    took_part: np.ndarray
    key: int

    def drawn(self, shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [m,C,H,W] and int64 [m]: every pixel and every label by chance."""
        rng, m = stream(self.key, "canary images"), len(self.took_part)
        return rng.integers(0, 256, (m, *shape), dtype=np.uint8), rng.integers(0, classes, m)

    def among(self, examples: Examples, classes: int) -> "WithCanaries":
        """A site's examples, and the canaries that take part after them."""
        shape = examples.source.dataset.shape
        images, labels = (array[self.took_part] for array in self.drawn(shape, classes))
        return WithCanaries(examples, examples.source.normalised(images), torch.from_numpy(labels))


class WithCanaries(Examples):
    """Examples with further inputs and targets behind them."""

    __slots__ = ("_more_inputs", "_more_targets", "_own")

    def __init__(self, own: Examples, inputs: Tensor, targets: Tensor):
        super().__init__(own.source, own.rows)
        self._own, self._more_inputs, self._more_targets = own, inputs, targets

    def __len__(self) -> int:
        return len(self._own) + len(self._more_targets)

    @property
    def subjects(self) -> np.ndarray | None:
        """Each canary is a subject by itself."""
        known = self._own.subjects
        return None if known is None else np.concatenate([known, [f"canary {n}" for n in range(len(self._more_targets))]])

    def batch(self, positions: np.ndarray | Tensor) -> Batch:
        """As of any examples; the canaries' positions follow the others'."""
        at = np.asarray(positions)
        own = self._own.batch(np.where(at < len(self._own), at, 0)) if len(self._own) else None
        more = torch.from_numpy(np.clip(at - len(self._own), 0, None))
        if own is None or not len(self._more_targets):
            return own or Batch(self._more_inputs[more], self._more_targets[more])
        mine = torch.from_numpy(at < len(self._own))
        inputs = torch.where(mine.view(-1, 1, 1, 1), own.inputs, self._more_inputs[more])
        return Batch(inputs, torch.where(mine, own.targets, self._more_targets[more]))


def pictures_at(states: Path, site: SiteId, spec: DpSgd) -> Pictures:
    """The canary images of a site in a run: as kept, or drawn now and kept before they are used."""
    path = states / quote(site, safe="") / FILE
    kept = read_pictures(path)
    if kept is not None:
        return kept
    assert spec.audit is not None
    seed = spec.simulation_only_seed
    key = secrets.randbits(62) if seed is None else named(seed, "site", site, "canary images")
    rng = stream(key, "coins")
    made = Pictures(rng.random(spec.audit.canaries) < 0.5, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(f".{os.getpid()}.part")
    with written.open("wb") as file:
        np.save(file, made.took_part)
        np.save(file, np.array([made.key], np.int64))
    os.replace(written, path)
    return made


def read_pictures(path: Path) -> Pictures | None:
    """What was kept; None where there is nothing, RunFolderError where it cannot be read."""
    try:
        with path.open("rb") as file:
            took_part, key = np.load(file), np.load(file)
        return Pictures(took_part, int(key[0]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): who of the canaries took part is lost, and the run cannot be audited") from None


def scored(pictures: Pictures, model: nn.Module, dataset: Dataset) -> np.ndarray:
    """How much better the model knows each canary's label than the other labels, nats [m]."""
    images, labels = pictures.drawn(dataset.shape, len(dataset.classes))
    model.eval()
    with torch.no_grad():
        parts = [model(Source(dataset).normalised(images[start : start + 256])) for start in range(0, len(images), 256)]
    known = torch.log_softmax(torch.cat(parts).double(), 1)
    own = known[torch.arange(len(labels)), torch.from_numpy(labels)]
    return (own - known.mean(1)).nan_to_num(0.0).numpy()
