"""What the plots are drawn with: scales, ticks, axes and legends as SVG text, coloured by the page's style sheet.

Drawn by hand rather than by a plotting library, so that a page is small, follows the reader's light or dark scheme, and
is drawn in milliseconds.  Every text that comes from outside goes through `escape`.
"""

import base64
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 560  # of every plot, in its own units; a text of 11 is legible from a phone to a wide screen
CHARACTER = 6.1  # mean width of a character of that text


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about `most` of them.

    >>> ticks(0, 1), ticks(0.13, 0.97)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    span = (high - low) or abs(high) or 1.0
    rough = span / max(1, most - 1)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    return [round(index * step, 12) for index in range(first, last + 1)]


def whole_ticks(low: int, high: int, most: int = 8) -> list[int]:
    """Whole numbers inside low..high, evenly apart, to name rounds by."""
    step = max(1, int(ticks(0, max(1, high - low), most)[1]))
    return sorted({low, *range(-(-low // step) * step, high + 1, step)} - {n for n in range(low + 1, low + step // 2 + 1)})


def tick_text(value: float) -> str:
    """A tick's number, short.

    >>> tick_text(0.2), tick_text(1500.0), tick_text(2000000.0), tick_text(0.0)
    ('0.2', '1,500', '2M', '0')
    """
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The map of low..high onto start..end."""
    factor = (end - start) / ((high - low) or 1.0)
    return lambda value: start + (value - low) * factor


def short(text: str, characters: int) -> str:
    """`text`, its middle left out where it is longer."""
    if len(text) <= characters:
        return text
    tail = (characters - 1) // 3
    return f"{text[: characters - 1 - tail]}…{text[-tail:]}" if tail else f"{text[: characters - 1]}…"


def label(x: float, y: float, text: str, anchor: str = "start", css: str = "", full: str | None = None) -> str:
    """A text; `full` is shown when one points at it."""
    title = f"<title>{escape(full)}</title>" if full is not None and full != text else ""
    kind = f' class="{css}"' if css else ""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{place}{kind}>{title}{escape(text)}</text>'


def rectangle(x: float, y: float, width: float, height: float, css: str, title: str = "", opacity: float | None = None) -> str:
    """A filled rectangle of the colour class `css`."""
    inside = f"<title>{escape(title)}</title>" if title else ""
    tint = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
    return f'<rect class="{css}" {place}{tint}>{inside}</rect>'


def rule(x1: float, y1: float, x2: float, y2: float, css: str = "grid") -> str:
    """A straight line."""
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def path(points: Iterable[tuple[float, float]], css: str, close: bool = False, title: str = "") -> str:
    """A line through points; `title` is shown when one points at it."""
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    drawn = f'<path class="{css}" d="M{steps}{"Z" if close else ""}"'
    return f"{drawn}><title>{escape(title)}</title></path>" if title else f"{drawn}/>"


def picture(height: float, parts: Iterable[str], says: str) -> Markup:
    """The plot made of `parts`; `says` is what a screen reader reads."""
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(says)}">{"".join(parts)}</svg>')


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """Names beside their marks: (colour class and mark, name)."""
    items = "".join(f'<li><i class="{css}"></i>{escape(name)}</li>' for css, name in entries)
    return Markup(f'<ul class="legend">{items}</ul>') if items else Markup("")


@dataclass(frozen=True)
class Frame:
    """The axes of a plot: where a value of x or y lies."""

    left: float
    top: float
    right: float
    bottom: float
    x: Callable[[float], float]
    y: Callable[[float], float]
    parts: tuple[str, ...]

    @property
    def height(self) -> float:
        """Of the whole picture, with the room for the text below."""
        return self.bottom + 36


def frame(xs: tuple[int, int], y_ticks: Sequence[float], x_name: str, height: float = 270, pad: float = 0.0) -> Frame:
    """Axes for whole numbers `xs` (first, last) across and `y_ticks` up; `pad` = room of the first and last x, in x."""
    texts = [tick_text(tick) for tick in y_ticks]
    left, top, right, bottom = 12 + CHARACTER * max(map(len, texts)), 8.0, WIDTH - 10.0, height - 36
    x, y = scale(xs[0] - pad, xs[1] + pad, left, right), scale(y_ticks[0], y_ticks[-1], bottom, top)
    if xs[0] == xs[1] and not pad:
        x = scale(xs[0] - 1, xs[0] + 1, left, right)
    parts = [
        rule(left, y(tick), right, y(tick)) + label(left - 6, y(tick) + 4, text, "end") for tick, text in zip(y_ticks, texts, strict=True)
    ]
    parts += [label(x(tick), bottom + 16, tick_text(tick), "middle") for tick in whole_ticks(*xs)]
    parts.append(label(right, bottom + 31, x_name, "end", "axis"))
    return Frame(left, top, right, bottom, x, y, tuple(parts))


def tint_image(tints: Sequence[Sequence[float]], colour: tuple[int, int, int] = (38, 118, 184)) -> str:
    """A PNG as a data: address, a pixel a number of 0..1, which is the opacity of `colour`: small for many cells."""
    height, width = len(tints), len(tints[0])
    rows = b"".join(b"\0" + b"".join(bytes((*colour, round(255 * min(1.0, max(0.0, tint))))) for tint in row) for row in tints)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()
