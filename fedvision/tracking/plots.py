"""The plots of reports and comparisons: each takes plain figures and gives SVG with its legend."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from fedvision.tracking.figures import Series, lower_is_better, mean, number
from fedvision.tracking.svg import (
    CHARACTER,
    WIDTH,
    frame,
    label,
    legend,
    path,
    picture,
    rectangle,
    rule,
    scale,
    short,
    tick_text,
    ticks,
)

MOST_POINTS = 400  # of a curve: more cannot be seen
MOST_COLUMNS = 90  # of stacked columns: more rounds are put together
COLOURS = 8  # s0 .. s7 in the style sheet
CLASS_COLOURS = 10  # k0 .. k9


@dataclass(frozen=True)
class Curve:
    """A line over the rounds.  band: (round, lowest, highest) around it; faint: one of many, named where it is pointed at alone."""

    name: str
    points: Series
    colour: int
    dashed: bool = False
    band: list[tuple[int, float, float]] = field(default_factory=list)
    band_name: str = ""
    faint: bool = False


def _thin(points: Sequence, most: int = MOST_POINTS) -> list:
    """At most about `most` of the points, evenly, the last always among them."""
    stride = -(-len(points) // most)
    return list(points[::stride]) + ([points[-1]] if (len(points) - 1) % stride else [])


def curves(
    drawn: Sequence[Curve],
    name: str,
    references: Mapping[str, float] | None = None,
    x_name: str = "round",
    colours: Mapping[str, int] | None = None,
    least: float = math.inf,
) -> Markup:
    """Curves over rounds, with bands and level reference lines ("centralised"), whose `colours` may be given.  least: what the axis
    reaches down to in any case."""
    drawn = [curve for curve in drawn if curve.points]
    references = references or {}
    values = [value for curve in drawn for _, value in curve.points] + list(references.values())
    values += [edge for curve in drawn for _, *edges in curve.band for edge in edges]
    rounds = [at for curve in drawn for at, _ in curve.points]
    axes = frame((min(rounds), max(rounds)), ticks(min(least, *values), max(values)), x_name)
    parts, entries = list(axes.parts), []
    for curve in drawn:
        if len(curve.band) > 1:
            band = _thin(curve.band)
            around = [(axes.x(at), axes.y(high)) for at, _, high in band] + [(axes.x(at), axes.y(low)) for at, low, _ in reversed(band)]
            parts.append(path(around, f"s{curve.colour} band", close=True))
            if curve.band_name:
                entries.append((f"s{curve.colour} mark faint", curve.band_name))
    for index, (reference, value) in enumerate(references.items()):
        css = f"s{(colours or {}).get(reference, 6 + index % 2)}"
        parts.append(rule(axes.left, axes.y(value), axes.right, axes.y(value), f"{css} reference"))
        entries.append((f"{css} stroke dotted", f"{reference} ({number(value)})"))
    for curve in reversed(drawn):
        css = f"s{curve.colour} line{' dashed' if curve.dashed else ''}{' faint' if curve.faint else ''}"
        points = [(axes.x(at), axes.y(value)) for at, value in _thin(curve.points)]
        if len(points) > 1:
            parts.append(path(points, css, title=curve.name if curve.faint else ""))
        if len(points) <= 12 and not curve.faint:
            parts += [f'<circle class="s{curve.colour} dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
    ends = [(f"s{curve.colour} stroke{' dashed' if curve.dashed else ''}", curve.name) for curve in drawn if not curve.faint]
    alone = len(ends) == 1 and not entries  # then the caption tells all
    return picture(axes.height, parts, f"{name} over rounds") + legend([] if alone else ends + entries)  # below: neighbours stay level


def dots(values: Mapping[str, float], metric: str, references: Mapping[str, float] | None = None) -> Markup:
    """A row a site in the given order, a dot at its value, a line at each reference ("mean", "centralised")."""
    references = references or {}
    row, top = 17, 8
    room = min(150.0, 14 + CHARACTER * max(len(name) for name in values))
    marks = ticks(min([*values.values(), *references.values()]), max([*values.values(), *references.values()]))
    bottom = top + row * len(values)
    x = scale(marks[0], marks[-1], room, WIDTH - 54)
    parts = [rule(x(tick), top, x(tick), bottom) + label(x(tick), bottom + 16, tick_text(tick), "middle") for tick in marks]
    entries = []
    for index, (name, value) in enumerate(references.items()):
        css = "reference muted" if index == 0 else f"s{5 + index % 2} reference"
        parts.append(rule(x(value), top, x(value), bottom, css))
        entries.append(("muted stroke dotted" if index == 0 else f"s{5 + index % 2} stroke dotted", f"{name} ({number(value)})"))
    for index, (name, value) in enumerate(values.items()):
        y = top + row * (index + 0.5)
        parts.append(label(room - 8, y + 4, short(name, int((room - 14) / CHARACTER)), "end", full=name))
        parts.append(rule(room, y, WIDTH - 54, y))
        parts.append(f'<circle class="s0 dot" cx="{x(value):.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(label(WIDTH - 6, y + 4, number(value), "end", "strong"))
    parts.append(label(WIDTH - 54, bottom + 31, metric.replace("_", " "), "end", "axis"))
    return legend(entries) + picture(bottom + 36, parts, f"{metric} of each site")


def histogram(values: Sequence[float], metric: str, bins: int = 24) -> Markup:
    """How many sites have which value, with a line at the mean."""
    marks = ticks(min(values), max(values))
    low, high = marks[0], marks[-1]
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    axes = frame((0, bins), ticks(0, max(counts), 5), "", 270)
    x = scale(low, high, axes.left, axes.right)
    parts = [part for part in axes.parts if 'class="grid"' in part]
    width = (axes.right - axes.left) / bins
    for index, count in enumerate(counts):
        y = axes.y(count)
        edges = (low + (high - low) * edge / bins for edge in (index, index + 1))
        title = f"{count} sites from {' to '.join(map(number, edges))}"
        parts.append(rectangle(axes.left + index * width + 0.75, y, width - 1.5, axes.bottom - y, "s0 fill", title))
    parts += [label(x(tick), axes.bottom + 16, tick_text(tick), "middle") for tick in marks]
    parts.append(rule(x(mean(values)), axes.top, x(mean(values)), axes.bottom, "reference muted"))
    parts.append(label(axes.right, axes.bottom + 31, f"{metric.replace('_', ' ')}, number of sites", "end", "axis"))
    return legend([("muted stroke dotted", f"mean ({number(mean(values))})")]) + picture(axes.height, parts, f"{metric} of the sites")


def bars(groups: Mapping[str, Mapping[str, float]], metric: str) -> Markup:
    """Bars of each group's figures: {run: {"mean of sites": 0.9, "worst site": 0.7}}, one colour a figure."""
    names = list(dict.fromkeys(name for figures in groups.values() for name in figures))
    values = [value for figures in groups.values() for value in figures.values()]
    room, bar, gap, top = min(190.0, 14 + CHARACTER * max(map(len, groups))), 14, 12, 8
    marks = ticks(min(0.0, *values), max(values))
    x = scale(marks[0], marks[-1], room, WIDTH - 54)
    bottom = top + sum(bar * len(figures) + gap for figures in groups.values())
    parts = [rule(x(tick), top, x(tick), bottom) + label(x(tick), bottom + 16, tick_text(tick), "middle") for tick in marks]
    y = top + gap / 2
    for group, figures in groups.items():
        parts.append(label(room - 8, y + bar * len(figures) / 2 + 4, short(group, int((room - 14) / CHARACTER)), "end", full=group))
        for name, value in figures.items():
            start = x(min(0.0, value))
            parts.append(
                rectangle(
                    start,
                    y + 1,
                    x(max(0.0, value)) - start,
                    bar - 2,
                    f"s{names.index(name) % COLOURS} fill",
                    f"{group}, {name}: {number(value)}",
                )
            )
            parts.append(label(x(max(0.0, value)) + 5, y + bar - 3, number(value), css="strong"))
            y += bar
        y += gap
    parts.append(label(WIDTH - 54, bottom + 31, metric.replace("_", " "), "end", "axis"))
    return legend((f"s{index % COLOURS} mark", name) for index, name in enumerate(names)) + picture(
        bottom + 36, parts, f"{metric} of each run"
    )


