"""The parts of a report between its title and its environment, each drawn only where the run has its figures."""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedvision.tracking import matrices, plots
from fedvision.tracking.figures import Metrics, by_site, duration, mean, measured, number, series, worst_and_best
from fedvision.tracking.page import Plot, Run, Section, Table
from fedvision.tracking.plots import Curve

MOST_ROWS = 60  # sites that a plot shows one by one
LEAST_OF_A_HISTOGRAM = 10  # sites, below which each one's dot says more
MOST_LISTED = 200  # sites that a table lists
PHASES = {"send": "s4", "train": "s0", "sum": "s2", "evaluate": "s3", "other": "s7"}
OUTCOMES = {"answered": "s0", "missing": "s7", "declined": "s4", "refused": "s1"}


def sections(run: Run, baselines: Mapping[str, Metrics]) -> list[Section]:
    """Every part that this run has figures for."""
    made = [
        _curves(run, baselines),
        _sites(run, baselines),
        _confusion(run),
        _pictures(run),
        partition_section(run.partition),
        _participation(run),
        _time(run),
    ]
    return [section for section in made if section is not None]


def _words(name: str) -> str:
    return name.replace("_", " ")


# -------------------------------------------------------------------------------------------------------- the curves


def metric_curves(run: Run, metric: str) -> list[Curve]:
    """The curves of one metric: the server's, and the mean of the sites with a band from the worst to the best."""
    test, validation = (series(run.records, "server", part, metric) for part in ("test", "validation"))
    average, pooled = (series(run.records, "sites", part, metric) for part in ("mean", "pooled"))
    drawn = [Curve("server test", test, 0), Curve("server validation", validation, 2, dashed=True)]
    if average:
        drawn.append(Curve("mean of sites", average, 1, band=_band(run, metric), band_name="worst to best site"))
    elif pooled:
        drawn.append(Curve("sites pooled", pooled, 1))
    return [curve for curve in drawn if curve.points]


def _meaning(run: Run, metric: str) -> str:
    """What a metric's short name does not tell."""
    said = {
        "ece": "expected calibration error", "auc": "area under the ROC curve", "mae": "mean absolute error", "rmse": "root mean square error",
        "hd95": "95 % Hausdorff distance, pixels", "miou": "mean intersection over union", "dice": "of all pixels together",
        "image_dice": "mean of the images' own", "boundary_f": "share of the borders that is right and found", "map": "average precision over IoUs 0.5 to 0.95", "ap50": "average precision at IoU 0.5", "ap75": "average precision at IoU 0.75",
        "mask_map": "of masks, over IoUs 0.5 to 0.95", "mask_ap50": "of masks, at IoU 0.5", "mask_ap75": "of masks, at IoU 0.75",
        "r2": "share of the variance that is explained", "sensitivity": f"at a specificity of {run.get('evaluation.specificity')}",
    }  # fmt: skip
    return said.get(metric, "")


def _band(run: Run, metric: str) -> list[tuple[int, float, float]]:
    band = []
    for record in run.records:
        sites = by_site(measured(record.get("evaluation"), "sites", "per_site"), metric).values()
        if sites:
            band.append((record["round"] + 1, min(sites), max(sites)))
    return band


def _curves(run: Run, baselines: Mapping[str, Metrics]) -> Section | None:
    drawn = []
    for metric in run.metrics:
        lines = metric_curves(run, metric)
        references = {name: value for name, metrics in baselines.items() if (value := metrics.get(metric)) is not None}
        if lines:
            drawn.append(Plot(_words(metric), plots.curves(lines, metric, references, run.step), _meaning(run, metric)))
    losses = [(record["round"] + 1, loss) for record in run.records if (loss := (record.get("train") or {}).get("loss")) is not None]
    if losses:
        drawn.append(
            Plot(
                "training loss",
                plots.curves([Curve("training loss", losses, 0)], "training loss", x_name=run.step),
                "mean over the examples",
            )
        )
    norms = [(record["round"] + 1, norm) for record in run.records if (norm := record.get("update_norm")) is not None]
    if norms:
        drawn.append(
            Plot(
                "size of the step",
                plots.curves([Curve("L2 norm", norms, 0)], "size of the step", x_name=run.step),
                "L2 norm of the model's update",
            )
        )
    return Section("curves", "How it learned", [], drawn) if drawn else None


