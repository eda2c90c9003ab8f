"""Who holds what, as a picture and a table: the partition before anything trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvision.data.federation import Federated, open_federated
from fedvision.data.site import Examples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedvision.experiment import Experiment

_BARS = 60  # sites up to which each has a bar of its own; more become a heat map
_BINS = 200  # columns of the heat map at most
_STRIPS = 10  # holders whose images are shown
_IN_A_STRIP = 9
_LEGEND = 20  # classes up to which each has an entry in the legend


def show(experiment: "Experiment", out_png: Path | None = None) -> str:
    """Open the experiment's data, write its picture to `out_png` where one is given, and return a table for rich."""
    federated = open_federated(experiment)
    if out_png is not None:
        figure = draw_partition(federated)
        figure.savefig(out_png, dpi=110)
    return table(federated)


# ---------------------------------------------------------------------------------------------------------- the table


def table(federated: Federated, most: int = 20) -> str:
    """Sites, sizes and label skew as text with rich markup; the first `most` sites have a line each."""
    from rich.markup import escape

    counts = federated.partition.counts(federated.dataset.labels, len(federated.dataset.classes))
    channels, *sides = federated.shape
    sizes = counts[:-1].sum((1, 2))
    lines = [
        f"[bold]{federated.dataset.name}[/bold]: {len(federated.dataset):,} {'images' if len(sides) == 2 else 'volumes'} of "
        f"{' × '.join(map(str, reversed(sides)))} × {channels}, "
        f"{len(federated.dataset.classes)} classes, {len(federated.sites):,} sites",
        f"a site holds {sizes.min():,} to {sizes.max():,} images, median {int(np.median(sizes)):,}; "
        f"label skew {skew(counts[:-1].sum(1)):.2f} (0 = all alike, 1 = nothing in common)",
        "",
        f"[bold]{'site':24} {'train':>7} {'valid.':>7} {'test':>7}  {_by_class(federated)}[/bold]",
    ]
    for number in range(min(most, len(federated.sites))):
        lines.append(_line(escape(federated.sites[number]), counts[number], federated.dataset.classes))
    if len(federated.sites) > most:
        lines.append(f"... and {len(federated.sites) - most:,} more")
    if counts[-1].any():
        lines.append(_line("the server", counts[-1], federated.dataset.classes))
    lines += ["", *(f"note: {escape(note)}" for note in federated.notes)]
    return "\n".join(lines).rstrip()


def _by_class(federated: Federated) -> str:
    """What an image counts under."""
    if federated.dataset.has_boxes:
        return "images by the class of most of their boxes"
    return "images by the class that each is richest in" if federated.dataset.has_masks else "largest classes"


def _line(name: str, counts: np.ndarray, classes: tuple[str, ...]) -> str:
    from rich.markup import escape

    held = counts.sum(0)
    largest = [k for k in np.argsort(-held, kind="stable")[:3] if held[k]]
    shares = ", ".join(f"{escape(classes[k])} {held[k] / held.sum():.0%}" for k in largest)
    train, validation, test = counts.sum(1)
    return f"{name:24} {train:7,} {validation:7,} {test:7,}  {shares}"


def skew(counts: np.ndarray) -> float:
    """Mean total variation distance between a site's labels and all labels, each site weighing by its size.

    counts: [S, classes].

    >>> skew(np.array([[5, 5], [1, 1]])), skew(np.array([[4, 0], [0, 4]]))
    (0.0, 0.5)
    """
    total = counts.sum()
    size = counts.sum(1, keepdims=True)
    distance = np.abs(counts / np.maximum(size, 1) - counts.sum(0) / total).sum(1) / 2
    return float((distance * size[:, 0]).sum() / total)


# -------------------------------------------------------------------------------------------------------- the picture


def draw_partition(federated: Federated) -> "Figure":
    """Class counts of each site and the server, and sample images of several sites through their own cameras."""
    from matplotlib.figure import Figure

    counts = federated.partition.counts(federated.dataset.labels, len(federated.dataset.classes))
    figure = Figure(figsize=(12, 8.5), layout="constrained")
    strips = min(_STRIPS, len(federated.sites) + bool(counts[-1].any()))
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.3, max(2, -(-strips // 2)) / 5))
    above, below = halves
    above.suptitle(_title(federated, counts), x=0.01, ha="left", fontsize=11)
    server = bool(counts[-1].any())
    if len(federated.sites) <= _BARS:
        panels = _panels(above, [max(10, len(federated.sites)), 1.2][: 1 + server])
        _bars(panels[0], federated.sites, counts[:-1].sum(1))
        if federated.dataset.has_masks or federated.dataset.has_boxes:
            panels[0].set_ylabel(_by_class(federated))
    else:
        panels = _panels(above, [10, 3, 1][: 2 + server])
        _heat_map(panels[0], above, federated.dataset.classes, counts[:-1].sum(1))
        _sizes(panels[1], counts[:-1].sum((1, 2)))
    if server:
        _bars(panels[-1], ("the server",), counts[-1:].sum(1))
        panels[-1].set_ylabel("")
    if len(federated.dataset.classes) <= _LEGEND and (server or len(federated.sites) <= _BARS):
        _legend(above, federated.dataset.classes)
    _samples(below, federated, counts)
    return figure


def _panels(figure: Any, widths: Sequence[float]) -> Sequence["Axes"]:
    panels: Sequence[Axes] = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    return panels


def _title(federated: Federated, counts: np.ndarray) -> str:
    server = f"; the server holds {counts[-1].sum():,} more" if counts[-1].any() else ""
    return (
        f"{federated.dataset.name}: {counts[:-1].sum():,} images at {len(federated.sites):,} sites, label skew "
        f"{skew(counts[:-1].sum(1)):.2f}{server}"
    )


def _bars(axes: "Axes", names: Sequence[str], held: np.ndarray) -> None:
    """A bar for each holder, stacked by class; held: [holders, classes]."""
    bottom = np.zeros(len(names))
    for k, colour in enumerate(_colours(held.shape[1])):
        axes.bar(range(len(names)), held[:, k], 0.85, bottom, color=colour, linewidth=0)
        bottom += held[:, k]
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 0, fontsize=8)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 1.04 * bottom.max())
    axes.set_ylabel("images")
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Any, classes: tuple[str, ...]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=name) for colour, name in zip(_colours(len(classes)), classes, strict=True)]
    figure.legend(handles=patches[::-1], title="class", loc="outside right upper", frameon=False, fontsize=8)


