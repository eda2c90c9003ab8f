"""How the examples are dealt to the sites: IID, Dirichlet label skew, shards, and as they are in the world.

What is dealt is a unit: a subject where subjects are known (nobody is at two sites), else an image.  A subject with
images of several labels counts under the label that it is richest in, in proportion to how common the label is.

    Hsu, Qi, Brown. Measuring the effects of non-identical data distribution for federated visual classification. 2019.
    McMahan, Moore, Ramage, Hampson, Agüera y Arcas. Communication-efficient learning of deep networks from
    decentralized data. AISTATS 2017, section 3.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedvision.brought import make
from fedvision.errors import ConfigError


@dataclass(frozen=True)
class Units:
    """What is dealt.  images: int64 [U], how many images each unit has.  label: int64 [U], what it counts under.
    name: what they are called, in the plural."""

    images: np.ndarray
    label: np.ndarray
    name: str = "images"

    def __len__(self) -> int:
        return len(self.images)


def units_of(group: np.ndarray, labels: np.ndarray, classes: int, name: str) -> Units:
    """The units of images that are in group 0..U-1 and carry `labels`."""
    count = int(group.max(initial=-1)) + 1
    images = np.bincount(group, minlength=count)
    if count == len(group):  # each image is a unit of its own
        return Units(images, labels[np.argsort(group)], name)
    held = np.bincount(group * classes + labels, minlength=count * classes).reshape(count, classes)
    common = np.maximum(np.bincount(labels, minlength=classes), 1)
    return Units(images, (held / common).argmax(1), name)


def cut(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Deal units that lie in a row, `images` in each, to consecutive sites, so that site s gets weights[s] of them.

    >>> cut(np.ones(6, int), np.array([1.0, 2.0]))
    array([0, 0, 1, 1, 1, 1])
    """
    edges = np.cumsum(weights) / weights.sum() * images.sum()
    middles = np.cumsum(images) - images / 2
    return np.searchsorted(edges[:-1], middles, side="right")


def iid(units: Units, weights: np.ndarray, section: Any, rng: np.random.Generator) -> np.ndarray:
    """Shuffle, and cut by the sites' weights."""
    order = rng.permutation(len(units))
    return _put_back(order, cut(units.images[order], weights))


def dirichlet(units: Units, weights: np.ndarray, section: Any, rng: np.random.Generator) -> np.ndarray:
    """Each class k is cut by q_k ~ Dirichlet(α, ..., α) over the sites, times the sites' weights."""
    site = np.empty(len(units), np.int64)
    for k in range(int(units.label.max(initial=-1)) + 1):
        q = rng.dirichlet(np.full(len(weights), section.alpha)) * weights
        members = rng.permutation(np.flatnonzero(units.label == k))
        site[members] = cut(units.images[members], q if q.sum() > 0 else weights)
    return site


def shards(units: Units, weights: np.ndarray, section: Any, rng: np.random.Generator) -> np.ndarray:
    """Sort by label, cut into sites × shards_per_site shards, and deal them at random, the same number to each."""
    wanted = len(weights) * section.shards_per_site
    if wanted > len(units):
        raise ConfigError(
            f"partition.sites = {len(weights)} × partition.shards_per_site = {section.shards_per_site} makes {wanted} "
            f"shards, and there are {len(units)} {units.name} to deal: lower one of the two"
        )
    order = rng.permutation(len(units))
    order = order[np.argsort(units.label[order], kind="stable")]
    owner = rng.permutation(np.repeat(np.arange(len(weights)), section.shards_per_site))
    return _put_back(order, owner[cut(units.images[order], weights[owner])])


def natural(units: Units, weights: np.ndarray, section: Any, rng: np.random.Generator) -> np.ndarray:
    """Each unit (a value of the column) is a site; or, with partition.sites, the units are dealt like iid."""
    return np.arange(len(units)) if section.sites is None else iid(units, weights, section, rng)


