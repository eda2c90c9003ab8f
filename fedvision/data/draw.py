"""Drawing a partition: the server's own data first, then who holds what, then each site's train, validation and test.

Whole subjects are dealt wherever subjects are known, so that nobody is both trained on and tested on; what cannot be
kept so (a site that is one subject, a subject at two natural sites) is written into the partition's notes.
"""

import difflib
import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from fedvision.data.camera import drawn
from fedvision.data.dataset import Dataset, in_natural_order
from fedvision.data.partition import NOBODY, SERVER, TEST, TRAIN, VALIDATION, Partition
from fedvision.data.schemes import PARTITIONS, Units, repaired, units_of
from fedvision.errors import ConfigError, DataError
from fedvision.seeds import stream

if TYPE_CHECKING:
    from fedvision.experiment import Experiment


def draw(dataset: Dataset, experiment: "Experiment") -> Partition:
    """The partition of `dataset` that the experiment's seed draws."""
    _check(dataset, experiment)
    notes: list[str] = []
    who = _subject_codes(dataset)
    part_of = np.full(len(dataset), TRAIN, np.int8)
    site_of = np.full(len(dataset), NOBODY, np.int32)
    held_out = _for_the_server(who, experiment)
    site_of[held_out >= 0], part_of[held_out >= 0] = SERVER, held_out[held_out >= 0]
    left = np.flatnonzero(site_of == NOBODY)
    site_of[left], names = _dealt(dataset, left, who, experiment, notes)
    part_of[left] = _parts(site_of[left], who[left], len(names), dataset.subjects is not None, experiment, notes)
    limits = experiment.partition.camera
    cameras = None if limits is None else np.stack([drawn(limits, name, experiment.seed) for name in names])
    return Partition(site_of, part_of, names, dataset.fingerprint(), experiment.seed, cameras, tuple(notes))


def _check(dataset: Dataset, experiment: "Experiment") -> None:
    section = experiment.partition
    if section.scheme != "natural":
        return
    if section.column not in dataset.columns:
        known = list(dataset.columns)
        close = difflib.get_close_matches(section.column, known, 1, 0.4)
        have = f"its columns are {', '.join(known)}" if known else "it has no columns; use iid, dirichlet or shards"
        near = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"partition.column = {section.column!r}: data set {dataset.name} has no such column{near}; {have}")
    if section.sites is None and section.sizes != "equal":
        raise ConfigError(
            f"partition.sizes = {section.sizes} and partition.sites = null exclude each other: natural sites have the "
            "sizes that they have; set sizes to equal, or sites to a number"
        )


def _subject_codes(dataset: Dataset) -> np.ndarray:
    """int64 [N]: whom each image shows, from 0; without subjects each image is its own."""
    if dataset.subjects is None:
        return np.arange(len(dataset))
    return np.unique(dataset.subjects, return_inverse=True)[1].astype(np.int64)


def _for_the_server(who: np.ndarray, experiment: "Experiment") -> np.ndarray:
    """int8 [N]: VALIDATION or TEST for what is the server's own, by whole subjects; -1 for the rest."""
    shares = experiment.evaluation.server
    if shares is None:
        return np.full(len(who), -1, np.int8)
    count = int(who.max()) + 1
    wanted = {part: _share(share, count) for part, share in ((TEST, shares.test), (VALIDATION, shares.validation))}
    if sum(wanted.values()) >= count:
        raise ConfigError(
            f"evaluation.server: validation = {shares.validation:g} and test = {shares.test:g} of {count} subjects "
            "leave nobody for the sites: lower them, or set evaluation.server to null"
        )
    order = stream(experiment.seed, "partition", "server").permutation(count)
    part = np.full(count, -1, np.int8)
    part[order[: wanted[TEST]]] = TEST
    part[order[wanted[TEST] : wanted[TEST] + wanted[VALIDATION]]] = VALIDATION
    return part[who]


def _share(share: float, count: int) -> int:
    """`share` of `count`, at least 1 where the share is not 0."""
    return max(1, round(share * count)) if share > 0 else 0


