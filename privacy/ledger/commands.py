"""`fedvision privacy verify` and `spent`: the ledgers of a run, checked and read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from privacy.ledger.spent import Book
    from privacy.ledger.verify import Verdict

Json = Annotated[bool, typer.Option("--json", help="One object on the last line of stdout.")]


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a private run.")],
    roster: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The run's public keys; none is needed where the simulation ran, by the same user.")
    ] = None,
    head: Annotated[str | None, typer.Option(metavar="H", help="A head that was noted elsewhere, and must be in the ledgers.")] = None,
    as_json: Json = False,
) -> None:
    """Check a run's ledgers offline: chains, signatures, both sides, budgets, and every ε from the events alone."""
    from fedvision.errors import ConfigError
    from privacy.ledger.keys import Roster, roster_path
    from privacy.ledger.reading import Fault
    from privacy.ledger.spent import run_of
    from privacy.ledger.verify import verify as judge

    try:
        known = roster or roster_path(run_of(run))
        if roster is None and not known.exists():
            raise ConfigError(
                f"{run}: its run did not begin with this user on this machine, so its keys are not known here ({known} is missing); give the "
                "roster that the run wrote when it began: --roster FILE"
            )
        verdict = judge(run, Roster.read(known), head)
    except Fault as fault:
        if as_json:
            print(json.dumps({"sound": False, "file": fault.file, "line": fault.line, "reason": fault.reason}))
        raise
    _say(verdict, known, as_json)


def _say(verdict: "Verdict", roster: Path, as_json: bool) -> None:
    if as_json:
        sites = [{"site": s.site, "rounds": s.rounds, "epsilon": s.epsilon, "pld": s.pld} for s in verdict.sites]
        found = {"sound": True, "run": verdict.run, "head": verdict.head, "closed": verdict.closed, "entries": verdict.entries}
        crossed = {"cross_checked": sorted(n for n, why in verdict.crossed.items() if not why), "not_cross_checked": _alone(verdict)}
        print(json.dumps({**found, "sites": sites, "notes": list(verdict.notes), **crossed}))
        return
    event, terms = verdict.terms.event, verdict.terms
    print(f"sound: {verdict.entries} entries of {len(verdict.sites)} sites and the coordinator, run {verdict.run}")
    print(f"keys: {roster}")
    print(
        f"plan: {terms.rounds} rounds of {event.mechanism}, ε = {terms.pld(terms.rounds):.4f} (pld) at δ = {event.delta:g} per {event.unit}"
    )
    for s in verdict.sites:
        pld = f", {s.pld:.4f} (pld)" if s.pld is not None else ""
        print(f"{s.site}: {s.rounds} of {terms.rounds} rounds charged, ε = {s.epsilon:.4f} (rdp){pld}")
    print(
        f"cross-checked: {sum(not why for why in verdict.crossed.values())} of {len(verdict.crossed)} PLD figures by prv, all of them by rdp"
    )
    for alone in _alone(verdict):
        counts = ", ".join(map(str, alone["charges"]))
        print(
            f"not cross-checked by prv: the PLD figures of {counts} charges, because {alone['reason']}; rdp, a bound above, is all that agrees"
        )
    for note in verdict.notes:
        print(f"note: {note}")
    print(f"head: {verdict.head}")


def _alone(verdict: "Verdict") -> list[dict[str, Any]]:
    """The counts of charges whose PLD figure only rdp was asked about, by the reason."""
    reasons = sorted(set(verdict.crossed.values()) - {""})
    return [{"reason": reason, "charges": sorted(n for n, why in verdict.crossed.items() if why == reason)} for reason in reasons]


def spent(
    path: Annotated[Path, typer.Argument(metavar="RUN|SITE", help="The folder of a private run, or of one site in it (RUN/sites/NAME).")],
    as_json: Json = False,
) -> None:
    """What each site has spent, round by round, as its ledger says; `verify` checks it."""
    from privacy.ledger.spent import books

    found = books(path)
    if as_json:
        print(json.dumps({"charges": [row.as_json() for book in found for row in book.charges]}))
        return
    _table(found)


def _table(found: "list[Book]") -> None:
    from rich.console import Console
    from rich.table import Table

    plan = found[0].plan
    promised = f"ε = {plan['pld'][-1][1]:.2f} (pld), {plan['epsilon']:.2f} (rdp) for {plan['rounds']} rounds"
    table = Table(box=None, title=f"run {plan['run']}: {promised}, δ = {plan['delta']:g} per {plan['unit']}", title_justify="left")
    for name in ("site", "round", "attempt", "rounds charged", "ε (rdp)", "ε (pld)", ""):
        table.add_column(name, justify="left" if name in ("site", "") else "right")
    for book in found:
        for row in book.charges:
            where = ("whole plan", "") if row.round is None else (str(row.round), str(row.attempt))
            pld = "" if row.pld is None else f"{row.pld:.4f}"
            table.add_row(
                row.site, *where, str(row.rounds), f"{row.epsilon:.4f}", pld, "" if row.settled or row.round is None else "not settled"
            )
        if not book.charges:
            table.add_row(book.site, "", "", "0", "0.0000", "", "nothing charged")
    Console(soft_wrap=True, highlight=False).print(table)