def stacked_rows(rows: Mapping[str, Sequence[float]], names: Sequence[str], unit: str) -> Markup:
    """A bar a row, made of one part a name: who holds how much of which class."""
    room = min(150.0, 14 + CHARACTER * max(map(len, rows)))
    height = 17 if len(rows) <= 30 else 13
    top, bottom = 8, 8 + height * len(rows)
    marks = ticks(0, max(sum(row) for row in rows.values()))
    x = scale(0, marks[-1], room, WIDTH - 46)
    parts = [rule(x(tick), top, x(tick), bottom) + label(x(tick), bottom + 16, tick_text(tick), "middle") for tick in marks]
    for index, (row, counts) in enumerate(rows.items()):
        y, start = top + height * index, 0.0
        parts.append(label(room - 8, y + height / 2 + 4, short(row, int((room - 14) / CHARACTER)), "end", full=row))
        for colour, (name, count) in enumerate(zip(names, counts, strict=True)):
            if count:
                width = x(start + count) - x(start)
                parts.append(
                    rectangle(
                        x(start),
                        y + 2,
                        width - min(0.6, width / 4),
                        height - 4,
                        f"k{colour % CLASS_COLOURS} fill",
                        f"{row}, {name}: {count:,}",
                    )
                )
                start += count
        parts.append(label(x(start) + 5, y + height / 2 + 4, f"{sum(counts):,}", css="strong"))
    parts.append(label(WIDTH - 46, bottom + 31, unit, "end", "axis"))
    return legend((f"k{index % CLASS_COLOURS} mark", name) for index, name in enumerate(names)) + picture(bottom + 36, parts, unit)


