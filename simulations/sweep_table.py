"""What the runs of a sweep came to: a row a run, a row a point with mean and spread over its seeds, and a plot."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvision.brought import references
from fedvision.evaluation import flat
from fedvision.tracking.figures import lower_is_better
from fedvision.tracking.folder import RunFolder, write_atomically
from simulations.sweep import Run, Sweep, said
from simulations.sweep_runs import status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CURVES = 10  # points whose curves are drawn: more cannot be told apart


@dataclass(frozen=True)
class Outcome:
    """How one run ended.  metrics: of its final model; curve: (round, the sweep's metric).

    versions: SHA-256 of its data set and of each file that it brought, by what the config calls them.
    """

    run: Run
    status: str
    error: str | None
    metrics: Mapping[str, float]
    curve: Sequence[tuple[int, float]]
    seconds: float | None
    model_sha256: str | None
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of a point.  std: the sample standard deviation (n − 1), None of a single run."""

    n: int
    mean: float
    std: float | None
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one or more values."""
        return cls(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, min(values), max(values))

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.std:.4f}" if self.std is not None else "")


def outcomes(sweep: Sweep) -> list[Outcome]:
    """Every run of the plan, as its folder has it."""
    return [outcome_of(run, sweep.folder(run), sweep.plan.metric) for run in sweep.plan.runs]


def outcome_of(run: Run, path: Path, metric: str) -> Outcome:
    """What a run of the sweep came to, from its folder."""
    stands = status(path)
    if stands == "absent":
        return Outcome(run, stands, None, {}, [], None, None, {})
    folder = RunFolder.open(path)
    summary, curve = folder.summary(), []
    for record in folder.rounds():
        value = flat(record.get("evaluation")).get(metric)
        if value is not None:
            curve.append((int(record["round"]) + 1, value))
    metrics = {name: value for name, value in summary.get("metrics", {}).items() if value is not None}
    seconds, model = summary.get("seconds"), summary.get("model_sha256")
    return Outcome(run, stands, summary.get("error"), metrics, curve, seconds, model, _versions(folder))


def _versions(folder: RunFolder) -> dict[str, str]:
    experiment = folder.experiment()
    recorded = folder.environment().get("brought") or {}
    found = {reference: recorded[key] for key, reference, _ in references(experiment) if key in recorded}
    if (fingerprint := folder.partition().get("fingerprint")) is not None:
        found[f"data set {experiment.data.model_dump_json()}"] = fingerprint
    return found


def points(found: Sequence[Outcome]) -> list[tuple[Mapping[str, str], dict[str, Spread]]]:
    """Each point of the grid in its order, with every metric's spread over the runs of it that were completed."""
    result = []
    for name in dict.fromkeys(outcome.run.point for outcome in found):
        mine = [outcome for outcome in found if outcome.run.point == name]
        done = [outcome.metrics for outcome in mine if outcome.status == "completed"]
        metrics = {metric: Spread.of([m[metric] for m in done if metric in m]) for metric in dict.fromkeys(k for m in done for k in m)}
        result.append((mine[0].run.settings, metrics))
    return result


def warnings(found: Sequence[Outcome]) -> list[str]:
    """What a reader must know: runs that are not in the means, a metric that nobody has, data or code that changed between runs."""
    told = [f"{o.run.point}, seed {o.run.seed}: {o.status}{f': {o.error}' if o.error else ''}" for o in found if o.status != "completed"]
    for what in dict.fromkeys(name for o in found for name in o.versions):
        if len({o.versions[what] for o in found if what in o.versions}) > 1:
            name = f"{what[:60]}…" if what.startswith("data set") else what
            told.append(f"{name} changed between the runs, so that they do not compare: sweep again")
    return told


def write_tables(sweep: Sweep, found: Sequence[Outcome]) -> None:
    """table.csv, a row a run, and points.csv, a row a point."""
    keys = list(sweep.plan.over)
    names = list(dict.fromkeys(name for outcome in found for name in outcome.metrics))
    rows: list[list[Any]] = [[*keys, "seed", "status", "error", "seconds", "model_sha256", *names, "folder"]]
    for o in found:
        figures = [o.metrics.get(name) for name in names]
        rows.append([*o.run.settings.values(), o.run.seed, o.status, o.error, o.seconds, o.model_sha256, *figures, f"runs/{o.run.folder}"])
    write_atomically(sweep.path / "table.csv", _csv(rows))
    rows = [[*keys, "runs", *(f"{name} {kind}" for name in names for kind in ("mean", "std"))]]
    for settings, metrics in points(found):
        n = max((spread.n for spread in metrics.values()), default=0)
        pairs = ([metrics[name].mean, metrics[name].std] if name in metrics else [None, None] for name in names)
        rows.append([*settings.values(), n, *(value for pair in pairs for value in pair)])
    write_atomically(sweep.path / "points.csv", _csv(rows))


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


# ------------------------------------------------------------------------------------------------------------ the plot


def draw(sweep: Sweep, found: Sequence[Outcome]) -> "Figure":
    """The final metric by point with its spread and each run as a dot, and the curves of the points over the rounds."""
    from matplotlib.figure import Figure

    metric, known = sweep.plan.metric, [(settings, m) for settings, m in points(found) if sweep.plan.metric in m]
    rows = len(known)
    figure = Figure(figsize=(13, max(4.4, 1.2 + 0.22 * rows)), layout="constrained")
    left, right = figure.subplots(1, 2)
    axis = _number_axis(sweep.plan.over)
    if axis is not None:
        _along(left, axis, known, found, metric)
    else:
        _in_rows(left, known, found, metric)
    _curves(right, known, found, metric)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    seeds = len(sweep.plan.seeds)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed: no spread is known"
    figure.suptitle(f"{sweep.plan.name}: {metric}, {spread}", x=0.01, ha="left", fontsize=11)
    return figure


def _number_axis(over: Mapping[str, Sequence[str]]) -> str | None:
    """The first key that has several values, all of them numbers."""
    return next((key for key, values in over.items() if len(values) > 1 and all(_number(value) is not None for value in values)), None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _along(axes: "Axes", key: str, known: Sequence[Any], found: Sequence[Outcome], metric: str) -> None:
    """A line over the numbers of `key` for each combination of the other keys."""
    lines: dict[str, list[tuple[float, Spread]]] = {}
    for settings, metrics in known:
        rest = said({k: v for k, v in settings.items() if k != key})
        lines.setdefault(rest, []).append((float(settings[key]), metrics[metric]))
    colours = _colours(len(lines))
    for (name, line), colour in zip(lines.items(), colours, strict=True):
        line.sort(key=lambda pair: pair[0])
        xs, spreads = [x for x, _ in line], [s for _, s in line]
        axes.errorbar(xs, [s.mean for s in spreads], [s.std or 0 for s in spreads], color=colour, marker="o", capsize=3, label=name or None)
        at = [(float(o.run.settings[key]), o.metrics[metric]) for o in found if metric in o.metrics and _rest(o, key) == name]
        axes.plot([x for x, _ in at], [y for _, y in at], ".", color=colour, alpha=0.4)
    every = sorted({float(settings[key]): settings[key] for settings, _ in known}.items())
    if every and every[0][0] > 0 and every[-1][0] / every[0][0] >= 10:
        axes.set_xscale("log")
    axes.set_xticks([value for value, _ in every], [text for _, text in every], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(xlabel=key, ylabel=metric)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=8)


def _rest(outcome: Outcome, key: str) -> str:
    return said({k: v for k, v in outcome.run.settings.items() if k != key})


def _in_rows(axes: "Axes", known: Sequence[Any], found: Sequence[Outcome], metric: str) -> None:
    """A row for each point."""
    names = [_named(settings) for settings, _ in known]
    for row, (settings, metrics) in enumerate(known):
        spread: Spread = metrics[metric]
        axes.errorbar(spread.mean, row, xerr=spread.std or 0, color="tab:blue", marker="o", capsize=3)
        values = [o.metrics[metric] for o in found if metric in o.metrics and o.run.settings == settings]
        axes.plot(values, [row] * len(values), ".", color="tab:blue", alpha=0.4)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(metric)
    axes.grid(axis="x", alpha=0.3)


def _named(settings: Mapping[str, str]) -> str:
    return Run("", settings, 0).point


def _curves(axes: "Axes", known: Sequence[Any], found: Sequence[Outcome], metric: str) -> None:
    """The mean curve of each point, shaded by ± a standard deviation; of many points the best ones."""
    from matplotlib.ticker import MaxNLocator

    lower = lower_is_better(metric) or metric.startswith("site_spread_")
    best = sorted(known, key=lambda pair: pair[1][metric].mean, reverse=not lower)[:_CURVES]
    shown = [pair for pair in known if any(pair is other for other in best)]
    for (settings, _), colour in zip(shown, _colours(len(shown)), strict=True):
        at: dict[int, list[float]] = {}
        for outcome in found:
            if outcome.run.settings == settings and outcome.status == "completed":
                for number, value in outcome.curve:
                    at.setdefault(number, []).append(value)
        rounds = sorted(at)
        spreads = [Spread.of(at[number]) for number in rounds]
        axes.plot(rounds, [s.mean for s in spreads], color=colour, label=_named(settings))
        low, high = [s.mean - (s.std or 0) for s in spreads], [s.mean + (s.std or 0) for s in spreads]
        axes.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="round", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"the {_CURVES} best of {len(known)} points" if len(known) > len(shown) else None
    if shown:
        axes.legend(frameon=False, fontsize=8, title=title)


def _colours(count: int) -> list[Any]:
    import matplotlib

    if count <= 10:
        return [matplotlib.colormaps["tab10"](k) for k in range(count)]
    return [matplotlib.colormaps["turbo"](k / (count - 1)) for k in range(count)]
