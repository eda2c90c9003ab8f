"""The data of an experiment, opened: who holds what, one site at a time."""

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvision.augment import Pipeline, filters
from fedvision.data.dataset import Dataset
from fedvision.data.datasets import DATASETS
from fedvision.data.draw import draw
from fedvision.data.partition import SERVER, TEST, TRAIN, VALIDATION, Partition
from fedvision.data.site import PARTS, Examples, Site, Source
from fedvision.data.targets import with_targets
from fedvision.errors import ConfigError, DataError
from fedvision.types import SiteId

if TYPE_CHECKING:
    from fedvision.experiment import Experiment

_SITES_KEPT = 512 << 20  # bytes of opened sites that one process keeps
_SITE_OVERHEAD = 4096  # bytes of a site's objects besides its images


class Federated:
    """The data set and its partition; `site` opens a site when it is asked for, and keeps the last ones."""

    def __init__(self, dataset: Dataset, partition: Partition, kept: int = _SITES_KEPT, filtered: Pipeline | None = None):
        self.dataset, self.partition = dataset, partition
        self.sites: tuple[SiteId, ...] = tuple(SiteId(name) for name in partition.sites)
        self.classes = dataset.outputs
        self.shape = dataset.shape
        self.fingerprint = partition.fingerprint
        self.notes = (*dataset.notes, *partition.notes)
        self._source = Source(dataset, partition, filtered)
        self._number = {name: number for number, name in enumerate(self.sites)}
        self._order = np.argsort(partition.site_of, kind="stable")  # rows by site, ascending inside each
        self._ends = np.searchsorted(partition.site_of[self._order], np.arange(len(self.sites) + 1))
        self._kept: OrderedDict[SiteId, tuple[Site, int]] = OrderedDict()
        self._room = kept

    def site(self, id: SiteId) -> Site:
        """The site `id`; DataError where there is none of that name."""
        if (found := self._kept.get(id)) is not None:
            self._kept.move_to_end(id)
            return found[0]
        if id not in self._number:
            raise DataError(f"there is no site {id!r}: the sites are {self.sites[0]} to {self.sites[-1]}")
        return self._open(id)

    def _open(self, id: SiteId) -> Site:
        number = self._number[id]
        rows = self._order[self._ends[number] : self._ends[number + 1]]
        part = self.partition.part_of[rows]
        train, validation, test = (Examples(self._source, rows[part == p]) for p in (TRAIN, VALIDATION, TEST))
        site = Site(id, train, validation, test)
        size = _SITE_OVERHEAD + sum(self._source.kept(len(site.part(name)))[1] for name in PARTS)
        self._room -= size
        self._kept[id] = (site, size)
        while self._room < 0 and len(self._kept) > 1:
            self._room += self._kept.popitem(last=False)[1][1]
        return site

    def summary(self) -> dict[str, Any]:
        """Who holds what, JSON-able, for partition.json: per site and for the server the counts of each class by part."""
        said = self.partition.summary(self.dataset.labels, self.dataset.classes)
        by_part = lambda counts: dict(zip(PARTS, counts, strict=True))  # noqa: E731
        sites = {site["id"]: {**by_part(site["counts"]), "camera": site.get("camera")} for site in said["site"]}
        server = by_part(said["server"]) if said["server"] else None
        return {
            "sites": sites,
            "server": server,
            "classes": list(self.dataset.classes),
            "shape": list(self.shape),
            "mean": list(self.dataset.mean),
            "std": list(self.dataset.std),
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }

    def server(self, part: str) -> Examples:
        """The coordinator's own public data, "validation" or "test"; empty where evaluation.server keeps none."""
        if part not in {"validation", "test"}:
            raise ValueError(f"part {part!r}: the server has validation and test data, and never trains")
        return Examples(self._source, self.partition.rows(SERVER, PARTS.index(part)))

    def pooled(self, part: str) -> Examples:
        """All sites' `part` together, each example as its own site's camera gives it; ordered by site."""
        rows = self._order[self._ends[0] :]
        return Examples(self._source, rows[self.partition.part_of[rows] == PARTS.index(part)])


def open_dataset(experiment: "Experiment") -> Dataset:
    """The experiment's data set, with what its task learns."""
    return with_targets(DATASETS[experiment.data.dataset].open(experiment.data), experiment.task)


def dealt(experiment: "Experiment", dataset: Dataset, partition: Partition) -> Federated:
    """The data set dealt out, each image read through the experiment's filters."""
    return Federated(dataset, partition, filtered=filters(experiment.data.transforms, dataset.shape, "data.transforms"))


def open_federated(experiment: "Experiment", partition_file: Path | None = None) -> Federated:
    """The experiment's data.  The partition is read from `partition_file` or partition.load, else drawn."""
    if experiment.data.statistics is not None:
        raise ConfigError("data.statistics names a file, and its mean and std are not read yet: fedvision.experiment.rooted puts them in")
    dataset = open_dataset(experiment)
    saved = partition_file or experiment.partition.load
    if saved is None:
        return dealt(experiment, dataset, draw(dataset, experiment))
    partition = Partition.load(Path(saved), dataset.fingerprint())
    sites = experiment.partition.sites
    if sites is not None and sites != len(partition.sites):
        raise ConfigError(f"partition.sites = {sites}, and the partition {saved} has {len(partition.sites)} sites: give the same number")
    if experiment.evaluation.server is not None and not (partition.site_of == SERVER).any():
        raise ConfigError(f"evaluation.server is set, and the partition {saved} keeps no data for the server: set it to null, or draw anew")
    return dealt(experiment, dataset, partition)