def _dealt(
    dataset: Dataset, left: np.ndarray, who: np.ndarray, experiment: "Experiment", notes: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The site of each image of `left`, and the sites' names."""
    section, seed = experiment.partition, experiment.seed
    unit = "subjects" if dataset.subjects is not None else "images"
    group, values = who[left], [""]
    if section.scheme == "natural":
        unit = f"values of {section.column}"
        values, group = _values(dataset, left, section.column)
        _say_where_subjects_are_split(who[left], group, section.column, notes)
        _say_what_is_held_out_whole(dataset, left, section.column, notes)
    group = np.unique(group, return_inverse=True)[1]
    units = units_of(group, dataset.labels[left], len(dataset.classes), unit)
    count = section.sites or len(units)
    weights = np.ones(count)
    if section.sizes == "lognormal":
        weights = np.exp(section.sizes_sigma * stream(seed, "partition", "sizes").standard_normal(count))
    if count > len(units):
        raise _more_sites_than_units(count, units, dataset, section.scheme)
    site = PARTITIONS[section.scheme].deal(units, weights, section, stream(seed, "partition", section.scheme))
    if section.scheme == "natural" and section.sites is None:
        _refuse_small_sites(units, section.column, values, section.min_examples)
        return site[group], tuple(_site_name(value) for value in values)
    rng = stream(seed, "partition", "repair")
    site, short = repaired(site, units, count, section.min_examples, rng)
    if short:
        notes.append(
            f"{short} of {count} sites came out with fewer than partition.min_examples = {section.min_examples} images "
            f"and were given {units.name} of the largest sites"
        )
    digits = max(3, len(str(count - 1)))
    return site[group], tuple(f"site-{number:0{digits}}" for number in range(count))


def _values(dataset: Dataset, left: np.ndarray, column: str) -> tuple[list[str], np.ndarray]:
    """The column's values in natural order, and the number of each image's value."""
    found, code = np.unique(dataset.columns[column][left], return_inverse=True)
    if "" in found:
        raise DataError(f"column {column} is empty for {int((code == 0).sum())} images: each image needs a value to be at a site")
    values = in_natural_order(set(found.tolist()))
    place = {value: number for number, value in enumerate(values)}
    return values, np.array([place[value] for value in found.tolist()])[code]


def _more_sites_than_units(count: int, units: Units, dataset: Dataset, scheme: str) -> ConfigError:
    why = "" if scheme == "natural" or dataset.subjects is None else ", and a subject is never at two sites"
    return ConfigError(f"partition.sites = {count}: {len(units)} {units.name} are left for the sites{why}; use at most {len(units)} sites")


def _refuse_small_sites(units: Units, column: str, values: list[str], least: int) -> None:
    small = np.flatnonzero(units.images < least)
    if len(small):
        first = f"{column} {values[small[0]]!r} has {int(units.images[small[0]])} image(s)"
        raise ConfigError(
            f"{first}, fewer than partition.min_examples = {least} ({len(small)} of {len(values)} sites are so small): "
            "lower min_examples, leave them out of the data, or set partition.sites to deal them to fewer sites"
        )


def _site_name(value: str) -> str:
    """A name that is safe as a file's name: the value itself where it is one, else made so, with a part of its hash.

    >>> _site_name("module-07"), _site_name("Ward 3/B")
    ('module-07', 'Ward-3-B-f9bd6d')
    """
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-.")[:56]
    if safe == value:
        return value
    return f"{safe or 'site'}-{hashlib.sha256(value.encode()).hexdigest()[:6]}"


def _say_where_subjects_are_split(who: np.ndarray, site: np.ndarray, column: str, notes: list[str]) -> None:
    pairs = np.unique(np.stack([who, site]), axis=1)
    split, all_of_them = int((np.bincount(pairs[0]) > 1).sum()), len(set(who.tolist()))
    if split:
        notes.append(f"{split} of {all_of_them} subjects are at more than one site, because the column {column} says so")


def _say_what_is_held_out_whole(dataset: Dataset, left: np.ndarray, column: str, notes: list[str]) -> None:
    gone = set(dataset.columns[column].tolist()) - set(dataset.columns[column][left].tolist())
    if gone:
        named = ", ".join(in_natural_order(gone)[:12]) + (", ..." if len(gone) > 12 else "")
        notes.append(f"{len(gone)} values of the column {column} are held out whole, as the server's own data: {named}")


def _parts(site: np.ndarray, who: np.ndarray, sites: int, subjects: bool, experiment: "Experiment", notes: list[str]) -> np.ndarray:
    """int8 [n]: train, validation or test of each image, by subject inside its site where there are enough of them."""
    data = experiment.data
    asked = 1 + (data.validation > 0) + (data.test > 0)
    pair = np.unique(site.astype(np.int64) * (int(who.max()) + 1) + who, return_inverse=True)[1]
    home = np.empty(int(pair.max()) + 1, np.int64)
    home[pair] = site
    by_image = subjects & (np.bincount(home, minlength=sites) < asked) & (np.bincount(site, minlength=sites) > 1)
    if asked > 1 and by_image.any():
        which = "every site is" if by_image.all() else f"{int(by_image.sum())} of {sites} sites are"
        notes.append(
            f"inside a site, images are split by image where it has fewer than {asked} subjects: {which} split so, "
            "and a subject there is both trained on and tested on; only the server's own data shows how the model does "
            "on new subjects"
        )
    alone = np.where(by_image[site], len(home) + np.arange(len(site)), pair)
    unit = np.unique(alone, return_inverse=True)[1]
    home = np.empty(int(unit.max()) + 1, np.int64)
    home[unit] = site
    return _parts_of_units(home, sites, data.validation, data.test, experiment.seed)[unit]


def _parts_of_units(home: np.ndarray, sites: int, validation: float, test: float, seed: int) -> np.ndarray:
    """int8 [U]: at random inside each site; one unit at least trains, then one tests, then one validates."""
    held = np.bincount(home, minlength=sites)
    tests = np.minimum(np.maximum(np.rint(test * held), test > 0), held - 1).astype(np.int64)
    validations = np.minimum(np.maximum(np.rint(validation * held), validation > 0), held - 1 - tests).astype(np.int64)
    order = np.lexsort((stream(seed, "partition", "parts").random(len(home)), home))
    rank = np.empty(len(home), np.int64)
    rank[order] = np.arange(len(home)) - np.repeat(np.cumsum(held) - held, held)
    after = rank - tests[home]
    return np.where(after < 0, TEST, np.where(after < validations[home], VALIDATION, TRAIN)).astype(np.int8)
