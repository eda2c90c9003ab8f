"""`fedvision sweep`: the command."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedvision.cli import Settings

if TYPE_CHECKING:
    from simulations.sweep import Sweep


def sweep(
    config: Annotated[
        Path | None, typer.Argument(help="A YAML file; left out with --resume.", metavar="CONFIG", show_default=False)
    ] = None,
    over: Annotated[list[str], typer.Option(metavar="KEY=A,B", help="Values of one key; may be repeated, for a grid.")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each point, with the seeds from the config's on.")] = 1,
    jobs: Annotated[int | None, typer.Option(min=1, max=256, help="Runs at a time; default: one a core.", show_default=False)] = None,
    metric: Annotated[str | None, typer.Option(help="What the plot shows; default: evaluation.best.", show_default=False)] = None,
    settings: Settings = [],  # noqa: B006  (typer copies it)
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; default: runs/NAME-sweep-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="A sweep's folder to go on with, after an interruption or a crash.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Last line of stdout: sweep_dir, metric, points, runs, warnings.")] = False,
) -> None:
    """Many runs of one config, over values and seeds, into one table and plot."""
    from fedvision.errors import FedvisionError
    from simulations.sweep_table import draw, outcomes, warnings, write_tables

    begun = _sweep(config, over, seeds, metric, settings, out, resume, jobs)
    with begun.alone():
        _run(begun, jobs)
        found = outcomes(begun)
        write_tables(begun, found)
        draw(begun, found).savefig(begun.path / "sweep.png", dpi=110)
    _say(begun, found)
    if as_json:
        sys.stdout.write(json.dumps(_object(begun, found)) + "\n")
    failed = [outcome for outcome in found if outcome.status != "completed"]
    if failed:
        raise FedvisionError(
            f"{len(failed)} of {len(found)} runs failed: {warnings(failed)[0]}; mend it and go on with --resume {begun.path}"
        )


sweep.example = "Example: fedvision sweep configs/digits_iid.yaml --over training.learning_rate=0.02,0.1 --seeds 3"  # type: ignore[attr-defined]


def _sweep(
    config: Path | None,
    over: list[str],
    seeds: int,
    metric: str | None,
    settings: list[str],
    out: Path | None,
    resume: Path | None,
    jobs: int | None,
) -> "Sweep":
    """A new sweep, or the one to go on with, whose plan is fixed."""
    from fedvision.errors import ConfigError
    from fedvision.experiment import load
    from simulations.sweep import Sweep
    from simulations.sweep_runs import at_once

    if resume is not None:
        given = {
            "CONFIG": config,
            "--over": over,
            "--seeds": seeds if seeds != 1 else None,
            "--metric": metric,
            "--set": settings,
            "--out": out,
        }
        other = next((name for name, value in given.items() if value), None)
        if other is not None:
            raise ConfigError(f"--resume {resume} and {other} exclude each other: the plan of a sweep is fixed when it is begun")
        return Sweep.open(resume)
    if config is None:
        raise ConfigError("sweep needs a CONFIG, for example `fedvision sweep configs/digits_iid.yaml --seeds 3`, or --resume SWEEP")
    at_once(jobs, load(config, settings))  # refuses what cannot be, before a folder is made
    return Sweep.create(config, settings, over, seeds, metric, out)


def _run(begun: "Sweep", jobs: int | None) -> None:
    """Do what is due, a line on stderr for each run as it ends."""
    from fedvision.experiment import load
    from simulations.sweep import Run
    from simulations.sweep_runs import at_once, run_all, status
    from simulations.sweep_table import Outcome, outcome_of

    total = len(begun.plan.runs)
    done = sum(status(begun.folder(run)) == "completed" for run in begun.plan.runs)
    several = [run for run in begun.plan.runs if run.settings.get("engine.name", "inline") != "inline"]
    number = at_once(jobs, load(begun.config((several or begun.plan.runs)[0])))
    left = f", {done} of them done" if done else ""
    print(f"{begun.plan.name}: {total} runs{left}, {number} at a time, sweep folder {begun.path}", file=sys.stderr)

    def say(run: Run, failed: str | None) -> None:
        nonlocal done
        done += 1
        outcome: Outcome = outcome_of(run, begun.folder(run), begun.plan.metric)
        value = outcome.metrics.get(begun.plan.metric)
        figure = f"failed: {failed}" if failed is not None else f"{begun.plan.metric} {value:.4f}" if value is not None else "done"
        print(f"{done}/{total}  {run.point}, seed {run.seed}: {figure}", file=sys.stderr)

    run_all(begun, number, say)


def _say(begun: "Sweep", found: list[Any]) -> None:
    """The table for a person, on stderr."""
    from rich.console import Console
    from rich.table import Table

    from simulations.sweep_table import points, warnings

    plan = begun.plan
    table = Table(box=None, title=f"{plan.name}: {plan.metric}", title_justify="left", title_style="bold")
    for key in plan.over:
        table.add_column(key)
    for heading in ("runs", "mean ± std", "min", "max"):
        table.add_column(heading, justify="right")
    for settings, metrics in points(found):
        spread = metrics.get(plan.metric)
        figures = [str(spread.n), str(spread), f"{spread.min:.4f}", f"{spread.max:.4f}"] if spread is not None else ["0", "-", "-", "-"]
        table.add_row(*settings.values(), *figures)
    console = Console(stderr=True, soft_wrap=True)
    console.print(table)
    for warning in warnings(found):
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)
    console.print(f"sweep folder {begun.path}: table.csv, points.csv, sweep.png", highlight=False)


def _object(begun: "Sweep", found: list[Any]) -> dict[str, Any]:
    """What --json prints."""
    from dataclasses import asdict

    from simulations.sweep_table import points, warnings

    return {
        "sweep_dir": str(begun.path),
        "metric": begun.plan.metric,
        "points": [{"settings": dict(s), "metrics": {name: asdict(spread) for name, spread in m.items()}} for s, m in points(found)],
        "runs": [
            {
                "settings": dict(o.run.settings), "seed": o.run.seed, "status": o.status, "error": o.error, "metrics": dict(o.metrics),
                "model_sha256": o.model_sha256, "run_dir": str(begun.folder(o.run)),
            }
            for o in found
        ],
        "warnings": warnings(found),
    }  # fmt: skip