def _heat_map(axes: "Axes", figure: Any, classes: tuple[str, ...], held: np.ndarray) -> None:
    """Shares of the classes; columns are sites by their largest class, some together where they are many."""
    shares = held / np.maximum(held.sum(1, keepdims=True), 1)
    order = np.lexsort((-shares.max(1), shares.argmax(1)))
    bins = min(_BINS, len(order))
    mean = np.stack([shares[together].mean(0) for together in np.array_split(order, bins)], 1)
    mesh = axes.imshow(mean, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(mesh, ax=axes, label="share of a site's images", pad=0.01)
    step = -(-len(classes) // 25)
    axes.set_yticks(range(0, len(classes), step), classes[::step], fontsize=8)
    axes.set_ylabel("class")
    together = f", about {len(order) / bins:.0f} a column" if bins < len(order) else ""
    axes.set_xlabel(f"{len(order):,} sites by their largest class{together}")
    axes.set_xticks([])


def _sizes(axes: "Axes", sizes: np.ndarray) -> None:
    wide = sizes.max() > 20 * max(1, sizes.min())
    low, high = max(1, sizes.min()), sizes.max() + 1
    even = np.arange(low, high + 1) - 0.5 if high - low < 25 else np.linspace(low, high, 25)
    axes.hist(sizes, list(np.geomspace(low, high, 25) if wide else even), color="tab:blue")
    axes.set_xscale("log" if wide else "linear")
    axes.set_xlabel("images of a site")
    axes.set_ylabel("sites")
    axes.spines[["top", "right"]].set_visible(False)


def _colours(classes: int) -> list[Any]:
    import matplotlib

    name = "tab10" if classes <= 10 else "tab20" if classes <= 20 else "turbo"
    palette = matplotlib.colormaps[name]
    return [palette(k if classes <= 20 else k / (classes - 1)) for k in range(classes)]


def _samples(figure: Any, federated: Federated, counts: np.ndarray) -> None:
    """A strip of images each for the server and for some sites of at least middling size, in their order."""
    sizes = counts[:-1].sum((1, 2))
    parts = [("the server", federated.server(part)) for part in ("test", "validation")]
    strips = [(name, examples) for name, examples in parts if len(examples)][:1]
    candidates = np.flatnonzero(sizes >= (np.median(sizes) if len(sizes) > _STRIPS - len(strips) else 0))
    for n in np.unique(np.linspace(0, len(candidates) - 1, _STRIPS - len(strips)).astype(int)):
        id = federated.sites[candidates[n]]
        strips.append((id, federated.site(id).train))
    grid = figure.subplots(-(-len(strips) // 2), 2, squeeze=False).T.ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (name, examples) in zip(grid, strips, strict=False):
        strip = _strip(examples)
        axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if strip.shape[0] < 40 else None)
        axes.set_title(name, loc="left", fontsize=8, pad=2)


def _strip(examples: Examples) -> np.ndarray:
    """Some of the examples beside each other, uint8 [H, width] or [H, width, 3], on white where they are few."""
    at = np.unique(np.linspace(0, len(examples) - 1, _IN_A_STRIP).astype(int))
    images = examples.images(at)
    if examples.source.dataset.has_masks:
        images = _with_masks(examples, at, images)
    elif examples.source.dataset.has_boxes:
        images = _with_boxes(examples, at, images)
    elif images.shape[1] not in {1, 3}:
        images = images[:, :1]
    _, channels, height, width = images.shape
    gap = max(1, width // 14)
    strip = np.full((height, _IN_A_STRIP * (width + gap) - gap, channels), 255, np.uint8)
    for place, image in enumerate(images):
        left = place * (width + gap)
        strip[:, left : left + width] = image.transpose(1, 2, 0)
    return strip[..., 0] if channels == 1 else strip


def _with_boxes(examples: Examples, at: np.ndarray, images: np.ndarray) -> np.ndarray:
    """uint8 [n,3,H',W']: the images, enlarged, with their boxes."""
    from fedvision.tasks.drawing import boxed

    rows, classes = examples.batch(at).targets.numpy(), examples.source.dataset.classes
    return np.stack([boxed(image, boxes, classes).transpose(2, 0, 1) for image, boxes in zip(images, rows, strict=True)])


def _with_masks(examples: Examples, at: np.ndarray, images: np.ndarray) -> np.ndarray:
    """uint8 [n,3,H,W]: the images under their masks; of volumes the middle slice."""
    from fedvision.tasks.painting import overlaid

    masks, classes = examples.batch(at).targets.numpy(), len(examples.source.dataset.classes)
    return np.stack([overlaid(image, mask, classes).transpose(2, 0, 1) for image, mask in zip(images, masks, strict=True)])
