"""An HTML page on an output folder: counts, rules and classes; nothing of a patient."""

from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from privacy.deidentify import manifest
from privacy.deidentify.states import explain

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b2733; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p.lead { color: #51606f; margin-top: 0 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px
solid #dde3ea; vertical-align: top }
th { font-weight: 600; color: #51606f } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space:
nowrap }
tr.sum td { font-weight: 600; border-top: 2px solid #9fb0c0 } code { font-size: .9em; overflow-wrap: anywhere } td code { white-space: nowrap }
.bar { display: flex; height: 1.1rem; border-radius: .3rem; overflow: hidden; margin: 1rem 0 }
.deidentified { background: #2b8a5a } .duplicate { background: #8fb8de } .skipped { background: #c9d1d9 } .quarantined
{ background: #d97b29 }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin-right: .4rem; vertical-align:
-.05rem }
"""


def write(out: Path, target: Path) -> Path:
    """Write the page for `out` to `target`.  DataError where `out` has no manifest."""
    summary = manifest.read_summary(out)
    classes: Counter[str] = Counter()
    pixels: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    warnings: Counter[str] = Counter()
    size = 0
    for row in manifest.read(out):
        classes[row["class"]] += 1
        pixels[row["pixels"]] += 1
        elements.update(row["elements"])
        warnings.update(row["warnings"])
        size += row["bytes"]
    target.write_text(_page(summary, classes, pixels, elements, warnings, size), encoding="utf-8")
    return target


def _page(
    summary: dict[str, Any],
    classes: Counter[str],
    pixels: Counter[str],
    elements: Counter[str],
    warnings: Counter[str],
    size: int,
) -> str:
    states = summary["states"]
    held = [(code, count, explain(code)) for code, count in sorted(summary["codes"].items(), key=lambda entry: -entry[1])]
    parts = [
        "<h1>DICOM de-identification</h1>",
        f'<p class="lead">{summary["inputs"]:,} inputs, {summary["outputs"]:,} outputs ({size / 1e6:,.1f} MB). '
        f"{escape(summary['standard'])}, rules <code>{escape(summary['rule_set'][:16])}</code>.</p>",
        _bar(states),
        "<h2>Every input in one state</h2>",
        _table(
            [(f'<span class="key {escape(state)}"></span>{escape(state)}', count) for state, count in states.items()],
            ["state", "files"],
            summary["inputs"],
        ),
        "<h2>Held back or skipped, and why</h2>",
        _table(
            [(f"<code>{escape(code)}</code>", escape(why), count) for code, count, why in held],
            ["code", "meaning", "files"],
        ),
        "<h2>What was done</h2>",
        _table(
            [(f"<code>{code}</code>", escape(meaning)) for code, meaning in summary["profile"].items()],
            ["CID 7050", "option"],
        ),
        f"<p>{escape(_heads(summary.get('policy', {})))}</p>",
        "<h2>Output by class</h2>",
        _table([(escape(name), count) for name, count in classes.most_common()], ["class", "files"], sum(classes.values())),
        "<h2>Pixels</h2>",
        _table([(escape(name), count) for name, count in pixels.most_common()], ["pixels", "files"]),
        "<h2>Elements</h2>",
        _table([(escape(name), count) for name, count in elements.most_common()], ["became", "elements"]),
        *(["<h2>Remarks</h2>", _table([(escape(n), c) for n, c in warnings.most_common()], ["remark", "files"])] if warnings else []),
        f'<p class="lead">Manifest SHA-256 <code>{escape(summary["manifest_sha256"])}</code></p>',
    ]
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>DICOM de-identification</title>'
    return head + f"<style>{_STYLE}</style></head><body>" + "\n".join(parts) + "</body></html>\n"


def _heads(policy: dict[str, Any]) -> str:
    """What was done with volumes of heads."""
    if policy.get("head_volumes") != "allow":
        return "Volumes of the head, from which a face can be rendered, are held back."
    return f"Volumes of the head, from which a face can be rendered, are let through: {policy.get('head_volumes_reason', '')}."


def _bar(states: dict[str, int]) -> str:
    total = sum(states.values()) or 1
    parts = [
        f'<div class="{escape(s)}" style="width:{100 * n / total:.3f}%" title="{escape(s)}: {n:,}"></div>' for s, n in states.items() if n
    ]
    return f'<div class="bar">{"".join(parts)}</div>'


def _table(rows: list[tuple[Any, ...]], columns: list[str], total: int | None = None) -> str:
    if not rows:
        return "<p>None.</p>"
    numbers = [isinstance(cell, int) for cell in rows[0]]
    head = "".join(f"<th{' class=n' if number else ''}>{escape(column)}</th>" for column, number in zip(columns, numbers, strict=True))
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    last = f'<tr class="sum"><td>all</td>{_cell(total)}</tr>' if total is not None else ""
    return f"<table><tr>{head}</tr>{body}{last}</table>"


def _cell(value: Any) -> str:
    return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f"<td>{value}</td>"
