"""`fedvision privacy account`: a site opens an account for its subjects, and sees what is left of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from privacy.budget import Budget
    from privacy.limits import Limit

app = typer.Typer(no_args_is_help=True, help="A site's own accounts: limits for a body of subjects, over all runs.")

Folder = Annotated[Path, typer.Argument(help="Folder of the account, on the site's own disk.", metavar="FOLDER")]
Head = Annotated[
    Path | None,
    typer.Option(help="File, kept apart from the folder, that remembers how far the account is; default: among this user's state."),
]
Json = Annotated[bool, typer.Option("--json", help="One object on the last line of stdout.")]


@app.command(
    name="open", epilog="Example: fedvision privacy account open /srv/patients --name patients --delta 1e-6 --unit subject --lifetime 8"
)
def open_(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Whom it protects; not a data set: those that share subjects share the account.")],
    delta: Annotated[float, typer.Option(help="δ of every limit; well below one over the number of units.")],
    lifetime: Annotated[float, typer.Option(help="ε over all runs that there will ever be.")],
    unit: Annotated[str, typer.Option(help="Whom the limits are for: example, subject or site.")] = "subject",
    relation: Annotated[str, typer.Option(help="What neighbours differ in: add_remove, replace_one or zero_out.")] = "add_remove",
    per_run: Annotated[float | None, typer.Option(help="ε of one run.")] = None,
    purpose: Annotated[list[str], typer.Option(metavar="NAME=ε", help="ε of all runs for a purpose; others are then declined. May be repeated.")] = [],  # noqa: B006
    examples: Annotated[int | None, typer.Option(help="Most examples of one subject, so that runs that protect examples can be counted.")] = None,
    head: Head = None,
) -> None:  # fmt: skip
    """Open an account.  Its limits are for good."""
    from privacy.budget import Budget
    from privacy.limits import Limit, Limits
    from privacy.site_account import head_of

    by_purpose = {which: Limit.of(epsilon, delta) for which, epsilon in map(_purpose, purpose)}
    run = None if per_run is None else Limit.of(per_run, delta)
    limits = Limits(delta, unit, relation, Limit.of(lifetime, delta), run, by_purpose, examples)
    kept = head or head_of(folder)
    Budget(folder, kept).open(name, limits)
    pointer = {"account": str(folder.resolve()), "head": str(kept.resolve()), "purpose": next(iter(by_purpose), "research")}
    print(f"{folder}: open for {name}; its head is remembered in {kept}, which is to be kept apart from it")
    print(f"a run is paid from it where the site's folder of the run holds account.json: {json.dumps(pointer)}")


def _purpose(text: str) -> tuple[str, float]:
    from fedvision.errors import ConfigError

    name, _, epsilon = text.partition("=")
    try:
        return name, float(epsilon)
    except ValueError:
        raise ConfigError(f"--purpose {text!r}: write it as name and ε, for example --purpose research=3") from None


@app.command(epilog="Example: fedvision privacy account show /srv/patients")
def show(folder: Folder, head: Head = None, as_json: Json = False) -> None:
    """What an account was opened with, what was spent, and what it declined; for the site's eyes."""
    from privacy.budget import Budget
    from privacy.site_account import head_of

    account = Budget(folder, head or head_of(folder)).read()
    said = standing(account)
    if as_json:
        print(json.dumps(said))
        return
    from rich.console import Console
    from rich.table import Table

    from fedvision.types import RELATIONS

    limits = account.limits
    assert limits is not None
    table = Table(box=None)
    for column in ("limit", "ε", "spent, ε", "used"):
        table.add_column(column, justify="left" if column == "limit" else "right")
    for row in said["limits"]:
        table.add_row(row["name"], f"{row['epsilon']:g}", f"{row['spent']:.3f}", f"{row['used']:.1%}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{account.name}: δ = {limits.delta:g} per {limits.unit} ({RELATIONS[limits.relation]})")
    console.print(table)
    console.print(f"{len(account.runs)} runs, {sum(run['rounds'] for run in said['runs'])} rounds paid, {len(account.declined)} declined")


def standing(account: "Budget") -> dict[str, Any]:
    """An account as one object: each limit with what was spent of it, and each run."""
    limits = account.limits
    assert limits is not None

    def row(name: str, limit: "Limit", spent: Any) -> dict[str, Any]:
        used = limit.used(spent, limits.delta)
        return {"name": name, "epsilon": limit.epsilon, "spent": limit.epsilon_of(spent, limits.delta), "used": used}

    rows = [row("lifetime", limits.lifetime, account.lifetime())]
    rows += [row(f"purpose {name}", limit, account.spent_for(name, limit)) for name, limit in limits.purposes.items()]
    runs = []
    for run, use in account.runs.items():
        own = {} if limits.per_run is None else row("run", limits.per_run, account.at(use.rho, limits.per_run))
        runs.append({"run": run, "purpose": use.purpose, "rounds": len(use.charges), **{k: own[k] for k in own if k != "name"}})
    declined = [{key: entry[key] for key in ("run", "round", "attempt", "over", "left")} for entry in account.declined]
    kind = {"name": account.name, "delta": limits.delta, "unit": limits.unit, "relation": limits.relation}
    return {**kind, "limits": rows, "runs": runs, "declined": declined}
