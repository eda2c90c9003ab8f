"""Several seeds of one config: their mean, and how far they lie apart."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from fedvision.tracking.figures import Series, flat, mean, number
from fedvision.tracking.page import Run, Table
from fedvision.tracking.plots import Curve

NOT_OF_THE_CONFIG = ("name", "seed", "tracking.", "engine.")  # what runs may differ in and still be seeds of one config


def spread(values: Sequence[float]) -> float:
    """The standard deviation of a sample, with n − 1; 0.0 of one value.

    >>> spread([1.0, 3.0]), spread([2.0])
    (1.4142135623730951, 0.0)
    """
    middle = mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1)) if len(values) > 1 else 0.0


def over(values: Sequence[float]) -> str:
    """Mean and spread as text.

    >>> over([0.9, 0.92, 0.94]), over([0.9])
    ('0.920 ± 0.02', '0.900')
    """
    return f"{number(mean(values))} ± {spread(values):.2g}" if len(values) > 1 else number(values[0])


def seeds_of(runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """The runs that are seeds of one config: what they are called together -> their names, those alone left out."""
    groups: dict[str, list[str]] = {}
    for name, run in runs.items():
        groups.setdefault(_config_of(run), []).append(name)
    several = [names for names in groups.values() if len({runs[name].get("seed") for name in names}) > 1]
    called = [_called(names, runs[names[0]]) for names in several]
    return {f"{title}, {len(names)} seeds ± sd": names for title, names in zip(_distinct(called), several, strict=True)}


def mean_curve(name: str, curves: Iterable[Series], colour: int, dashed: bool = False) -> Curve:
    """The mean of several curves at the rounds that all of them have, with a band of one standard deviation on each side; its `name`
    is to say so."""
    by_round = [dict(points) for points in curves]
    shared = sorted(set.intersection(*(set(points) for points in by_round))) if by_round else []
    values = {at: [points[at] for points in by_round] for at in shared}
    middle = [(at, mean(values[at])) for at in shared]
    band = [(at, m - spread(values[at]), m + spread(values[at])) for at, m in middle]
    return Curve(name, middle, colour, dashed, band)


def seeds_table(groups: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    """A row a config, and for each of its figures mean ± spread over the seeds; groups: config -> the figures of each seed."""
    names = list(dict.fromkeys(name for seeds in groups.values() for figures in seeds for name in figures))
    body = []
    for group, seeds in groups.items():
        known = [[figures[name] for figures in seeds if name in figures] for name in names]
        body.append([group, str(len(seeds)), *(over(values) if values else "–" for values in known)])
    return Table(["config", "seeds", *names], body)


def _config_of(run: Run) -> str:
    kept = {key: value for key, value in flat(run.config).items() if not key.startswith(NOT_OF_THE_CONFIG)}
    return json.dumps([run.kind, kept], sort_keys=True, default=str)


def _called(names: Sequence[str], run: Run) -> str:
    """What the names of the runs have in common, less what counts them; else the config's name."""
    common = re.sub(r"([-_./ ]*(seed|s)?[-_./ =]*\d*)$", "", _beginning(names))
    return common.strip("-_./ ") or run.name


def _beginning(names: Sequence[str]) -> str:
    """The characters that all names begin with."""
    same = 0
    while all(len(name) > same and name[same] == names[0][same] for name in names):
        same += 1
    return names[0][:same]


def _distinct(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} #{names[: index + 1].count(name)}" for index, name in enumerate(names)]
