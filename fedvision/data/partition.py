"""Partition: who holds which example, and for what.  Drawn from the seed by name, saved beside a run, loaded again."""

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.data.cache import written_whole
from fedvision.errors import DataError

SERVER, NOBODY = -1, -2
TRAIN, VALIDATION, TEST = 0, 1, 2
_FORMAT = 1


@dataclass(frozen=True)
class Partition:
    """site_of: int32 [N], the site's number, -1 = the server's, -2 = nobody's.   part_of: int8 [N], 0 train,
    1 validation, 2 test.   sites: names in fixed order.   cameras: float64 [S,7], the order of camera.FIELDS, or None.
    seed: names the images' noise.   fingerprint: of the data set that it partitions.
    """

    site_of: np.ndarray
    part_of: np.ndarray
    sites: tuple[str, ...]
    fingerprint: str
    seed: int
    cameras: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write it as .npz, whole or not at all."""
        about = {"format": _FORMAT, "fingerprint": self.fingerprint, "seed": self.seed, "notes": self.notes}
        with written_whole(Path(path)) as file:
            np.savez_compressed(
                file,
                about=np.array(json.dumps(about)),
                site_of=self.site_of.astype("<i4"),
                part_of=self.part_of.astype("i1"),
                sites=np.array(self.sites),
                cameras=np.zeros((0, 7)) if self.cameras is None else self.cameras,
            )

    @staticmethod
    def load(path: Path, fingerprint: str | None = None) -> "Partition":
        """Read what `save` wrote; DataError where it is something else, or for another data set than `fingerprint`."""
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                arrays = {name: file[name] for name in ("site_of", "part_of", "sites", "cameras")}
            loaded = _of(about, arrays)
        except FileNotFoundError:
            raise DataError(f"there is no partition {path}") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path} is not a partition that fedvision saved: {error}") from None
        if fingerprint is not None and loaded.fingerprint != fingerprint:
            raise DataError(
                f"{path} partitions another data set: its fingerprint is {loaded.fingerprint}, and that of the data "
                f"here is {fingerprint}; use the data set of that run, or draw a new partition (partition.load = null)"
            )
        return loaded

    def rows(self, site: int, part: int) -> np.ndarray:
        """The examples of one part of one site (or SERVER), int64, ascending.  Looks at all examples."""
        return np.flatnonzero((self.site_of == site) & (self.part_of == part))

    def summary(self, labels: np.ndarray, classes: Sequence[str], most: int = 1000) -> dict[str, Any]:
        """Who holds what, JSON-able: the server's and the first `most` sites' counts by part and class, and cameras."""
        table = self.counts(labels, len(classes))
        sizes = table[:-1].sum((1, 2))
        return {
            "fingerprint": self.fingerprint,
            "sites": len(self.sites),
            "examples": int(table.sum()),
            "classes": list(classes),
            "parts": ["train", "validation", "test"],
            "sizes": {"smallest": int(sizes.min()), "median": float(np.median(sizes)), "largest": int(sizes.max())},
            "server": table[-1].tolist() if table[-1].any() else None,
            "site": [self._site_summary(number, table[number]) for number in range(min(most, len(self.sites)))],
            "left_out": max(0, len(self.sites) - most),
            "notes": list(self.notes),
        }

    def _site_summary(self, number: int, counts: np.ndarray) -> dict[str, Any]:
        from fedvision.data.camera import FIELDS

        result: dict[str, Any] = {"id": self.sites[number], "examples": int(counts.sum()), "counts": counts.tolist()}
        if self.cameras is not None:
            result["camera"] = {name: round(float(value), 4) for name, value in zip(FIELDS, self.cameras[number], strict=True)}
        return result

    def counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """int64 [S+1, 3, classes]: how many examples each site, and last the server, holds by part and class."""
        held = self.site_of >= SERVER
        site = np.where(self.site_of == SERVER, len(self.sites), self.site_of)[held].astype(np.int64)
        cell = (site * 3 + self.part_of[held]) * classes + labels[held]
        size = (len(self.sites) + 1) * 3 * classes
        return np.bincount(cell, minlength=size).reshape(len(self.sites) + 1, 3, classes)


def _of(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Partition:
    if about["format"] != _FORMAT:
        raise ValueError(f"its format is {about['format']}, and this version reads {_FORMAT}")
    site_of, part_of = arrays["site_of"].astype(np.int32), arrays["part_of"].astype(np.int8)
    sites, cameras = tuple(arrays["sites"].tolist()), arrays["cameras"]
    if site_of.shape != part_of.shape or site_of.ndim != 1 or len(cameras) not in {0, len(sites)}:
        raise ValueError("its arrays do not belong together")
    if site_of.max(initial=0) >= len(sites) or site_of.min(initial=0) < NOBODY or not set(np.unique(part_of)) <= {0, 1, 2}:
        raise ValueError("it names sites or parts that are not there")
    kept = cameras if len(cameras) else None
    return Partition(site_of, part_of, sites, about["fingerprint"], about["seed"], kept, tuple(about["notes"]))
