"""privacy.html: a run's promise, what was spent of it and what was tried against it, on one page for a privacy officer."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedvision.errors import ConfigError, FedvisionError, LedgerDamaged
from fedvision.experiment import Experiment
from fedvision.protections import Central, DpSgd
from fedvision.tracking.folder import RunFolder
from fedvision.tracking.page import Plot, Section, Table, write_page
from fedvision.types import RELATIONS, SiteId
from privacy.accountants import Phase
from privacy.attacks.one_run import RESULT
from privacy.ledger.keys import Roster, roster_path
from privacy.ledger.spent import Book, books, run_of
from privacy.ledger.terms import config_hash
from privacy.ledger.verify import verify
from privacy.pictures import attack, attackers, rounds, scores, spending
from privacy.plan import Plan, plan_of
from privacy.site_account import budget_of
from privacy.tradeoff import Tradeoff
from privacy.wording import AGAINST, NOUN, UNIT, uncovered

PAGE = "privacy.html"
MOST_LISTED = 200  # sites, in the table
MOST_DRAWN = 16
MOST_NAMED = 6
TRIED = "What was tried against it"
GRADES = (
    (0.6, "hardly better than guessing"),
    (0.75, "better than guessing, and far from sure"),
    (0.9, "a weak promise, under which an attacker is often right"),
    (1.0, "a very weak promise, under which an attacker is nearly always right"),
)
WRONGLY = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Checked:
    """What verification said.  sound: None where it could not be done here."""

    sound: bool | None
    said: str
    head: str = ""


@dataclass(frozen=True)
class Read:
    """All that the page is drawn from."""

    folder: RunFolder
    experiment: Experiment
    plan: Plan
    books: list[Book]
    checked: Checked
    audit: Mapping[str, Any] | None
    tradeoff: Tradeoff

    @classmethod
    def of(cls, run: Path, roster: Path | None) -> "Read":
        """What the folder has; ConfigError (exit 2) where it promised nothing, RunFolderError where it has no ledger."""
        folder = RunFolder.open(run)
        experiment = folder.experiment()
        if experiment.privacy is None:
            raise ConfigError(f"{run} promised nothing: its config has privacy = null; `fedvision report` draws what it did")
        kept = books(folder.path)
        plan = plan_of(experiment, kept[0].plan["noise_multiplier"])
        whole = Phase(plan.noise_multiplier, plan.a_round.sampling_rate, plan.a_round.steps * plan.rounds)
        tradeoff = Tradeoff.of(whole, plan.guarantee.delta, plan.guarantee.relation)
        return cls(folder, experiment, plan, kept, _checked(folder.path, roster), folder.json(RESULT), tradeoff)

    @property
    def private(self) -> bool:
        """Whether nobody can repeat the noise."""
        assert self.experiment.privacy is not None
        return self.experiment.privacy.simulation_only_seed is None

    @property
    def whole_plan(self) -> bool:
        """Whether every site paid for all rounds when it joined, and nothing tells of the rounds."""
        return bool(self.books[0].plan["whole_plan"])

    @cached_property
    def declined(self) -> dict[str, int]:
        """Rounds in which each site declined, where there were any."""
        each = [site for record in self.folder.rounds() for site in record.get("declined", {})]
        return {site: each.count(site) for site in sorted(set(each))}


def draw_privacy(run: Path, roster: Path | None = None, out: Path | None = None) -> Path:
    """Draw the page, by default into the run folder, and return its path."""
    read = Read.of(run, roster)
    page = out or read.folder.path / PAGE
    summary = read.folder.summary()
    write_page(
        page,
        PAGE,
        name=read.experiment.name,
        eyebrow=" · ".join(part for part in ("fedvision", "privacy", str(summary.get("started", "")).replace("T", " ")[:16]) if part),
        alarm=_alarm(read),
        verdict=_verdict(read),
        tiles=_tiles(read),
        promise=_promise(read),
        sections=[_attackers(read), _spent(read), *_tried(read)],
        uncovered=uncovered(read.experiment, read.plan),
        again=_again(read, roster),
        run=str(summary.get("run", "")),
        config=json.dumps(read.experiment.model_dump(mode="json")["privacy"], indent=2, ensure_ascii=False),
        folder=str(read.folder.path),
    )
    return page


def _checked(run: Path, roster: Path | None) -> Checked:
    try:
        known = roster or roster_path(run_of(run))
        if not known.exists():
            return Checked(None, "not checked here: the run's public keys are not on this machine; give them with --roster")
        verdict = verify(run, Roster.read(known), asks_prv=False)
    except FedvisionError as fault:
        return Checked(False, str(fault))
    closed = "" if verdict.closed else "; the run is not closed"
    return Checked(True, f"{verdict.entries:,} entries of {len(verdict.sites)} sites and the coordinator{closed}", verdict.head)


# ----------------------------------------------------------------------------------------------------- what is said


def _alarm(read: Read) -> list[str]:
    lines = []
    if not read.private:
        lines.append(
            "Not private: the noise comes from a seed in the config, and whoever knows the seed can subtract it. A rehearsal, no protection."
        )
    if read.checked.sound is False:
        lines.append(f"The record is not as it was written: {read.checked.said}")
    elif config_hash(read.experiment) != read.books[0].plan["config"]:
        lines.append(
            "What stands here of the plan is from config.yaml, and that is not the config that the record was made under: it was changed, or written by "
            "another version of fedvision."
        )
    if read.audit is not None and read.audit["alarm"]:
        lines.append("The audit refutes the promise: an attack found more than what is promised allows. Do not release this model.")
    return lines


def _verdict(read: Read) -> str:
    g, right = read.plan.guarantee, read.tradeoff.right
    grade = next(words for most, words in GRADES if right <= most)
    return (
        f"For each {UNIT[g.unit]}: what {AGAINST[read.plan.mechanism]} can find out about whether that {NOUN[g.unit]} was in this run is bounded. Asked "
        f"about one, and knowing everything else, they are right in at most {_percent(right)} of cases, where a coin is right in 50 %: {grade}. In "
        f"numbers: {g}.{_before(read)}"
    )


def _before(read: Read) -> str:
    """What the same images had told before the run: statistics that were released under noise of their own."""
    if read.experiment.data.statistics_noise is None:
        return ""
    from privacy.statistics import together  # with torch

    both = together(read.plan, read.experiment)
    return f" That is of this run alone; with the statistics of the same data that were released before it, data.mean and data.std: {both}."


def _percent(value: float) -> str:
    """Rounded up, to a tenth of a percent: a bound is never shown smaller than it is."""
    return f"{-(-value * 1000 // 1) / 10:g} %"


def _tiles(read: Read) -> list[dict[str, str]]:
    g, plan = read.plan.guarantee, read.plan
    most = max((book.last.rounds for book in read.books if book.last is not None), default=0)
    paid = f"all {most}" if most == plan.rounds else f"{most} of {plan.rounds}"
    tiles = [
        {"name": "promised ε", "value": f"{g.epsilon:.2f}", "note": f"per {g.unit}, by {g.accountant}"},
        {"name": "δ", "value": f"{g.delta:g}", "note": "chance that it fails"},
        {"name": "spent ε", "value": f"{plan.spent(most).epsilon:.2f}", "note": f"at the most, {paid} rounds paid"},
    ]
    if read.audit is not None:
        bound = read.audit["bound"]
        tiles.append(
            {
                "name": "found by attack",
                "value": f"ε ≥ {bound['epsilon']:.2f}",
                "note": f"{bound['canaries']:,} canaries, {bound['confidence']:.0%} sure",
            }
        )
    else:
        tiles.append({"name": "found by attack", "value": "–", "note": "no canaries in this run"})
    said = {True: "sound", False: "broken", None: "unchecked"}[read.checked.sound]
    tiles.append({"name": "record", "value": said, "note": read.checked.said if read.checked.sound is not False else "see above"})
    return tiles


def _promise(read: Read) -> Table:
    plan, p = read.plan, read.experiment.privacy
    assert p is not None
    g, phase = plan.guarantee, plan.a_round
    rows = [
        ["whom it protects", f"each {UNIT[g.unit]}: neighbours differ in {RELATIONS[g.relation]}"],
        ["against whom", AGAINST[plan.mechanism]],
        ["clip norm C", f"{p.clip:g}: no {g.unit} moves a sum by more" + (" (2 C where one is replaced)" if g.relation == "replace_one" else "")],
        ["noise", f"Gaussian, {plan.noise_multiplier:.4g} × C on every number of every sum, fresh each time"],
        ["sampling", _sampling(read)],
        ["sums released", f"{phase.steps} a round, {phase.steps * plan.rounds} in {plan.rounds} rounds"],
        ["counted by", f"{g.accountant}; in the ledgers also by Rényi divergences (rdp), entry by entry"],
    ]  # fmt: skip
    if isinstance(p, DpSgd):
        rows.insert(6, ["divisor", f"{p.divisor:g}, a public number"])
        if plan.sites_per_unit > 1:
            rows.append([f"held at {plan.sites_per_unit} sites", str(plan.over_sites)])
    return Table(["what", "value"], rows, numbers=False)


def _sampling(read: Read) -> str:
    unit, rate = read.plan.guarantee.unit, read.plan.a_round.sampling_rate
    if rate == 1 and unit == "site" and read.experiment.federation.sampling != "all":
        return "sites are drawn for each round, and counted as if that were known: no site's promise is the better for it"
    if rate == 1:
        return f"every {unit} is in every step"
    return f"each {unit} is in a step with chance {rate:g}" + (", drawn in secret by the coordinator" if unit == "site" else "")


def _attackers(read: Read) -> Section:
    rows = [[_percent(x), _percent(read.tradeoff.found(x))] for x in WRONGLY]
    notes = [
        f"Whoever tries to find those that took part also accuses others. The curve is the most that any attacker can do who sees {_sees(read)}, "
        "knows every other record, and has any computer; chance alone is the straight line."
    ]
    table = Table([f"{NOUN[read.plan.guarantee.unit]}s accused wrongly", "found, at most"], rows)
    plots = [
        Plot("found against accused wrongly", attackers(read.tradeoff, 100)),
        Plot("with few wrong accusations", attackers(read.tradeoff, 5)),
    ]
    return Section("attackers", "What it means for an attacker", notes, plots, [table])


def _sees(read: Read) -> str:
    return "every update of every round" if read.plan.mechanism != "central" else "every model of every round"


def _spent(read: Read) -> Section:
    g = read.plan.guarantee
    rows = [_row(read, book) for book in read.books[:MOST_LISTED]]
    head = ["site", "rounds paid", "of", "declined", f"ε ({g.accountant})", "ε (rdp)", "of its budget in the run", "of its account"]
    notes = [
        "Each site paid for every round of the plan when it joined, whether it was drawn or not: that is the price of a secret draw, of which nothing "
        "in this folder tells whose updates were in a round's sum, or how many."
        if read.whole_plan
        else "Each site charges its own ledger before it computes, and declines what its budget does not hold. A round that failed after it was "
        "charged stays spent; a round that a site missed costs nothing."
    ]
    if read.declined:
        named = [f"{site} in {count}" for site, count in read.declined.items()]
        more = f" and {len(named) - MOST_NAMED:,} more sites" if len(named) > MOST_NAMED else ""
        notes.append(f"Rounds were declined, and the run went on without: {', '.join(named[:MOST_NAMED])}{more}.")
    if len(read.books) > MOST_LISTED:
        notes.append(f"{MOST_LISTED} of {len(read.books):,} sites are listed; “fedvision privacy spent” lists all.")
    plots = [Plot("ε spent against the budget", spending(read.books, read.plan), "sites that spent alike share a line")]
    if not read.whole_plan:
        plots.append(_rounds(read))
    folded = f"All {len(read.books):,} sites" if len(read.books) > MOST_DRAWN else ""
    return Section("spent", "What each site has spent", notes, plots, [Table(head, rows, folded=folded)])


def _rounds(read: Read) -> Plot:
    """Of each site, or of those that declined and those that spent most."""
    counted = {book.site: (0 if book.last is None else book.last.rounds, read.declined.get(book.site, 0)) for book in read.books}
    drawn = sorted(counted, key=lambda site: (-counted[site][1], -counted[site][0], site))[:MOST_DRAWN]
    note = f"of the {len(drawn)} of {len(counted):,} sites that declined or paid most" if len(drawn) < len(counted) else ""
    return Plot("what became of the rounds", rounds({site: counted[site] for site in counted if site in drawn}, read.plan), note)


def _row(read: Read, book: Book) -> list[str]:
    paid = 0 if book.last is None else book.last.rounds
    spent = read.plan.spent(paid).epsilon
    rdp = "–" if book.last is None else f"{book.last.epsilon:.3f}"
    return [
        book.site, f"{paid}", f"{read.plan.rounds}", f"{read.declined.get(book.site, 0)}", f"{spent:.3f}", rdp,
        f"{spent / read.plan.guarantee.epsilon:.0%}", _account(read, SiteId(book.site)),
    ]  # fmt: skip


def _account(read: Read, site: SiteId) -> str:
    """How much of its lifetime's account is used, where the account lies in the folder, as a simulation's does."""
    states = read.folder.path / "sites"
    budget, purpose = budget_of(states, site)
    if purpose is not None or not budget.path.exists():
        return "its own affair"
    try:
        limits = budget.read().limits
    except LedgerDamaged:
        return "damaged"
    assert limits is not None
    used = limits.lifetime.used(budget.lifetime(), limits.delta)
    return (
        f"{used:.0%} of ε = {limits.lifetime.epsilon:.2f}" if math.isfinite(used) else f"ε = {limits.lifetime.epsilon:.2f} holds no round"
    )


def _tried(read: Read) -> list[Section]:
    if read.audit is None:
        more = "“fedvision privacy audit” with its config trains a run that has some." if read.plan.mechanism != "local" else ""
        return [Section("audit", TRIED, [f"No canaries were in this run, so its promise rests on proof and program alone. {more}".strip()])]
    from privacy.attacks.audit import canaries_of  # with torch

    spec, bound, claimed = read.experiment.privacy, read.audit["bound"], read.audit["claimed"]
    assert isinstance(spec, DpSgd | Central) and spec.audit is not None
    beside, inside = (
        "stood beside the noisy sums, none of them in the model",
        "were images of noise with labels at random, and are IN the model",
    )
    where = beside if spec.audit.kind == "gradients" else inside
    notes = [
        f"{bound['canaries']:,} canaries {where}; a fair coin each decided which took part. From what "
        f"was released, {bound['guesses']:,} guesses were made and {bound['right']:,} were right, which a run with less than ε = {bound['epsilon']:.2f} "
        f"would allow in at most {1 - bound['confidence']:.0%} of cases (Steinke, Nasr, Jagielski 2023).",
        f"Promised: ε = {claimed['epsilon']:.2f}. {_meaning(read.audit)}",
    ]  # fmt: skip
    plots = [Plot("promised, and found by attack", attack(read.audit))]
    kept = canaries_of(read.folder, read.experiment, read.plan)
    if kept:
        plots.append(Plot("scores of the canaries", scores(kept.values()), "the more they part, the more was let out"))
    return [Section("audit", TRIED, notes, plots)]


def _meaning(audit: Mapping[str, Any]) -> str:
    most = audit["bound"]["most"]
    if audit["alarm"]:
        return "The bound is above what is promised: the promise is refuted."
    if audit["blind"]:
        return f"So many canaries can show no ε above {most:.2f}, which is under the promise: this audit could not have refuted it."
    return (
        f"The bound being below it is as it should be, and no proof: a fault that lets out less than ε = {most:.2f} could have gone unseen."
    )


def _again(read: Read, roster: Path | None) -> dict[str, str]:
    run = shlex.quote(str(read.folder.path))
    keys = f" --roster {shlex.quote(str(roster))}" if roster is not None else ""
    phase, g = read.plan.a_round, read.plan.guarantee
    lines = {
        f"fedvision privacy verify {run}{keys}": "chains, signatures, both sides, every ε from the events, and by a second accountant",
        f"fedvision privacy spent {run}": "round by round",
        f"fedvision privacy epsilon --noise-multiplier {read.plan.noise_multiplier} --sampling-rate {phase.sampling_rate:g} "
        f"--steps {phase.steps * read.plan.rounds} --delta {g.delta:g} --accountant {g.accountant} --relation {g.relation} --unit {g.unit}": "the promise again",
    }  # fmt: skip
    if read.audit is not None:
        lines[f"fedvision privacy audit {run}"] = "the stored scores again"
    lines[f"fedvision privacy report {run}{keys}"] = "this page again"
    commands = "\n".join(f"# {what}\n{line}" for line, what in lines.items())
    return {"commands": commands, "head": read.checked.head}
