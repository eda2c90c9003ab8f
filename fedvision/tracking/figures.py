"""Figures out of the records of a run, and figures as text: alike in the progress line, the report and comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Metrics = Mapping[str, float | None]
Series = list[tuple[int, float]]  # (round, value), without the rounds that did not measure it

# Where a round is measured -> how that is called, the most telling place first.
PLACES = {
    ("server", "test"): "server test",
    ("server", "validation"): "server validation",
    ("sites", "mean"): "mean of sites",
    ("sites", "pooled"): "sites pooled",
}


def number(value: float | None) -> str:
    """Three or four telling digits.

    >>> number(0.96712), number(1234567.0), number(0.000123), number(3), number(None)
    ('0.967', '1,234,567', '0.000123', '3', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.1f}"
    if abs(value) >= 0.01 or value == 0:
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """A time as one reads it.

    >>> duration(0.0021), duration(4.21), duration(75), duration(1848), duration(8000)
    ('2 ms', '4.2 s', '1 min 15 s', '31 min', '2 h 13 min')
    """
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def measured(evaluation: Mapping[str, Any] | None, where: str, part: str) -> dict[str, Any]:
    """The metrics of one place of a round's evaluation; {} where it was not measured."""
    return ((evaluation or {}).get(where) or {}).get(part) or {}


def headline(evaluation: Mapping[str, Any] | None, best: str | None) -> tuple[str, float | None, str]:
    """(metric, value, place) that stands for a round: `best` if measured, else the first; ("", None, "") for none."""
    for (where, part), place in PLACES.items():
        metrics = measured(evaluation, where, part)
        name = best if best in metrics else next(iter(metrics), None)
        if name is not None:
            return name, metrics[name], place
    return "", None, ""


def metric_names(records: Iterable[Mapping[str, Any]], best: str, more: Iterable[Metrics] = ()) -> list[str]:
    """Every metric that was measured, `best` first, the others as they came."""
    names: dict[str, None] = {}
    for record in records:
        for where, part in PLACES:
            names.update(dict.fromkeys(measured(record.get("evaluation"), where, part)))
    for metrics in more:
        names.update(dict.fromkeys(metrics))
    return sorted(names, key=lambda name: name != best)


def series(records: Iterable[Mapping[str, Any]], where: str, part: str, metric: str) -> Series:
    """A metric over the rounds, counted from 1."""
    values = ((record["round"] + 1, measured(record.get("evaluation"), where, part).get(metric)) for record in records)
    return [(at, value) for at, value in values if value is not None]


def lower_is_better(metric: str) -> bool:
    """Whether small values of a metric are the good ones, by its name.

    >>> lower_is_better("loss"), lower_is_better("balanced_accuracy"), lower_is_better("calibration_error")
    (True, False, True)
    """
    return metric.rpartition("_")[2] in {
        "loss",
        "error",
        "distance",
        "perplexity",
        "nll",
        "ece",
        "mae",
        "mse",
        "rmse",
        "brier",
        "hd95",
    }


def worst_and_best(values: Sequence[float], metric: str) -> tuple[float, float]:
    """(the worst, the best) of `values`."""
    low, high = min(values), max(values)
    return (high, low) if lower_is_better(metric) else (low, high)


def site_metrics(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last that was measured on each site's own data: the summary's, else the last evaluated round's; {} for none.

    A run of each site alone keeps apart what its models do elsewhere ("sites") and at home ("at_home")."""
    if summary.get("at_home") or summary.get("sites"):
        return dict(summary.get("at_home") or summary["sites"])
    last = (measured(record.get("evaluation"), "sites", "per_site") for record in reversed(records))
    return next((sites for sites in last if sites), {})


def by_site(sites: Mapping[str, Metrics], metric: str) -> dict[str, float]:
    """A metric of each site that has it, the best site first."""
    known = {site: value for site, metrics in sites.items() if (value := metrics.get(metric)) is not None}
    return dict(sorted(known.items(), key=lambda item: item[1], reverse=not lower_is_better(metric)))


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean; 0.0 of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys "a.b".

    >>> flat({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    result: dict[str, Any] = {}
    for key, inner in value.items():
        result.update(flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return result
