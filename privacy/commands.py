"""`fedvision privacy`: what a plan costs, before anything is spent."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvision.cli import Config, Settings
from privacy.account_commands import app as accounts
from privacy.ledger.commands import spent, verify
from privacy.membership_commands import identities, rosters

if TYPE_CHECKING:
    from fedvision.types import Guarantee
    from privacy.accountants import Phase

app = typer.Typer(no_args_is_help=True, help="What a run promises, what it costs, and whether the promise can be kept.")
app.add_typer(accounts, name="account")
app.add_typer(identities, name="identity")
app.add_typer(rosters, name="roster")
app.command(epilog="Example: fedvision privacy verify runs/demo-dp --roster roster.json")(verify)
app.command(epilog="Example: fedvision privacy spent runs/demo-dp")(spent)

Json = Annotated[bool, typer.Option("--json", help="One object on the last line of stdout.")]


@app.command(epilog="Example: fedvision privacy epsilon --noise-multiplier 1 --sampling-rate 0.01 --steps 1000 --delta 1e-5 --json")
def epsilon(
    delta: Annotated[float, typer.Option(help="Chance that the promise fails; well below one over the number of units.")],
    noise_multiplier: Annotated[float | None, typer.Option(help="Standard deviation of the noise over the clip norm.")] = None,
    sampling_rate: Annotated[float | None, typer.Option(help="Chance of each unit to be in a step; 1 = all.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of noisy steps.")] = None,
    phase: Annotated[
        list[str], typer.Option(metavar="S,Q,T", help="A further phase: noise multiplier, rate, steps; may be repeated.")
    ] = [],  # noqa: B006
    accountant: Annotated[str, typer.Option(help="pld, rdp or prv.")] = "pld",
    relation: Annotated[str, typer.Option(help="add_remove, replace_one or zero_out.")] = "add_remove",
    unit: Annotated[str, typer.Option(help="Whom the figure is for: example, subject or site.")] = "example",
    as_json: Json = False,
) -> None:
    """ε of phases of noisy steps, composed."""
    from privacy.accountants import guarantee

    phases = _phases(noise_multiplier, sampling_rate, steps, phase)
    found = guarantee(phases, delta, _unit(unit), relation, accountant)
    _say(found, as_json)


def _phases(sigma: float | None, rate: float | None, steps: int | None, more: list[str]) -> list["Phase"]:
    from fedvision.errors import ConfigError
    from privacy.accountants import Phase

    given = {"--noise-multiplier": sigma, "--sampling-rate": rate, "--steps": steps}
    missing = [name for name, value in given.items() if value is None]
    if missing and (len(missing) < 3 or not more):
        raise ConfigError(f"{', '.join(missing)}: missing; a phase has a noise multiplier, a sampling rate and a number of steps")
    phases = [] if sigma is None or rate is None or steps is None else [Phase(sigma, rate, steps)]
    for text in more:
        try:
            s, q, t = text.split(",")
            phases.append(Phase(float(s), float(q), int(t)))
        except ValueError:
            raise ConfigError(
                f"--phase {text!r}: write it as noise multiplier, sampling rate, steps, for example --phase 1.1,0.02,500"
            ) from None
    return phases


def _unit(name: str) -> str:
    from fedvision.errors import ConfigError

    if name not in ("example", "subject", "site"):
        raise ConfigError(f"--unit {name!r}: allowed are example, subject, site")
    return name


def _say(found: "Guarantee", as_json: bool) -> None:
    from dataclasses import asdict

    print(json.dumps(asdict(found)) if as_json else found)


@app.command(epilog="Example: fedvision privacy plan configs/quickstart_dp.yaml --out plan.png")
def plan(
    config: Config,
    settings: Settings = [],  # noqa: B006  (typer copies it)
    out: Annotated[Path | None, typer.Option(help="The picture, PNG; default: NAME-privacy.png in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """The noise for a target ε, or ε for given noise; what else could be had; and a picture."""
    from fedvision.experiment import load
    from privacy.planning import alternatives, draw, facts, told

    experiment = load(config, settings)
    known = facts(experiment)
    others = alternatives(experiment, known)
    picture = draw(experiment, known, others, out or Path(f"{experiment.name}-privacy.png"))
    if as_json:
        print(json.dumps({**known.as_json(), "alternatives": [row.as_json() for row in others], "picture": str(picture)}))
        return
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for part in told(known, others):
        console.print(part)
    print(f"picture: {picture}")


@app.command(name="check-model", epilog="Example: fedvision privacy check-model configs/quickstart_dp.yaml")
def check_model(config: Config, settings: Settings = [], as_json: Json = False) -> None:  # noqa: B006
    """Whether this model and loss can be protected: the claims that the promise rests on, tried on the model itself."""
    from fedvision.data.federation import open_dataset
    from fedvision.errors import ConfigError
    from fedvision.experiment import load
    from privacy.check_model import check_experiment

    experiment = load(config, settings)
    if experiment.privacy is None:
        raise ConfigError(f"{config}: privacy = null, so nothing is promised of this model; add a privacy block")
    dataset = open_dataset(experiment)
    findings = check_experiment(experiment, dataset.shape, dataset.outputs)
    if as_json:
        print(json.dumps({"model": experiment.model.name, "passed": True, "findings": [vars(f) for f in findings]}))
        return
    for finding in findings:
        print(f"ok: {finding}")
    print(f"{experiment.model.name} can be protected by {experiment.privacy.mechanism}")


@app.command(epilog="Example: fedvision privacy audit configs/quickstart_dp.yaml --set privacy.audit.canaries=1000")
def audit(
    target: Annotated[Path, typer.Argument(help="A run folder with canaries, or a config to train with them.", metavar="RUN|CONFIG")],
    settings: Settings = [],  # noqa: B006  (typer copies it)
    out: Annotated[
        Path | None, typer.Option(help="The folder of the run that a config is trained in; default: runs/NAME-audit-TIME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Attack a run with its own canaries: a lower bound on ε beside the claim.  Exit 1 where the claim is refuted, 2 without canaries."""
    from fedvision.errors import ConfigError
    from privacy.attacks.audit import audited

    if target.is_dir() and (settings or out is not None):
        raise ConfigError(f"{target} is a run that is done: --set and --out are for a config that is to be trained")
    run = target if target.is_dir() else _train_with_canaries(target, settings, out)
    verdict = audited(run)
    if as_json:
        print(json.dumps({"run_dir": str(run), **verdict.as_json()}))
    else:
        print(*verdict.words(), sep="\n")
    if verdict.alarm:
        raise typer.Exit(1)


