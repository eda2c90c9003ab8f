"""The pictures of the privacy officer's page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from fedvision.tracking.plots import COLOURS, Curve, bars, curves, stacked_rows
from fedvision.tracking.svg import frame, label, legend, path, picture, scale, tick_text, ticks
from privacy.attacks.canaries import Shadow
from privacy.ledger.spent import Book
from privacy.plan import Plan
from privacy.tradeoff import Tradeoff

MOST_COUNTED = 13  # counts of rounds whose ε is computed for a curve: most of a second each
MOST_SITES = 12  # drawn one by one in the audit
BINS = 48


def spending(books: Sequence[Book], plan: Plan) -> Markup:
    """ε spent over the rounds, a line for the sites that spent alike, against the plan's."""
    last = max([plan.rounds, *(row.round + 1 for book in books for row in book.charges if row.round is not None)])
    alike: dict[tuple[int, ...], list[str]] = {}
    for book in books:
        alike.setdefault(_paid(book, last), []).append(book.site)
    shown = sorted({round(x) for x in np.linspace(0, last, min(last + 1, MOST_COUNTED))})
    drawn = []
    for colour, (paid, sites) in enumerate(sorted(alike.items(), key=lambda item: -item[0][-1])[:COLOURS]):
        points = [(number, plan.spent(min(paid[number], plan.rounds)).epsilon) for number in shown]
        drawn.append(Curve(_named(sites), points, colour))
    g = plan.guarantee
    return curves(drawn, "ε spent", {f"budget of the run, at δ = {g.delta:g} per {g.unit}": g.epsilon}, "rounds")  # fmt: skip


def _paid(book: Book, last: int) -> tuple[int, ...]:
    """Rounds that were paid by the end of round 0, 1, ... `last`."""
    paid = [0] * (last + 1)
    for row in book.charges:
        first = 0 if row.round is None else row.round + 1
        paid[first:] = [max(row.rounds, before) for before in paid[first:]]
    return tuple(paid)


def _named(sites: Sequence[str]) -> str:
    return ", ".join(sites[:2]) + (f" and {len(sites) - 2} more" if len(sites) > 2 else "")


def attackers(tradeoff: Tradeoff, wrongly: int) -> Markup:
    """The share that an attacker finds against the share that he accuses wrongly, from 0 to `wrongly` percent."""
    at = [wrongly * step / 200 for step in range(201)]
    found = [100 * share for share in tradeoff.curve([x / 100 for x in at])]
    axes = frame((0, wrongly), ticks(0, found[-1]), "accused wrongly, %")
    most = [(axes.x(x), axes.y(y)) for x, y in zip(at, found, strict=True)]
    chance = [(axes.x(0), axes.y(0)), (axes.x(wrongly), axes.y(wrongly))]
    parts = [*axes.parts, path([*most, *reversed(chance)], "s0 band", close=True), path(chance, "muted line dashed"), path(most, "s0 line")]
    named = [("s0 stroke", "found at most, %"), ("muted stroke dashed", "by chance")]
    return picture(axes.height, parts, f"found at most {found[-1]:.1f} % where {wrongly} % are accused wrongly") + legend(named)


def rounds(books: Sequence[Book], plan: Plan, records: Sequence[Mapping[str, Any]]) -> Markup:
    """For each site: rounds that it paid, asked and declined, and did not answer or was not asked in."""
    rows = {}
    for book in books:
        paid = 0 if book.last is None else book.last.rounds
        declined = sum(book.site in record.get("declined", {}) for record in records)
        rows[book.site] = [paid, declined, max(0, plan.rounds - paid - declined)]
    return stacked_rows(rows, ["paid", "declined", "missed, or not yet"], "rounds")


def scores(kept: Iterable[Shadow]) -> Markup:
    """How the scores of the canaries that took part lie beside those of the others."""
    every = list(kept)
    values, took_part = np.concatenate([s.scores for s in every]), np.concatenate([s.took_part for s in every])
    low, high = np.quantile(values, [0.001, 0.999])
    edges = np.linspace(low, max(high, low + 1e-9), BINS + 1)
    counts = [np.histogram(values[which], edges)[0] for which in (took_part, ~took_part)]
    axes = frame((0, BINS), ticks(0, float(max(c.max() for c in counts)), 5), "")
    parts = [part for part in axes.parts if 'class="grid"' in part]
    x = scale(float(low), float(edges[-1]), axes.left, axes.right)
    shown = [tick for tick in ticks(float(low), float(edges[-1])) if low <= tick <= edges[-1]]
    parts += [label(x(tick), axes.bottom + 16, tick_text(tick), "middle") for tick in shown]
    for colour, heights in zip(("s1", "s0"), counts, strict=True):
        top = [(axes.x(edge), axes.y(float(height))) for index, height in enumerate(heights) for edge in (index, index + 1)]
        parts += [
            path([(axes.x(0), axes.bottom), *top, (axes.x(BINS), axes.bottom)], f"{colour} band", close=True),
            path(top, f"{colour} line"),
        ]
    parts.append(label(axes.right, axes.bottom + 31, "score; number of canaries", "end", "axis"))
    return picture(axes.height, parts, "scores of the canaries") + legend([("s1 stroke", "took part"), ("s0 stroke", "did not")])


def attack(audit: Mapping[str, Any]) -> Markup:
    """Promise and bound side by side: of all sites together, and of each."""
    groups = {"all sites": audit, **dict(list(audit["sites"].items())[:MOST_SITES])}
    rows = {name: {"promised": found["claimed"]["epsilon"], "found, at least": found["bound"]["epsilon"]} for name, found in groups.items()}
    return bars(rows, "ε")