def brought(units: Units, weights: np.ndarray, section: Any, rng: np.random.Generator) -> np.ndarray:
    """What partition.source deals: NAME(units, weights, rng, **partition.options) -> int [U], each from 0 to sites − 1."""
    site = np.asarray(make(section.source, "partition.source", "partitions", units, weights, rng, **section.options))
    if site.shape != (len(units),) or not np.issubdtype(site.dtype, np.integer):
        raise ConfigError(
            f"partition.source = {section.source!r} returned {site.dtype} {list(site.shape)}; it must return the number of a site for each of "
            f"the {len(units)} {units.name}"
        )
    if site.min() < 0 or site.max() >= len(weights):
        raise ConfigError(
            f"partition.source = {section.source!r} returned sites {site.min()} to {site.max()}; partition.sites = {len(weights)}"
        )
    return site.astype(np.int64)


def _put_back(order: np.ndarray, dealt: np.ndarray) -> np.ndarray:
    site = np.empty(len(order), np.int64)
    site[order] = dealt
    return site


@dataclass(frozen=True)
class Scheme:
    """A way to deal: (units, weight of each site, config section, generator) -> int64 [U], the site of each unit."""

    deal: Callable[[Units, np.ndarray, Any, np.random.Generator], np.ndarray]
    description: str


PARTITIONS: dict[str, Scheme] = {
    "iid": Scheme(iid, "each site draws at random from all"),
    "dirichlet": Scheme(dirichlet, "label skew: each class is shared out by Dirichlet(alpha) weights (Hsu 2019)"),
    "shards": Scheme(shards, "label skew: sorted by label, some shards a site (McMahan 2017)"),
    "natural": Scheme(natural, "sites as they are in the world: one per value of a column, or dealt to fewer"),
    "brought": Scheme(brought, "your own code: partition.source = FILE.py:NAME, PACKAGE.MODULE:NAME or an entry point"),
}


def repaired(site: np.ndarray, units: Units, sites: int, least: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """`site` with units moved, at random, from whichever site is largest to those with fewer than `least` images.

    Returns it with the number of sites that came out short; ConfigError where no move is left.
    """
    if units.images.sum() < sites * least or len(units) < sites:
        raise _too_few(units, sites, least)
    held = np.bincount(site, units.images, sites).astype(np.int64)
    short = np.flatnonzero(held < least)
    if not len(short):
        return site, 0
    site = site.copy()
    order = rng.permutation(len(units))
    order = order[np.argsort(site[order], kind="stable")]
    first = np.searchsorted(site[order], np.arange(sites + 1))
    donors = [(-int(n), int(s)) for s, n in enumerate(held) if n > least]
    heapq.heapify(donors)
    spare: dict[int, list[int]] = {}
    for poor in short:
        while held[poor] < least:
            if not donors:
                raise _too_few(units, sites, least)
            rich = heapq.heappop(donors)[1]
            mine = spare.setdefault(rich, order[first[rich] : first[rich + 1]].tolist())
            given = next((u for u in reversed(mine) if held[rich] - units.images[u] >= least), None)
            if given is None:
                continue  # every unit that this site holds is needed there: it gives nothing more
            mine.remove(given)
            site[given] = poor
            held[rich] -= units.images[given]
            held[poor] += units.images[given]
            heapq.heappush(donors, (-int(held[rich]), rich))
    return site, len(short)


def _too_few(units: Units, sites: int, least: int) -> ConfigError:
    total = int(units.images.sum())
    of = f" of {len(units)} {units.name}" if units.name != "images" else ""
    most = max(1, min(len(units), total // least))
    return ConfigError(
        f"partition.sites = {sites} with partition.min_examples = {least}: the {total} images{of} that are left for "
        f"the sites cannot be dealt so; use at most {most} sites (fewer where {units.name} are large), "
        "or lower min_examples"
    )