def _train_with_canaries(config: Path, settings: list[str], out: Path | None) -> Path:
    """The folder of a new run, trained by `fedvision simulate`: the package above this one, found as its users find it."""
    from datetime import datetime
    from importlib.metadata import entry_points

    from fedvision.errors import ConfigError
    from fedvision.experiment import load
    from fedvision.protections import Central, DpSgd

    experiment = load(config, settings)
    spec = experiment.privacy
    if not isinstance(spec, DpSgd | Central):
        raise ConfigError(
            f"{config}: privacy.mechanism = {getattr(spec, 'mechanism', None)}: canaries are for noise on sums, dp_sgd or central"
        )
    more = [] if spec.audit is not None else ["privacy.audit.canaries=1000"]
    run = out or Path("runs") / f"{experiment.name}-audit-{datetime.now():%Y%m%d-%H%M%S}"
    (simulate,) = entry_points(group="fedvision.commands", name="simulate")
    simulate.load()(config, settings=[*settings, *more], out=run)
    return run


@app.command(epilog="Example: fedvision privacy report runs/quickstart_dp-simulate-20260101-120000")
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a private run.", metavar="RUN")],
    roster: Annotated[Path | None, typer.Option(metavar="FILE", help="The run's public keys, where they are not this user's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page; default: privacy.html in the run folder.")] = None,
) -> None:
    """Draw a page for a privacy officer: the promise, what was spent, what was tried against it, what it does not cover."""
    from privacy.report import draw_privacy

    print(draw_privacy(run, roster, out))
