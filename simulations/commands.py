"""The sub-commands that run things: simulate, centralised, local."""

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedvision.cli import Config, Settings

if TYPE_CHECKING:
    from fedvision.experiment import Experiment
    from fedvision.tracking.folder import RunFolder

Out = Annotated[Path | None, typer.Option(help="The run folder; default: runs/NAME-KIND-TIME.")]
Json = Annotated[bool, typer.Option("--json", help="Last line of stdout: one object with run_dir, rounds, metrics, model_sha256, seconds.")]


def simulate(
    config: Annotated[
        Path | None, typer.Argument(help="A YAML file; may be left out with --resume.", metavar="CONFIG", show_default=False)
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="inline, ray or flower (where the sites' work is done; the result is the same), or vmap (many small sites at once; float tolerance)."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes (ray, flower).")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster that is already up, for --engine ray.")] = None,
    settings: Settings = [],  # noqa: B006  (typer copies it)
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(help="A run folder to go on with, after an interruption or a crash.")] = None,
    as_json: Json = False,
) -> None:
    """Train a model federated over simulated sites."""
    from fedvision.errors import ConfigError

    if resume is not None and out is not None:
        raise ConfigError(f"--resume {resume} and --out {out} exclude each other: a resumed run stays in its folder")
    if config is None and resume is None:
        raise ConfigError("simulate needs a CONFIG, for example `fedvision simulate configs/quickstart.yaml`, or --resume RUN")
    if config is None:
        from simulations.run import config_of

        config = config_of(resume)  # type: ignore[arg-type]
    given = {"name": engine, "workers": workers, "address": address}
    if engine in {"inline", "vmap"} and workers is None:
        given["workers"] = 1
    if engine in {"inline", "flower", "vmap"} and address is None:
        given["address"] = "null"
    experiment = _load(config, [*settings, *(f"engine.{key}={value}" for key, value in given.items() if value is not None)])
    with _under_way(experiment):
        from simulations.run import simulate as run

        _finish(*run(experiment, out, resume), as_json)


def centralised(config: Config, settings: Settings = [], out: Out = None, as_json: Json = False) -> None:  # noqa: B006
    """Train on all sites' data pooled: the upper line."""
    experiment = _load(config, settings)
    from simulations.baselines import centralised as run

    _finish(*run(experiment, out), as_json)


def local(config: Config, settings: Settings = [], out: Out = None, as_json: Json = False) -> None:  # noqa: B006
    """Train each site alone: the lower line."""
    experiment = _load(config, settings)
    from simulations.baselines import local as run

    _finish(*run(experiment, out), as_json)


def _load(config: Path, settings: list[str]) -> "Experiment":
    from fedvision.experiment import load

    return load(config, settings)


def _under_way(experiment: "Experiment") -> AbstractContextManager[None]:
    """Ray takes seconds to come up: it may do so while torch is imported and the data is opened."""
    if experiment.engine.name != "ray":
        return nullcontext()
    from simulations.ray_cluster import ahead

    return ahead(experiment.engine)


def _finish(folder: "RunFolder", summary: dict[str, Any], as_json: bool) -> None:
    """The figures for a person on stderr, the object for a program on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, title=f"{summary['name']}, {summary['kind']}", title_justify="left", title_style="bold")
    for name, value in summary["metrics"].items():
        if not name.startswith("recall_"):
            table.add_row(name, f"{value:.4f}" if value is not None else "-")
    console = Console(stderr=True)
    console.print(table)
    if summary.get("privacy"):
        console.print(f"privacy: {summary['privacy']['text']}", highlight=False)
    page = folder.path / "report.html"
    console.print(f"run folder {folder.path}" + (f", report {page}" if page.exists() else ""), soft_wrap=True, highlight=False)
    if as_json:
        said = {"run_dir": str(folder.path), **{key: summary[key] for key in ("rounds", "metrics", "model_sha256", "seconds")}}
        if summary.get("privacy"):
            said["privacy"] = summary["privacy"]
        if summary["kind"] == "local":
            said["sites"] = summary["sites"]
        sys.stdout.write(json.dumps(said) + "\n")


simulate.example = "Example: fedvision simulate configs/quickstart.yaml --engine ray --workers 2 --set federation.rounds=5"  # type: ignore[attr-defined]
centralised.example = "Example: fedvision centralised configs/quickstart.yaml"  # type: ignore[attr-defined]
local.example = "Example: fedvision local configs/quickstart.yaml --json"  # type: ignore[attr-defined]
