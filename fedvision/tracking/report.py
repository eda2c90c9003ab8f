"""report.html: one self-contained page that tells what a run did, drawn from its folder alone."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvision.algorithms import ALGORITHMS
from fedvision.brought import changed_since, in_short
from fedvision.tracking.figures import (
    Metrics,
    by_site,
    duration,
    flat,
    headline,
    mean,
    number,
    worst_and_best,
)
from fedvision.tracking.page import Run, Table, write_page
from fedvision.tracking.sections import partition_section, sections

MOST_REJECTED = 10  # rounds whose rejection is told one by one
ENDINGS = {
    "failed": "This run failed.",
    "interrupted": "This run was interrupted.",
    "running": "This run has not ended: it is still running, or was killed.",
}


def draw_report(run: Path, baselines: Mapping[str, Metrics] | None = None) -> Path:
    """Draw report.html in the run folder and return its path.

    baselines: metrics of reference runs by name, drawn as level lines: {"centralised": {"accuracy": 0.98}}.
    """
    read = Run.read(run)
    page = read.path / "report.html"
    write_page(
        page,
        "report.html",
        name=read.name,
        eyebrow=" · ".join(part for part in ("fedvision", read.kind, str(read.summary.get("started", "")).replace("T", " ")[:16]) if part),
        alarm=_alarm(read),
        verdict=" ".join(_verdict(read)),
        tiles=_tiles(read),
        notes=_notes(read),
        sections=sections(read, baselines or {}),
        again=_again(read),
        environment=_environment(read),
        config=(read.path / "config.yaml").read_text(encoding="utf-8"),
        folder=str(read.path),
    )
    return page


def draw_partition(partition: Mapping[str, Any], page: Path, title: str) -> Path:
    """Draw who holds what (`Partition.summary()`) as a page of its own, before anything trains."""
    section = partition_section(partition)
    write_page(page, "partition.html", title=title, section=section, notes=[str(note) for note in partition.get("notes") or []])
    return page


def _alarm(run: Run) -> list[str]:
    if run.status == "completed":
        return []
    lines = [ENDINGS.get(run.status, f"This run's status is {run.status}.")]
    done, planned = len(run.records), run.summary.get("rounds_planned")
    if run.kind != "local" and planned:
        lines[0] += f" It did {done} of {planned} {run.step}s."
    if run.summary.get("error"):
        lines.append(str(run.summary["error"]))
    lines.append(f"To go on from there: {_resume(run)}")
    return lines


def _verdict(run: Run) -> list[str]:
    """What was trained, on what, for how long, and how well, in two or three sentences."""
    model, data = in_short(run.get("model.name") or "model"), _kind(run, "data", "dataset") or "data"
    strategy = _kind(run, "strategy", "name")
    algorithm = ALGORITHMS[strategy].__name__ if strategy in ALGORITHMS else strategy
    done = len(run.records)
    time = f" in {duration(run.summary['seconds'])}" if run.summary.get("seconds") is not None else ""
    steps = f"{done} {run.step}{'' if done == 1 else 's'}"
    sites = f"{run.site_count:,} {'site' if run.site_count == 1 else 'sites'}"
    if run.kind == "centralised":
        first = f"The model {model} was trained on {data}, pooled in one place, for {steps}{time}."
    elif run.kind == "local":
        first = f"The model {model} was trained on {data} at each of {sites} alone{time}."
    else:
        first = f"{algorithm} trained the model {model} on {data}, held by {sites} ({_scheme(run)}), for {steps}{time}."
    return [first, *_reached(run)]


def _reached(run: Run) -> list[str]:
    name, value, place = headline(run.last_evaluation, run.best)
    values = by_site(run.sites, run.best)
    sentences = []
    if value is not None:
        at = "" if place == "mean of sites" else f" ({place})"
        sentences.append(f"It reached {_words(name)} {number(value)}{at}." if place != "mean of sites" else "")
    if values:
        worst, _ = worst_and_best(list(values.values()), run.best)
        site = next(site for site, value in values.items() if value == worst)
        sentences.append(
            f"On the sites' own test data, {_words(run.best)} is {number(mean(values.values()))} on average "
            f"and {number(worst)} at the worst ({site})."
        )
    return [sentence for sentence in sentences if sentence]


def _kind(run: Run, block: str, tag: str) -> str:
    """What a block is called: by its tag, or by its source where it was brought."""
    kind = str(run.get(f"{block}.{tag}") or "")
    return in_short(run.get(f"{block}.source") or kind) if kind == "brought" else kind


def _scheme(run: Run) -> str:
    scheme, alpha = _kind(run, "partition", "scheme"), run.get("partition.alpha")
    return f"{scheme}, α = {alpha:g}" if alpha is not None else scheme


def _words(name: str) -> str:
    return name.replace("_", " ")


def _tiles(run: Run) -> list[dict[str, str]]:
    tiles = []
    name, value, place = headline(run.last_evaluation, run.best)
    if value is not None and place != "mean of sites":
        tiles.append({"name": _words(name), "value": number(value), "note": place})
    values = by_site(run.sites, run.best)
    if values:
        listed = list(values.values())
        worst, _ = worst_and_best(listed, run.best)
        average = mean(listed)
        deviation = mean((value - average) ** 2 for value in listed) ** 0.5
        tiles.append(
            {
                "name": "mean of sites",
                "value": number(average),
                "note": f"{_words(run.best)}, ± {number(deviation)} between sites",
            }
        )
        site = next(site for site, value in values.items() if value == worst)
        tiles.append({"name": "worst site", "value": number(worst), "note": f"{_words(run.best)}, {site}"})
    if run.kind != "local":
        planned = run.summary.get("rounds_planned")
        skipped, rejected = (sum(record.get("status") == status for record in run.records) for status in ("skipped", "rejected"))
        note = f"of {planned} planned" if planned else ""
        tiles.append(
            {
                "name": f"{run.step}s",
                "value": f"{len(run.records):,}",
                "note": note + (f", {skipped} skipped" if skipped else "") + (f", {rejected} rejected" if rejected else ""),
            }
        )
    if run.summary.get("seconds") is not None:
        engine = run.summary.get("engine") or run.get("engine.name")
        tiles.append({"name": "time", "value": duration(run.summary["seconds"]), "note": f"engine {engine}" if engine else ""})
    if run.summary.get("model_parameters"):
        size = run.summary["model_parameters"]
        shown = f"{size / 1e6:.2f} M" if size >= 1e6 else f"{size:,}"
        tiles.append({"name": "parameters", "value": shown, "note": in_short(str(run.get("model.name") or ""))})
    return tiles


def _notes(run: Run) -> list[str]:
    """What a reader should know before believing a figure."""
    notes = [str(note) for note in run.summary.get("notes") or []]
    notes += [str(note) for note in run.partition.get("notes") or [] if note not in notes]
    notes += changed_since(run.get, run.environment.get("brought") or {})
    skipped = [record["round"] + 1 for record in run.records if record.get("status") == "skipped"]
    if skipped:
        notes.append(
            f"Skipped for want of replies: round{'s' if len(skipped) > 1 else ''} {_listed(skipped)}. The model was left as it was."
        )
    rejected = [record for record in run.records if record.get("status") == "rejected"]
    notes += [
        f"Round {r['round'] + 1} was rejected whole: {r['rejected']}. The model was left as it was." for r in rejected[:MOST_REJECTED]
    ]
    if len(rejected) > MOST_REJECTED:
        notes.append(f"{len(rejected) - MOST_REJECTED:,} more rounds were rejected whole; why stands in rounds.jsonl.")
    lost = [record["round"] + 1 for record in run.records if (record.get("train") or {"loss": 0}).get("loss") is None]
    if lost:
        notes.append(f"The training loss was not a finite number in round{'s' if len(lost) > 1 else ''} {_listed(lost)}.")
    if run.records and run.last_evaluation is None:
        notes.append("No evaluation was recorded, so this report shows no metric.")
    return [note[:1].upper() + note[1:] for note in notes]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")


def _resume(run: Run) -> str:
    folder = shlex.quote(str(run.path))
    return f"fedvision {run.kind} {shlex.quote(str(run.path / 'config.yaml'))} --resume {folder}"


def _again(run: Run) -> dict[str, str]:
    config, folder = shlex.quote(str(run.path / "config.yaml")), shlex.quote(str(run.path))
    lines = {f"fedvision {run.kind} {config}": "this run again"}
    if run.status != "completed":
        lines[_resume(run)] = "go on where it stopped"
    lines[f"fedvision report {folder}"] = "this page again"
    if run.kind == "simulate":
        lines[f"fedvision centralised {config}"] = "the same data in one place"
        lines[f"fedvision local {config}"] = "each site alone"
    width = max(map(len, lines))
    commands = "\n".join(f"{line:<{width}}  # {what}" for line, what in lines.items())
    note = "On the same CPU type, with the same versions and threads, this run again ends at the same bytes."
    return {"note": note, "commands": commands, "sha256": str(run.summary.get("model_sha256") or "")}


def _environment(run: Run) -> Table:
    rows = [
        [key.removeprefix("versions.").replace("_", " "), _shown(key, value)]
        for key, value in flat(run.environment).items()
        if value is not None
    ]
    if run.partition.get("fingerprint"):
        rows.append(["data (SHA-256 of images, labels, subjects)", str(run.partition["fingerprint"])])
    return Table(["what", "value"], rows or [["not recorded", "the run ended before it was known"]], numbers=False)


def _shown(key: str, value: Any) -> str:
    return f"{value / 2**30:.1f} GiB" if key == "memory_bytes" else str(value)
