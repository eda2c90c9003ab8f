"""Plots with a cell for each pair: site and round, site and class, true and predicted class."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fedvision.tracking.svg import (
    CHARACTER,
    WIDTH,
    label,
    legend,
    picture,
    rectangle,
    rule,
    scale,
    short,
    tint_image,
    whole_ticks,
)

GLYPHS = {  # a shape as well as a colour for each way a round can go for a site, in a cell of 1 × 1
    "answered": ("s0 fill", "M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h-{w:.1f}z"),
    "missing": ("muted fill", "M{x:.1f} {m:.1f}h{w:.1f}v1.6h-{w:.1f}z"),
    "declined": ("s4 fill", "M{x:.1f} {b:.1f}h{w:.1f}l-{u:.1f} -{h:.1f}z"),
    "refused": ("s1 fill", "M{c:.1f} {y:.1f}l{u:.1f} {v:.1f}l-{u:.1f} {v:.1f}l-{u:.1f} -{v:.1f}z"),
}


def participation(states: Mapping[str, Mapping[int, str]], rounds: int) -> Markup:
    """A row a site, a column a round (from 0), a mark where it was asked: {site: {round: "answered"}}."""
    room, height, top = min(150.0, 14 + CHARACTER * max(map(len, states))), 14.0, 6.0
    width = min(22.0, (WIDTH - room - 4) / rounds)
    shapes: dict[str, list[str]] = {name: [] for name in GLYPHS}
    parts = []
    for index, (site, row) in enumerate(states.items()):
        y = top + index * height
        parts.append(label(room - 8, y + height / 2 + 4, short(site, int((room - 14) / CHARACTER)), "end", full=site))
        parts.append(rule(room, y + height / 2, room + rounds * width, y + height / 2, "grid"))
        for at, state in row.items():
            shapes[state].append(_glyph(state, room + at * width, y, width, height))
    parts += [f'<path class="{GLYPHS[state][0]}" d="{"".join(drawn)}"/>' for state, drawn in shapes.items() if drawn]
    bottom, end = top + height * len(states), room + rounds * width
    across = scale(0.5, rounds + 0.5, room, end)
    parts += [label(across(at), bottom + 16, str(at), "middle") for at in whole_ticks(1, rounds)]
    parts.append(label(end, bottom + 31, "round", "end", "axis"))
    used = [(f"{css.removesuffix(' fill')} glyph {state}", state) for state, (css, _) in GLYPHS.items() if shapes[state]]
    return legend(used) + picture(bottom + 36, parts, "who took part in which round")


def _glyph(state: str, left: float, top: float, width: float, height: float) -> str:
    """The mark of a state in a cell, with a margin."""
    x, y, w, h = left + width * 0.1, top + height * 0.14, width * 0.8, height * 0.72
    return GLYPHS[state][1].format(x=x, y=y, w=w, h=h, m=y + h / 2 - 0.8, b=y + h, c=x + w / 2, u=w / 2, v=h / 2)


def heat_map(
    rows: Mapping[str, Sequence[float]],
    columns: Sequence[str],
    names: tuple[str, str],
    shares: Mapping[str, Sequence[float]],
) -> Markup:
    """Counts as tints, with the numbers in the cells where they fit.  names: of the rows and of the columns.

    shares: 0..1 for each cell, what its tint tells.
    """
    if len(rows) > 60 or len(columns) > 30:
        return _heat_picture(rows, columns, names, shares)
    room = min(150.0, 22 + CHARACTER * max(map(len, rows)))
    width = min(max(52.0, max(map(len, columns)) * CHARACTER + 10), (WIDTH - room - 4) / len(columns))
    height, top = min(30.0 if len(rows) <= 12 else 17.0, max(13.0, width * 0.62)), 30.0
    digits = max(len(f"{count:,}") for row in rows.values() for count in row)
    parts = []
    for y_index, (row, counts) in enumerate(rows.items()):
        y = top + y_index * height
        parts.append(label(room - 6, y + height / 2 + 4, short(row, int((room - 20) / CHARACTER)), "end", full=row))
        for x_index, (count, share) in enumerate(zip(counts, shares[row], strict=True)):
            x = room + x_index * width
            parts.append(
                rectangle(
                    x + 0.5,
                    y + 0.5,
                    width - 1,
                    height - 1,
                    "cell",
                    f"{row}, {columns[x_index]}: {count:,}",
                    0.04 + 0.96 * share,
                )
            )
            if count and digits * CHARACTER + 3 < width:
                parts.append(label(x + width / 2, y + height / 2 + 4, f"{count:,}", "middle", "over" if share > 0.55 else "strong"))
    fits = max(map(len, columns)) * CHARACTER + 2 < width
    fitting = max(2, int((width - 8) / CHARACTER))
    step = 1 if fits or width > 26 else -(-22 // int(max(1, width)))
    parts += [
        label(room + (index + 0.5) * width, top - 6, short(column, fitting * step), "middle", full=column)
        for index, column in enumerate(columns)
        if index % step == 0
    ]
    parts.append(label(room + len(columns) * width, 10, f"{names[1]} →", "end", "axis"))
    parts.append(label(2, 10, f"{names[0]} ↓", "start", "axis"))
    return picture(top + height * len(rows) + 6, parts, f"{names[0]} by {names[1]}")


def _heat_picture(
    rows: Mapping[str, Sequence[float]],
    columns: Sequence[str],
    names: tuple[str, str],
    shares: Mapping[str, Sequence[float]],
) -> Markup:
    """The same for thousands of cells: an image of a pixel each, stretched."""
    top, room, height = 30.0, 34.0, min(420.0, max(140.0, 5.0 * len(rows)))
    width = WIDTH - room - 4
    image = tint_image([[0.04 + 0.96 * share for share in shares[row]] for row in rows])
    parts = [
        f'<image class="pixels" href="{image}" x="{room}" y="{top}" width="{width}" height="{height:.0f}" preserveAspectRatio="none"/>',
        label(WIDTH - 4, 10, f"{names[1]} → ({len(columns):,})", "end", "axis"),
        label(2, 10, f"{names[0]} ↓ ({len(rows):,})", "start", "axis"),
    ]
    each = width / len(columns)
    if max(map(len, columns)) * CHARACTER + 2 < each:
        parts += [label(room + (index + 0.5) * each, top - 6, column, "middle") for index, column in enumerate(columns)]
    return picture(top + height + 6, parts, f"{names[0]} by {names[1]}")