def stacked_columns(columns: Sequence[Mapping[str, float]], colours: Mapping[str, str], unit: str, first: int = 1) -> Markup:
    """A column a round, made of one part a name of `colours` (name -> colour class); many rounds are averaged."""
    stride = -(-len(columns) // MOST_COLUMNS)
    groups = [columns[start : start + stride] for start in range(0, len(columns), stride)]
    heights = [{name: mean(column.get(name, 0) or 0 for column in group) for name in colours} for group in groups]
    highest = max(sum(column.values()) for column in heights)
    last = first + len(columns) - 1
    axes = frame((first, last), ticks(0, highest or 1, 5), "round", 230, pad=0.5)
    parts = list(axes.parts)
    for index, column in enumerate(heights):
        start, end = first + index * stride - 0.5, min(last, first + (index + 1) * stride - 1) + 0.5
        width, level = axes.x(end) - axes.x(start), 0.0
        which = f"round {first + index * stride}" if stride == 1 else f"rounds {first + index * stride} to {end - 0.5:.0f}, mean"
        for name, value in column.items():
            if value:
                y, below = axes.y(level + value), axes.y(level)
                parts.append(
                    rectangle(
                        axes.x(start) + width * 0.08,
                        y,
                        width * 0.84,
                        below - y,
                        f"{colours[name]} fill",
                        f"{which}, {name}: {number(value)} {unit}",
                    )
                )
                level += value
    used = [(f"{css} mark", name) for name, css in colours.items() if any(column[name] for column in heights)]
    parts.append(label(axes.left - 6, axes.bottom + 31, unit, "start", "axis"))
    return legend(used) + picture(axes.height, parts, f"{unit} of each round")


def spread(runs: Mapping[str, Mapping[str, float]], metric: str, colours: Mapping[str, int]) -> Markup:
    """A row a run, a faint dot a site, a bar at the mean: how the sites fare under each run."""
    every = [value for sites in runs.values() for value in sites.values()]
    room, row, top = min(190.0, 14 + CHARACTER * max(map(len, runs))), 34, 8
    marks = ticks(min(every), max(every))
    bottom = top + row * len(runs)
    x = scale(marks[0], marks[-1], room, WIDTH - 54)
    parts = [rule(x(tick), top, x(tick), bottom) + label(x(tick), bottom + 16, tick_text(tick), "middle") for tick in marks]
    for index, (run, sites) in enumerate(runs.items()):
        y, css = top + row * (index + 0.5), f"s{colours[run]}"
        parts.append(label(room - 8, y + 4, short(run, int((room - 14) / CHARACTER)), "end", full=run))
        for place, (site, value) in enumerate(_thin(list(sites.items()), 300)):
            lift = (place % 5 - 2) * 3.2  # so that equal values do not hide each other
            parts.append(
                f'<circle class="{css} faint dot" cx="{x(value):.1f}" cy="{y + lift:.1f}" r="3.2">'
                f"<title>{_title(site, value)}</title></circle>"
            )
        parts.append(rule(x(mean(sites.values())), y - 13, x(mean(sites.values())), y + 13, f"{css} thick"))
        parts.append(label(WIDTH - 6, y + 4, number(mean(sites.values())), "end", "strong"))
    parts.append(
        label(
            WIDTH - 54,
            bottom + 31,
            f"{metric.replace('_', ' ')}{' (lower is better)' if lower_is_better(metric) else ''}",
            "end",
            "axis",
        )
    )
    return picture(bottom + 36, parts, f"{metric} at the sites of each run")


def _title(site: str, value: float) -> Markup:
    return Markup("{}: {}").format(site, number(value))
