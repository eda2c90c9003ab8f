"""`fedvision statistics`: what the sites' images are like, from sums alone, before anything trains."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvision.cli import Config, Settings
from fedvision.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedvision.data.statistics import Statistics

NOISE = 8.0  # σ where the config is private and nobody says another


def statistics(
    config: Config,
    settings: Settings = [],  # noqa: B006  (typer copies it)
    floor: Annotated[int, typer.Option(min=1, help="Fewest images behind a count that is told.")] = 10,
    noise: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="σ of the noise where the config is private, default 8; what it costs is printed and written.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The figures, YAML, for data.statistics; default: NAME-statistics.yaml here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="The picture, PNG; default: beside the figures.")] = None,
    spent: Annotated[
        Path | None,
        typer.Option(help="Folder for the ledgers where the config is private; default: beside the figures.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Last line of stdout: the figures, and where they were written.")] = False,
) -> None:
    """Mean, spread and histograms of the sites' training images, summed over the sites: masked, noised and charged as the run is."""
    from fedvision.data.statistics import federated_statistics, written
    from fedvision.experiment import load
    from fedvision.tracking.folder import write_atomically
    from simulations.masked_statistics import masked_over
    from simulations.private_statistics import private_statistics

    experiment = load(config, settings)
    figures = out or Path(f"{experiment.name}-statistics.yaml")
    if experiment.privacy is None:
        if noise is not None or spent is not None:
            raise ConfigError(
                "--noise, --spent: the config promises nothing (privacy = null), so the sums would be exact; set privacy, or leave them out"
            )
        found = federated_statistics(experiment, floor, masked_over)
    else:
        found = private_statistics(
            experiment, NOISE if noise is None else noise, spent or figures.with_name(f"{figures.stem}-spent"), say_on_stderr
        )
    drawn = picture or figures.with_suffix(".png")
    write_atomically(figures, written(found).encode())
    draw(found).savefig(drawn, dpi=110)
    _say(found, figures, drawn)
    if as_json:
        sys.stdout.write(json.dumps({**asdict(found), "out": str(figures), "picture": str(drawn)}) + "\n")


def say_on_stderr(text: str) -> None:
    """A word to the user."""
    typer.echo(text, err=True)


statistics.example = "Example: fedvision statistics configs/quickstart.yaml --out stats.yaml"  # type: ignore[attr-defined]


def _say(found: "Statistics", figures: Path, drawn: Path) -> None:
    from rich.console import Console

    from fedvision.types import Guarantee

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    of = found.released
    what, about = ("training images", "") if of is None else (f"{of.unit}s", "about ")
    console.print(
        f"[bold]{found.dataset}[/]: {about}{found.images:,} {what} at {found.sites:,} sites{', under masks' if found.masked else ''}"
    )
    if of is not None:
        console.print(
            f"privacy: {Guarantee(of.epsilon, of.delta, of.unit, of.relation, of.accountant)}, charged at each site; noise multiplier "
            f"{of.noise_multiplier:g}, a standard deviation of {of.spread:.1f} on the number of {of.unit}s; a run whose data.statistics these are "
            "says what both come to"
        )
    for channel, (mean, std) in enumerate(zip(found.mean, found.std, strict=True)):
        console.print(f"channel {channel}: mean {mean:.4f}, std {std:.4f}")
    for name, count in found.labels.items():
        console.print(
            f"  {name:24} {f'{count:,}' if count is not None else f'under {found.floor}, or withheld beside one that is'}", markup=False
        )
    if found.withheld:
        console.print(f"{found.withheld} cells of the histograms are withheld: fewer than {found.floor} images stand behind them")
    console.print(f"figures {figures}, picture {drawn}")


_NAMES = {1: ("grey",), 3: ("red", "green", "blue")}
_COLOURS = {"grey": "0.35", "red": "tab:red", "green": "tab:green", "blue": "tab:blue"}


def draw(found: "Statistics") -> "Figure":
    """Intensity by channel with its mean, and images by class; what is withheld is left open."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = _NAMES.get(len(found.mean), tuple(f"channel {c}" for c in range(len(found.mean))))
    for name, shares, mean, std in zip(names, found.intensity, found.mean, found.std, strict=True):
        values = np.array([np.nan if v is None else v for v in shares])
        edges = np.linspace(0, 1, len(values) + 1)
        left.stairs(
            values,
            edges,
            color=_COLOURS.get(name),
            fill=len(names) == 1,
            alpha=1 if len(names) > 1 else 0.5,
            label=f"{name}: {mean:.3f} ± {std:.3f}",
        )
        left.axvline(mean, color=_COLOURS.get(name), linestyle="--", linewidth=1)
    left.set(xlabel="intensity, 0 = black, 1 = white", ylabel="share of the pixels", xlim=(0, 1), yscale="log")
    left.legend(
        title="mean ± std",
        frameon=False,
        fontsize=9,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=len(names),
        columnspacing=1,
        handlelength=1,
    )
    counts = [0 if count is None else count for count in found.labels.values()]
    rows = range(len(counts))
    right.barh(rows, counts, color="tab:blue")
    for row, count in zip(rows, found.labels.values(), strict=True):
        if count is None:
            right.text(0, row, " withheld", va="center", color="0.4", fontsize=8)
    right.set_yticks(rows, list(found.labels), fontsize=8 if len(counts) <= 30 else 4)
    right.invert_yaxis()
    right.set_xlabel("training images, all sites together")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{found.dataset}: {found.images:,} images at {found.sites:,} sites, from {'masked ' if found.masked else ''}sums alone",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure
