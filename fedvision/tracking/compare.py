"""Runs side by side: one table for the terminal, one page of overlaid curves, bars and differences."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from fedvision.errors import FedvisionError, RunFolderError
from fedvision.tracking import plots
from fedvision.tracking.environment import differences
from fedvision.tracking.figures import (
    Series,
    by_site,
    duration,
    flat,
    headline,
    mean,
    measured,
    number,
    series,
    worst_and_best,
)
from fedvision.tracking.page import Plot, Run, Section, Table, write_page
from fedvision.tracking.plots import Curve
from fedvision.tracking.seeds import mean_curve, seeds_of, seeds_table

NOT_OF_THE_RUN = ("name", "tracking.")  # keys of a config that move no figure


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    table: a row a run, to print with rich.  page: where the same stands with plots.
    config: the keys in which the configs differ, with each run's value.  warnings: what to know before comparing.
    same: which runs ended at the same bytes.
    metrics: {run: {metric: value}}, of the final models.
    seeds: {config: {place: "mean ± spread"}} of the main metric, where several seeds of one config are given.
    """

    table: RichTable
    page: Path
    config: dict[str, list[Any]]
    warnings: list[str]
    same: list[str]
    metrics: dict[str, dict[str, float]]
    seeds: dict[str, dict[str, str]]

    def __rich__(self) -> RenderableType:
        lines: list[RenderableType] = [self.table, *map(Text, self.same)]
        lines += [Text(f"{group}: {', '.join(f'{place} {said}' for place, said in row.items())}") for group, row in self.seeds.items()]
        lines += [Text(f"differs: {key} = {' | '.join(map(_shown, values))}") for key, values in self.config.items()]
        lines += [Text(f"warning: {warning}", style="yellow") for warning in self.warnings]
        return Group(*lines, Text(f"page: {self.page}"))


def compare(runs: Sequence[Path], out: Path | None = None) -> Comparison:
    """Compare two or more run folders and write the page, `out` or compare.html in the folder that they share.

    FedvisionError where there are fewer than two, RunFolderError where one is no run folder.
    """
    if len(runs) < 2:
        raise FedvisionError(f"a comparison needs at least 2 runs, and {len(runs)} was given: fedvision compare RUN RUN ...")
    read = [Run.read(Path(run)) for run in runs]
    named = dict(zip(_names(read), read, strict=True))
    page = Path(out) if out is not None else Path(os.path.commonpath([run.path.resolve().parent for run in read])) / "compare.html"
    if not page.parent.is_dir():
        raise RunFolderError(f"{page} cannot be written: there is no folder {page.parent}; make it, or give another --out")
    config, warnings, metrics = _config(read), _warnings(named), {name: _figures(run) for name, run in named.items()}
    rows = _rows(named)
    write_page(
        page,
        "compare.html",
        names=list(named),
        title=f"{len(read)} runs compared",
        verdict=_verdict(named),
        warnings=warnings,
        sections=_sections(named, metrics, config, rows),
    )
    groups = seeds_of(named)
    table = _over_seeds(named, groups) if groups else Table([], [])
    seeds = {row[0]: dict(zip(table.head[2:], row[2:], strict=True)) for row in table.body}
    return Comparison(_rich_table(named), page, config, warnings, _same_bytes(named), metrics, seeds)


def _names(runs: Sequence[Run]) -> list[str]:
    """What tells the runs apart: the folders' names, else as much of the paths as it takes."""
    paths = [run.path.resolve() for run in runs]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise RunFolderError(f"{runs[0].path} is given twice; compare it with another run")


# ------------------------------------------------------------------------------------------------------- the figures


def _main(runs: Mapping[str, Run]) -> str:
    """The metric that the runs are compared by: the first run's main one."""
    first = next(iter(runs.values()))
    return first.metrics[0] if first.metrics else first.best


def _figures(run: Run) -> dict[str, float]:
    """The final metrics of a run, by name, and the mean and worst of its sites as "accuracy, worst site"."""
    figures = {name: value for name, value in (run.summary.get("metrics") or {}).items() if isinstance(value, int | float)}
    for metric in run.metrics:
        values = list(by_site(run.sites, metric).values())
        if values:
            figures |= {
                f"{metric}, mean of sites": mean(values),
                f"{metric}, worst site": worst_and_best(values, metric)[0],
            }
    return figures


_PLACES = {"server test": "server test", "sites' test": "sites pooled"}


def _of_metric(run: Run, metric: str) -> dict[str, float]:
    """One metric of a run, by where it was measured."""
    found: dict[str, float] = {}
    for where, part, place in (("server", "test", "server test"), ("sites", "pooled", "sites pooled")):
        value = measured(run.last_evaluation, where, part).get(metric)
        if value is not None:
            found[place] = value
    values = list(by_site(run.sites, metric).values())
    if values:
        found |= {"mean of sites": mean(values), "worst site": worst_and_best(values, metric)[0]}
    overall = (run.summary.get("metrics") or {}).get(metric)
    if run.kind == "local" and overall is not None:
        found = {_PLACES.get(str(run.summary.get("confusion_of")), "final"): overall, **found}
    return found or ({"final": overall} if overall is not None else {})


