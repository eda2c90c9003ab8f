"""A data set: its images, prepared once, and what is known about each of them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedvision.errors import ConfigError


@dataclass(frozen=True)
class Dataset:
    """N labelled images, or volumes, of one shape.

    images: uint8 [N,C,H,W] or [N,C,D,H,W], in memory or mapped from a file.   labels: int64 [N], indices into `classes`; of
        images with masks, the class that each counts under where images are dealt out and counted (`masks.main_class`).
    subjects: whom or what each image shows, str [N]; None where nothing is known, and each image stands for itself.
    columns: what else is known of each image, by name, str [N]: what a natural partition may go by.
    mean, std: normalisation per channel on the scale 0..1, a public constant and never computed from the images.
    digest: SHA-256 of the images' bytes, where it is already known; else it is computed.
    targets: what a task other than classification learns, a row an image, of any shape: numbers float32 [N,T], NaN where one is
        not known, by `target_names`; or masks uint8 [N,H,W] or [N,D,H,W] of numbers of `classes`, 255 where it is not known;
        or boxes float32 [N,M,5], as `fedvision.detection.boxes` says, with the objects' masks [N,M,5 + P], as `.packing` says.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    subjects: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    digest: str | None = None
    targets: np.ndarray | None = None
    target_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width; of volumes channels, depth, height, width."""
        return tuple(int(n) for n in self.images.shape[1:])

    @property
    def has_boxes(self) -> bool:
        """Whether the targets are boxes: rows of a class and four corners, as `fedvision.detection.boxes` says."""
        return self.targets is not None and self.targets.dtype == np.float32 and self.targets.ndim == 3

    @property
    def has_masks(self) -> bool:
        """Whether the targets are masks: a class for each pixel."""
        return self.targets is not None and self.targets.dtype == np.uint8

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a task's outputs are called: the targets, or else the classes."""
        return self.target_names or self.classes

    def fingerprint(self) -> str:
        """SHA-256 of what is trained on: images, labels and their classes, subjects."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update((self.digest or images_digest(self.images)).encode())
        digest.update(np.ascontiguousarray(self.labels, "<i8").tobytes())
        digest.update(b"" if self.subjects is None else "\x1f".join(self.subjects.tolist()).encode())
        if self.targets is not None:
            digest.update(repr(self.target_names).encode())
            if self.targets.dtype == np.float32 and self.targets.ndim == 2:
                digest.update(np.ascontiguousarray(self.targets, "<f4").tobytes())
            else:
                digest.update((repr(self.targets.shape) + images_digest(self.targets)).encode())
        return digest.hexdigest()


def images_digest(images: np.ndarray) -> str:
    """SHA-256 of the images' bytes, read in pieces so that a mapped file need not fit in memory."""
    digest = hashlib.sha256()
    step = max(1, (1 << 24) // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        digest.update(np.ascontiguousarray(images[start : start + step]).tobytes())
    return digest.hexdigest()


def normalisation(
    given_mean: list[float] | None, given_std: list[float] | None, channels: int, mean: float, std: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the std of each channel: those of the config, else the data set's public `mean` and `std`."""
    for key, given in (("mean", given_mean), ("std", given_std)):
        if given is not None and len(given) != channels:
            raise ConfigError(
                f"data.{key} = {given} has {len(given)} value{'s' if len(given) != 1 else ''}, and the images have "
                f"{channels} channel{'s' if channels != 1 else ''}: give one value per channel, or null"
            )
    return tuple(given_mean or [mean] * channels), tuple(given_std or [std] * channels)


def in_natural_order(values: set[str]) -> list[str]:
    """Names in the order in which people count: as numbers where all are whole numbers, else as text.

    >>> in_natural_order({"10", "9"}), in_natural_order({"b", "a", "10"})
    (['9', '10'], ['10', 'a', 'b'])
    """
    numbers = all(value.isascii() and value.isdigit() for value in values)
    return sorted(values, key=lambda value: (int(value), value)) if numbers else sorted(values)