# ------------------------------------------------------------------------------------------------- sites and classes


def _sites(run: Run, baselines: Mapping[str, Metrics]) -> Section | None:
    metric = next((name for name in run.metrics if by_site(run.sites, name)), None)
    if metric is None:
        return None
    values = by_site(run.sites, metric)
    listed = list(values.values())
    worst, best = worst_and_best(listed, metric)
    references = {"mean": mean(listed)} | {name: value for name, metrics in baselines.items() if (value := metrics.get(metric)) is not None}
    note = (
        f"{_words(metric).capitalize()} on each site's own test data: {number(mean(listed))} on average, "
        f"from {number(worst)} to {number(best)}."
    )
    if len(values) <= MOST_ROWS:
        drawn = [Plot(_words(metric), plots.dots(values, metric, references))]
        others = [name for name in run.metrics if name != metric and by_site(run.sites, name)][:1]
        for name in others:
            known = by_site(run.sites, name)
            drawn.append(Plot(_words(name), plots.dots(known, name, {"mean": mean(known.values())})))
        if len(listed) >= LEAST_OF_A_HISTOGRAM:
            bins = max(8, round(2 * len(listed) ** 0.5))
            drawn.append(Plot(f"{_words(metric)}, how many sites", plots.histogram(listed, metric, bins), f"{len(listed)} sites"))
        return Section("sites", "Site by site", [note], drawn, [_site_table(run, list(values), "All figures, best site first")])
    worst_ten = dict(list(values.items())[-10:])
    drawn = [
        Plot(_words(metric), plots.histogram(listed, metric), f"{len(values):,} sites"),
        Plot("the ten worst sites", plots.dots(worst_ten, metric, references)),
    ]
    order = list(reversed(values))[:MOST_LISTED]
    folded = "All figures, worst site first" if len(order) == len(values) else f"The {len(order)} worst sites (all stand in summary.json)"
    return Section("sites", "Site by site", [note], drawn, [_site_table(run, order, folded)])


def _site_table(run: Run, order: Sequence[str], folded: str) -> Table:
    names = [name for name in run.metrics if by_site(run.sites, name)]
    counts = run.partition.get("sites") or {}
    body = []
    for site in order:
        held = counts.get(site)
        body.append(
            [
                site,
                *(number(run.sites[site].get(name)) for name in names),
                *([f"{sum(held['train']):,}", f"{sum(held['test']):,}"] if held else ["–", "–"]),
            ]
        )
    return Table(["site", *map(_words, names), "trained on", "tested on"], body, folded=folded)


def _confusion(run: Run) -> Section | None:
    counts = run.summary.get("confusion")
    if not counts:
        return None
    classes = [str(name) for name in run.summary.get("classes") or range(len(counts))]
    rows = {name: row for name, row in zip(_distinct(classes), counts, strict=True)}
    shares = {name: [count / (sum(row) or 1) for count in row] for name, row in rows.items()}
    right = sum(row[index] for index, row in enumerate(counts))
    total = sum(map(sum, counts))
    recall = {name: shares[name][index] for index, name in enumerate(rows) if sum(rows[name])}
    where = run.summary.get("confusion_of") or "test data"
    note = (
        f"{right:,} of {total:,} {run.summary.get('confusion_counts') or 'images'} were classified right on the {where}. "
        "Each row is tinted by its share, so that rare classes show too."
    )
    drawn = [Plot("confusion matrix", matrices.heat_map(rows, classes, ("true", "predicted"), shares))]
    if len(recall) <= MOST_ROWS and recall:
        ordered = dict(sorted(recall.items(), key=lambda item: -item[1]))
        drawn.append(Plot("found of each class", plots.dots(ordered, "recall", {"mean": mean(ordered.values())}), "recall"))
    return Section("confusion", "Class by class", [note], drawn)


PICTURES = {  # kinds of pictures, in the order of the page
    "augmentations": "as it is trained on", "predictions": "predictions", "failures": "where it fails",
}  # fmt: skip