def _curve(run: Run, metric: str) -> Series:
    """The curve of a run that is laid over the others': the server's test, else the sites' mean, else pooled."""
    places = (("server", "test"), ("sites", "mean"), ("sites", "pooled"), ("server", "validation"))
    return next((points for where, part in places if (points := series(run.records, where, part, metric))), [])


def _rows(runs: Mapping[str, Run]) -> Table:
    metric = _main(runs)
    places = list(dict.fromkeys(place for run in runs.values() for place in _of_metric(run, metric)))
    head = ["run", "kind", "status", "rounds", *places, "time", "model"]
    body = []
    for name, run in runs.items():
        found = _of_metric(run, metric)
        sha = run.summary.get("model_sha256")
        rounds = "–" if run.kind == "local" else f"{len(run.records):,}"
        body.append(
            [
                name,
                run.kind,
                run.status,
                rounds,
                *(number(found.get(place)) for place in places),
                duration(run.summary.get("seconds")),
                sha[:8] if sha else "–",
            ]
        )
    return Table(head, body)


def _rich_table(runs: Mapping[str, Run]) -> RichTable:
    """The figures of the main metric in 80 columns: short heads, and only the run's name is ever folded."""
    metric = _main(runs)
    short = {"server test": "test", "sites pooled": "pooled", "mean of sites": "mean", "worst site": "worst"}
    found = {name: _of_metric(run, metric) for name, run in runs.items()}
    places = list(dict.fromkeys(place for figures in found.values() for place in figures))
    table = RichTable(
        title=Text(metric.replace("_", " ")),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 1),
    )
    table.add_column("run", overflow="fold", min_width=12)
    table.add_column("kind", no_wrap=True)
    for head in ("rounds", *(short.get(place, place) for place in places), "time"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, run in runs.items():
        kind = run.kind if run.status == "completed" else f"{run.kind} ({run.status})"
        rounds = "–" if run.kind == "local" else f"{len(run.records):,}"
        figures = [number(found[name].get(place)) for place in places]
        table.add_row(
            *map(Text, [name, kind, rounds, *figures, duration(run.summary.get("seconds"))])
        )  # Text: a run called [red] is no markup
    return table


def _over_seeds(runs: Mapping[str, Run], groups: Mapping[str, list[str]]) -> Table:
    metric = _main(runs)
    return seeds_table({group: [_of_metric(runs[name], metric) for name in members] for group, members in groups.items()})


def _verdict(runs: Mapping[str, Run]) -> str:
    metric = _main(runs)
    finals = {}
    for name, run in runs.items():
        of, value, place = headline(run.last_evaluation, metric)
        found = _of_metric(run, metric)
        if of == metric and value is not None:
            finals[name] = (value, place)
        elif found:
            place, value = next(iter(found.items()))
            finals[name] = (value, place)
    if not finals:
        return "None of these runs was evaluated."
    _, best = worst_and_best([value for value, _ in finals.values()], metric)
    order = sorted(finals.items(), key=lambda item: abs(item[1][0] - best))
    return (
        f"{metric.replace('_', ' ').capitalize()}: "
        + ", ".join(f"{name} {number(value)} ({place})" for name, (value, place) in order)
        + "."
    )


# --------------------------------------------------------------------------------------------------- the differences


def _config(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The keys in which the configs differ, with each run's value; a key that a run does not have is None there."""
    flats = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for values in flats for key in values if not key.startswith(NOT_OF_THE_RUN[1]) and key != NOT_OF_THE_RUN[0])
    rows = {key: [values.get(key) for values in flats] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _warnings(runs: Mapping[str, Run]) -> list[str]:
    warnings = [
        f"{name} is {run.status}, not completed: its figures are not final." for name, run in runs.items() if run.status != "completed"
    ]
    drawn = False
    for (one, a), (other, b) in combinations(runs.items(), 2):
        different = differences(a.environment, b.environment)
        if different:
            warnings.append(f"{one} and {other} ran in different environments, so that their bytes need not agree: {'; '.join(different)}.")
        if a.summary.get("classes") and b.summary.get("classes") and a.summary["classes"] != b.summary["classes"]:
            warnings.append(f"{one} and {other} tell different classes apart: their figures do not compare.")
        elif (said := _data_changed(one, a, other, b)) is not None:
            warnings.append(said)
        elif a.partition and b.partition and _held(a) != _held(b):
            if a.get("seed") == b.get("seed"):
                warnings.append(f"In {one} and {other}, the sites hold different data.")
            else:
                drawn = True
    return [*warnings, "Runs of different seeds hold different data at their sites."] if drawn else warnings


def _data_changed(one: str, a: Run, other: str, b: Run) -> str | None:
    """That the same data set was not the same images, labels or subjects; None where it was, or where the configs name others."""
    was, now = a.partition.get("fingerprint"), b.partition.get("fingerprint")
    if was is None or now is None or was == now or a.get("data") != b.get("data"):
        return None
    return f"The data set {a.get('data.dataset')} changed between {one} and {other}: its SHA-256 was {was[:12]}… and {now[:12]}…."


def _held(run: Run) -> Any:
    return run.partition.get("sites"), run.partition.get("server")


def _same_bytes(runs: Mapping[str, Run]) -> list[str]:
    """Which runs ended at the same model, bit for bit."""
    by_sha: dict[str, list[str]] = {}
    for name, run in runs.items():
        if run.summary.get("model_sha256"):
            by_sha.setdefault(run.summary["model_sha256"], []).append(name)
    return [f"{' and '.join(names)} ended at the same model, byte for byte." for names in by_sha.values() if len(names) > 1]


# ---------------------------------------------------------------------------------------------------------- the page


def _sections(
    runs: Mapping[str, Run], metrics: Mapping[str, Mapping[str, float]], config: Mapping[str, list[Any]], rows: Table
) -> list[Section]:
    every = dict.fromkeys(metric for run in runs.values() for metric in run.metrics)
    names = sorted(every, key=lambda metric: metric != _main(runs))
    groups = seeds_of(runs)
    notes = [f"The table is of {names[0].replace('_', ' ')}."] if names else []
    made = [Section("table", "At the end", notes + _same_bytes(runs), _bars(runs, names, groups), [rows, _all_figures(metrics)])]
    colours = {name: index % plots.COLOURS for index, name in enumerate(runs)}
    if groups:
        made[0].notes.append("Where several seeds of one config are given, their mean ± standard deviation stands first.")
        made[0].tables.insert(0, _over_seeds(runs, groups))
    overlaid = [plot for metric in names for plot in _overlay(runs, metric, colours, groups)]
    if overlaid:
        made.append(Section("curves", "How they learned", ["A run without rounds (each site alone) is a level line."], overlaid))
    spreads = [
        Plot(metric.replace("_", " "), plots.spread(sites, metric, colours)) for metric in names if (sites := _site_values(runs, metric))
    ]
    if spreads:
        made.append(
            Section(
                "sites",
                "Site by site",
                ["A dot a site, on its own test data; the upright line and the number are the mean."],
                spreads,
            )
        )
    head = ["key", *runs]
    body = [[key, *map(_shown, values)] for key, values in config.items()]
    note = "Keys with different values; all others are the same." if body else "The configs are the same."
    made.append(Section("config", "What differs", [note], [], [Table(head, body, numbers=False)] if body else []))
    return made


def _bars(runs: Mapping[str, Run], names: Sequence[str], groups: Mapping[str, list[str]]) -> list[Plot]:
    drawn = []
    for metric in names:
        bars = {}
        for title, members in _shown_as(runs, groups).items():
            found = [figures for name in members if (figures := _of_metric(runs[name], metric))]
            if found:
                bars[title] = {place: mean(figures[place] for figures in found if place in figures) for place in found[0]}
        if bars:
            drawn.append(Plot(metric.replace("_", " "), plots.bars(bars, metric)))
    return drawn[:4]


def _shown_as(runs: Mapping[str, Run], groups: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What is shown as one -> the names of its runs, in the order in which the runs were given: seeds of a config together."""
    every = {name: [name] for name in runs if not any(name in members for members in groups.values())} | dict(groups)
    order = list(runs)
    return dict(sorted(every.items(), key=lambda item: order.index(item[1][0])))


def _overlay(runs: Mapping[str, Run], metric: str, colours: Mapping[str, int], groups: Mapping[str, list[str]]) -> list[Plot]:
    """The runs' curves of a metric on one pair of axes, seeds of one config as their mean and spread; [] where there is none."""
    drawn = []
    for index, (title, members) in enumerate(_shown_as(runs, groups).items()):
        curves = [points for name in members if (points := _curve(runs[name], metric))]
        colour, dashed = (index % plots.COLOURS if groups else colours[members[0]]), index >= plots.COLOURS
        if len(curves) > 1:
            drawn.append(mean_curve(title, curves, colour, dashed))
        elif curves:
            drawn.append(Curve(title, curves[0], colour, dashed))
    levels = {name: next(iter(found.values())) for name, run in runs.items() if not run.records and (found := _of_metric(run, metric))}
    return [Plot(metric.replace("_", " "), plots.curves(drawn, metric, levels, "round (pooled: epoch)", colours))] if drawn else []


def _site_values(runs: Mapping[str, Run], metric: str) -> dict[str, dict[str, float]]:
    return {name: values for name, run in runs.items() if (values := by_site(run.sites, metric))}


def _all_figures(metrics: Mapping[str, Mapping[str, float]]) -> Table:
    names = dict.fromkeys(name for figures in metrics.values() for name in figures)
    return Table(
        ["figure", *metrics],
        [[name, *(number(figures.get(name)) for figures in metrics.values())] for name in names],
        folded="All final figures",
    )


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)
