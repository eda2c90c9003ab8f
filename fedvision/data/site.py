"""A site: one holder's examples, split into train, validation and test, and read a batch at a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedvision.augment import Changes, Pipeline
from fedvision.data.camera import seen
from fedvision.data.dataset import Dataset
from fedvision.types import SiteId

if TYPE_CHECKING:
    from fedvision.data.partition import Partition

PARTS = ("train", "validation", "test")
_KEPT = 256 << 20  # bytes up to which a part is kept in memory: normalised, or else as its camera gave it


@dataclass(frozen=True)
class Batch:
    """inputs: float32 [B,C,H,W] or [B,C,D,H,W], normalised: (x / 255 - mean) / std.   targets: [B,...], whatever the task
    learns: labels int64 [B], numbers float32 [B,T], masks uint8 [B,H,W] or [B,D,H,W]."""

    inputs: Tensor
    targets: Tensor


class Source:
    """The images of a data set as the sites' cameras give them."""

    def __init__(self, dataset: Dataset, partition: "Partition | None" = None, filtered: Pipeline | None = None):
        self.dataset, self.filtered = dataset, filtered
        self.partition = partition if partition is not None and partition.cameras is not None else None
        channel = (-1, *[1] * (len(dataset.shape) - 1))
        self._mean = torch.tensor(dataset.mean, dtype=torch.float32).reshape(channel)
        self._std = torch.tensor(dataset.std, dtype=torch.float32).reshape(channel)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n,C,H,W]: the images `rows`, each through the camera of the site that holds it, and then the filters."""
        images = self._taken(rows)
        return images if self.filtered is None else self.filtered(torch.from_numpy(images)).numpy()

    def _taken(self, rows: np.ndarray) -> np.ndarray:
        images = np.asarray(self.dataset.images[rows])
        if self.partition is None or self.partition.cameras is None:
            return images
        holders = self.partition.site_of[rows]
        for holder in np.unique(holders[holders >= 0]):
            at = np.flatnonzero(holders == holder)
            images[at] = seen(images[at], self.partition.cameras[holder], rows[at], self.partition.seed)
        return images

    def targets(self, rows: np.ndarray) -> Tensor:
        """What is learned of the images `rows`, [n,...]."""
        targets = self.dataset.targets
        return torch.from_numpy(self.dataset.labels[rows] if targets is None else np.asarray(targets[rows]))

    def keeps_targets(self, examples: int) -> bool:
        """Whether the targets of so many examples are small enough to be kept in memory."""
        targets = self.dataset.targets
        return targets is None or examples * targets[:1].nbytes <= _KEPT

    def normalised(self, images: np.ndarray | Tensor) -> Tensor:
        """float32 [n,C,H,W] (or [n,C,D,H,W]) of uint8 images, or of floats on the scale 0..1, which are overwritten.  Three plain operations, so
        that the bytes depend on nothing but the pixel."""
        x = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        x = x.float().div_(255) if x.dtype == torch.uint8 else x.float()
        return x.sub_(self._mean).div_(self._std)

    def kept(self, examples: int) -> tuple[str, int]:
        """How so many examples are kept in memory, and the bytes that it takes.

        "inputs": normalised, 4 bytes a value.  "images": as the camera gave them, 1 byte, so that its noise and JPEG
        are computed once.  "": not at all; each batch is read from the data set.
        """
        images = examples * int(np.prod(self.dataset.shape))
        if 4 * images <= _KEPT:
            return "inputs", 4 * images
        costly = self.partition is not None or self.filtered is not None
        return ("images", images) if costly and images <= _KEPT else ("", 0)


class Examples:
    """An ordered set of one holder's examples: `rows` int64 [n] of a source.  Read when first asked for."""

    __slots__ = ("_images", "_inputs", "_labels", "_met", "_rows", "_source", "_targets")

    def __init__(self, source: Source, rows: np.ndarray):
        self._source, self._rows = source, rows
        self._images: np.ndarray | None = None
        self._inputs: Tensor | None = None
        self._labels: np.ndarray | None = None
        self._targets: Tensor | None = None
        self._met = False  # whether what can be kept was read

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def source(self) -> Source:
        """Where they are read from."""
        return self._source

    @property
    def rows(self) -> np.ndarray:
        """Where the examples stand in the data set, int64 [n]."""
        return self._rows

    @property
    def labels(self) -> np.ndarray:
        """int64 [n]."""
        if self._labels is None:
            self._labels = self._source.dataset.labels[self._rows]
        return self._labels

    @property
    def targets(self) -> Tensor:
        """What is learned: the labels, int64 [n], or the data set's targets [n,...]."""
        return self._source.targets(self._rows) if self._targets is None else self._targets

    @property
    def subjects(self) -> np.ndarray | None:
        """Whom or what each example shows, str [n]; None where it is not known."""
        subjects = self._source.dataset.subjects
        return None if subjects is None else subjects[self._rows]

    def images(self, positions: np.ndarray) -> np.ndarray:
        """uint8 [B,C,H,W]: the images at `positions` as the site's camera gives them, for the eye."""
        return self._source.images(self._rows[positions]) if self._images is None else self._images[positions]

    def batch(self, positions: np.ndarray | Tensor) -> Batch:
        """The examples at `positions` (int [B], from 0), in that order; IndexError where one is outside."""
        if not self._met:
            self._keep()
        at = torch.from_numpy(positions) if isinstance(positions, np.ndarray) else positions
        inputs = self._read(at.numpy()) if self._inputs is None else self._inputs.index_select(0, at)
        return Batch(inputs, self.targets_at(at))

    def changed(self, positions: Tensor, change: Changes) -> Batch:
        """As `batch`, of images changed on the way, and their targets with them."""
        if self._images is None and self._source.kept(len(self))[0]:
            self._images = self._source.images(self._rows)
        images, targets = change(torch.from_numpy(self.images(positions.numpy())), self.targets_at(positions))
        return Batch(self._source.normalised(images), targets)

    def targets_at(self, positions: Tensor) -> Tensor:
        """The targets of the examples at `positions`."""
        if self._targets is None:
            return self._source.targets(self._rows[positions.numpy()])
        return self._targets.index_select(0, positions)

    def _keep(self) -> None:
        """Read what is small enough to be kept in memory."""
        how, _ = self._source.kept(len(self))
        if how == "inputs":
            self._inputs = self._source.normalised(self._source.images(self._rows))
        elif how == "images":
            self._images = self._source.images(self._rows)
        if self._source.keeps_targets(len(self)):
            self._targets = self.targets
        self._met = True

    def _read(self, positions: np.ndarray) -> Tensor:
        """The inputs at `positions`, made from what is kept or else from the data set."""
        return self._source.normalised(self.images(positions))


@dataclass(frozen=True)
class Site:
    """What one site holds.  Any part but train may be empty."""

    id: SiteId
    train: Examples
    validation: Examples
    test: Examples

    def part(self, name: str) -> Examples:
        """The examples of part "train", "validation" or "test"."""
        if name not in PARTS:
            raise ValueError(f"part {name!r}: a site has train, validation and test")
        examples: Examples = getattr(self, name)
        return examples