def _pictures(run: Run) -> Section | None:
    """The pictures of the run's folder, put into the page."""
    about = run.path / "pictures" / "about.json"
    if not about.exists():
        return None
    said: dict[str, str] = json.loads(about.read_text(encoding="utf-8"))
    drawn = [Plot(PICTURES.get(name, _words(name)), _embedded(about.with_name(f"{name}.png"), name), text) for name, text in said.items()]
    return Section("pictures", "What it looks like", [], drawn) if drawn else None


def _embedded(path: Path, says: str) -> Markup:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return Markup('<img class="picture" src="data:image/png;base64,{}" alt="{}">').format(content, says)


def _distinct(names: Sequence[str]) -> list[str]:
    """`names`, those given twice told apart."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


# ----------------------------------------------------------------------------------------------------- the partition


def partition_section(partition: Mapping[str, Any]) -> Section | None:
    """Who holds what, from `Partition.summary()`; None where that is empty."""
    sites: Mapping[str, Any] = partition.get("sites") or {}
    if not sites:
        return None
    classes = [str(name) for name in partition.get("classes") or range(len(next(iter(sites.values()))["train"]))]
    train = {site: list(held["train"]) for site, held in sites.items()}
    sizes = {site: sum(counts) for site, counts in train.items()}
    small, large = min(sizes, key=lambda site: sizes[site]), max(sizes, key=lambda site: sizes[site])
    notes = [
        f"{len(sites):,} sites train on {sum(sizes.values()):,} images: "
        f"{sizes[small]:,} at the smallest ({small}), {sizes[large]:,} at the largest ({large})."
    ]
    server = {part: sum(counts) for part, counts in (partition.get("server") or {}).items() if counts and sum(counts)}
    if server:
        held_there = " and ".join(f"{count:,} for {part}" for part, count in server.items())
        notes[0] += f" The coordinator holds {held_there}, and no site has these."
    return Section("partition", "Who holds what", notes, _partition_plots(train, classes), _partition_tables(sites, sizes))


def _partition_plots(train: Mapping[str, list[int]], classes: list[str]) -> list[Plot]:
    by_size = dict(sorted(train.items(), key=lambda item: -sum(item[1])))
    largest = max((max(counts, default=0) for counts in train.values()), default=0) or 1
    shares = {site: [(count / largest) ** 0.5 for count in counts] for site, counts in by_size.items()}  # √: small counts show too
    drawn = []
    if len(train) <= MOST_ROWS and len(classes) <= plots.CLASS_COLOURS:
        drawn.append(Plot("training images of each site", plots.stacked_rows(by_size, classes, "training images"), "by class"))
    heat = matrices.heat_map(by_size, classes, ("site", "class"), shares)
    drawn.append(Plot("training images of each site and class", heat, "largest site first" if len(train) > MOST_ROWS else ""))
    if len(train) > MOST_ROWS:
        drawn.append(Plot("sizes of the sites", plots.histogram([sum(counts) for counts in train.values()], "training images")))
    return drawn


def _partition_tables(sites: Mapping[str, Any], sizes: Mapping[str, int]) -> list[Table]:
    order = sorted(sites, key=lambda site: -sizes[site])[:MOST_LISTED]
    more = "" if len(order) == len(sites) else f" (the {len(order)} largest; all stand in partition.json)"
    parts = ("train", "validation", "test")
    tables = [
        Table(
            ["site", *parts],
            [[site, *(f"{sum(sites[site].get(part) or []):,}" for part in parts)] for site in order],
            folded=f"Images of each site{more}",
        )
    ]
    cameras = {site: camera for site in order if isinstance(camera := sites[site].get("camera"), Mapping)}
    if cameras:
        names = list(dict.fromkeys(name for camera in cameras.values() for name in camera))
        body = [[site, *(_value(camera.get(name)) for name in names)] for site, camera in cameras.items()]
        tables.append(Table(["site", *map(_words, names)], body, folded=f"Camera of each site{more}"))
    return tables


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return number(value) if isinstance(value, int | float) or value is None else str(value)


# ------------------------------------------------------------------------------------------------- who took part, when


def _participation(run: Run) -> Section | None:
    if run.kind != "simulate" or not run.records:
        return None
    recorded = [record for record in run.records if "asked" in record or "answered" in record]
    if not recorded:
        return Section(
            "participation",
            "Who took part",
            ["This run does not record who took part, so that nobody can be told apart by it."],
        )
    counts = [{outcome: len(record.get(outcome) or ()) for outcome in OUTCOMES} for record in run.records]
    asked = sum(len(record.get("asked") or ()) for record in recorded)
    totals = {outcome: sum(count[outcome] for count in counts) for outcome in OUTCOMES}
    note = f"{totals['answered']:,} of {asked:,} requests were answered"
    troubles = [f"{totals[outcome]:,} {outcome}" for outcome in OUTCOMES if outcome != "answered" and totals[outcome]]
    note += f"; {', '.join(troubles)}." if troubles else "."
    drawn = [Plot("requests and what became of them", plots.stacked_columns(counts, OUTCOMES, "sites"))]
    states = _states(run)
    if states and len(states) <= MOST_ROWS and len(run.records) <= 120:
        drawn.append(Plot("site by site", matrices.participation(states, max(record["round"] for record in run.records) + 1)))
    return Section("participation", "Who took part", [note], drawn, _trouble_tables(run))


def _states(run: Run) -> dict[str, dict[int, str]]:
    known = dict.fromkeys([*(run.partition.get("sites") or {}), *(site for record in run.records for site in record.get("asked") or ())])
    states: dict[str, dict[int, str]] = {str(site): {} for site in known}
    for record in run.records:
        for outcome in OUTCOMES:
            for site in record.get(outcome) or ():
                states.setdefault(str(site), {})[record["round"]] = outcome
    return states


def _trouble_tables(run: Run) -> list[Table]:
    rows: Counter[tuple[str, str, str]] = Counter()
    for record in run.records:
        for outcome in ("refused", "declined"):
            rows.update((site, outcome, str(reason)) for site, reason in (record.get(outcome) or {}).items())
    listed = sorted(rows.items(), key=lambda item: (item[0][1] != "refused", -item[1], item[0]))
    body = [[site, outcome, f"{count:,}", reason] for (site, outcome, reason), count in listed[:30]]
    tables = [Table(["site", "what", "rounds", "why"], body, numbers=False)] if body else []
    missing = Counter(str(kind) for record in run.records for kind in (record.get("missing") or {}).values())
    if missing:
        tables.append(
            Table(
                ["missing", "replies"],
                [[kind, f"{count:,}"] for kind, count in missing.most_common()],
                folded="Why replies are missing",
            )
        )
    return tables


# ----------------------------------------------------------------------------------------------------------- the time


def _time(run: Run) -> Section | None:
    columns = [_phases(record["seconds"]) for record in run.records if record.get("seconds")]
    clock = [(record["round"] + 1, seconds) for record in run.records if (seconds := record.get("simulated_seconds")) is not None]
    if not columns and not clock:
        return None
    drawn, notes = [], []
    if columns:
        totals = {phase: sum(column.get(phase, 0.0) for column in columns) for phase in PHASES}
        totals = {phase: seconds for phase, seconds in totals.items() if seconds}
        spent = sum(totals.values())
        notes.append(f"{duration(spent)} in {len(columns):,} {run.step}s, {duration(spent / len(columns))} each.")
        drawn.append(Plot(f"time of each {run.step}", plots.stacked_columns(columns, PHASES, "seconds"), "seconds by phase"))
    if clock:
        waited = sum(seconds for _, seconds in clock)
        notes.append(f"On the simulated clock, which runs at the sites' own speeds, the rounds took {duration(waited)}.")
        drawn.append(Plot("simulated clock", plots.curves([Curve("seconds", clock, 0)], "simulated seconds"), "seconds a round"))
    table = (
        Table(
            ["phase", "seconds", "share"],
            [[phase, f"{seconds:,.2f}", f"{100 * seconds / spent:.1f} %"] for phase, seconds in totals.items()],
        )
        if columns
        else None
    )
    return Section("time", "Where the time went", notes, drawn, [table] if table else [])


def _phases(seconds: Mapping[str, float | None]) -> dict[str, float]:
    """Seconds by phase; what no phase accounts for is "other"."""
    known = {phase: seconds.get(phase) or 0.0 for phase in PHASES if phase != "other"}
    return known | {"other": max(0.0, (seconds.get("total") or 0.0) - sum(known.values()))}
