"""The pictures of the privacy officer's page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from fedvision.tracking.plots import COLOURS, Curve, bars, curves, stacked_rows
from fedvision.tracking.svg import frame, label, legend, path, picture, scale, tick_text, ticks
from privacy.accountants import Phase, epsilon
from privacy.ledger.spent import Book
from privacy.plan import COARSE, Plan
from privacy.tradeoff import Tradeoff

if TYPE_CHECKING:
    from privacy.attacks.canaries import Shadow

COUNTED = 12  # counts of rounds whose ε is computed for a curve: a tenth of a second each
MOST_SITES = 12  # drawn one by one in the audit
MOST_LIMITS = 4  # sites' own budgets that are drawn
BINS = 48


@dataclass(frozen=True)
class Spender:
    """Sites that spent alike.  paid: rounds that were paid by the end of round 0, 1, ...; held: rounds that their account holds."""

    sites: tuple[str, ...]
    paid: tuple[int, ...]
    held: int

    @property
    def name(self) -> str:
        """Their names, as many as are read."""
        return ", ".join(self.sites[:2]) + (f" and {len(self.sites) - 2} more" if len(self.sites) > 2 else "")


def spenders(books: Sequence[Book], plan: Plan) -> list[Spender]:
    """The sites by how they spent, those that spent most first."""
    last = max([plan.rounds, *(row.round + 1 for book in books for row in book.charges if row.round is not None)])
    alike: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for book in books:
        alike.setdefault((_paid(book, last), min(plan.rounds, book.held())), []).append(book.site)
    found = [Spender(tuple(sites), paid, held) for (paid, held), sites in alike.items()]
    return sorted(found, key=lambda s: (-s.paid[-1], s.sites))


def spending(books: Sequence[Book], plan: Plan) -> Markup:
    """ε spent over the rounds, a line for the sites that spent alike, against the run's budget and those of sites that have less."""
    groups, spent, g = spenders(books, plan), _spent(plan), plan.guarantee
    many = len(groups) > COLOURS
    drawn = [
        Curve(group.name, [(at, spent[min(paid, plan.rounds)]) for at, paid in enumerate(group.paid)], 7 if many else number, faint=many)
        for number, group in enumerate(groups)
    ]
    if many:
        named = {"spent most": drawn[0], "spent least": drawn[-1]}
        ends = [replace(curve, name=f"{what}: {curve.name}", colour=n, faint=False) for n, (what, curve) in enumerate(named.items())]
        drawn = [*ends, *drawn]  # the first are drawn last, over the others
    limits = [f"budget of the run, at δ = {g.delta:g} per {g.unit}", *(f"own budget: {s.name}" for s in _limited(groups, plan))]
    levels = [g.epsilon, *(spent[s.held] for s in _limited(groups, plan))]
    colours = [7, *(2 if many else groups.index(s) for s in _limited(groups, plan))]
    lines, tints = dict(zip(limits, levels, strict=True)), dict(zip(limits, colours, strict=True))
    return curves(drawn, "ε spent", lines, "rounds", tints, least=0.0)


def _limited(groups: Sequence[Spender], plan: Plan) -> list[Spender]:
    """Those whose account holds less than the plan, as many as are drawn."""
    return [group for group in groups if group.held < plan.rounds][:MOST_LIMITS]


def _spent(plan: Plan) -> list[float]:
    """ε of 0, 1, ... all rounds of a plan: by its accountant at some counts, and between them on a line over √count, which ε nearly
    is on; on a coarse grid, which is never below."""
    g, rounds = plan.guarantee, plan.rounds
    counts = sorted({0, 1, rounds, *(round(rounds * (step / COUNTED) ** 2) for step in range(COUNTED))})
    sums = [Phase(plan.noise_multiplier, plan.a_round.sampling_rate, plan.a_round.steps * n) for n in counts[1:-1]]
    known = [0.0, *(min(g.epsilon, epsilon([phase], g.delta, g.accountant, g.relation, COARSE)) for phase in sums), g.epsilon]
    return [float(value) for value in np.interp(np.sqrt(np.arange(rounds + 1)), np.sqrt(counts), known)]


def _paid(book: Book, last: int) -> tuple[int, ...]:
    """Rounds that were paid by the end of round 0, 1, ... `last`."""
    paid = [0] * (last + 1)
    for row in book.charges:
        first = 0 if row.round is None else row.round + 1
        paid[first:] = [max(row.rounds, before) for before in paid[first:]]
    return tuple(paid)


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


def rounds(rows: Mapping[str, tuple[int, int]], plan: Plan) -> Markup:
    """For each site of `rows`, (rounds paid, declined): those, and the rounds that it did not answer or was not asked in."""
    parts = {site: [paid, declined, max(0, plan.rounds - paid - declined)] for site, (paid, declined) in rows.items()}
    return stacked_rows(parts, ["paid", "declined", "missed, or not asked"], "rounds")


def scores(kept: "Iterable[Shadow]") -> Markup:
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
