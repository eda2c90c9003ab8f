"""Accounts of a site: what they notice, who may spend, and what runs are charged."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spending import DELTA, an_event, limits_of, opened, spend
from typer.testing import CliRunner

from clients.answer import answer
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.errors import ConfigError, LedgerDamaged
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.types import ClientUpdate, Declined, SiteId, TrainRequest
from privacy.budget import Budget, RunAccount
from privacy.commands import app
from privacy.ledger.spent import books
from privacy.ledger.terms import Terms
from privacy.limits import Limit, Limits
from privacy.plan import plan_of
from privacy.site_account import site_account
from simulations.run import simulate


def test_an_account_is_for_its_subjects_whatever_becomes_of_files_and_its_limits_are_for_good(tmp_path: Path) -> None:
    limits = limits_of(3.0, 1.0, purposes={"research": 2.0})
    first = opened(tmp_path, limits)
    first.join("2025", "research")
    first.charge("2025", an_event(30.0), 0, 1)
    other = opened(tmp_path, limits)  # another data set of the same subjects
    other.join("2026", "research")
    other.charge("2026", an_event(30.0), 0, 1)
    lifetime = [limits.orders.index(order) for order in limits.lifetime.orders]
    assert first.read().lifetime() == pytest.approx(2 * first.runs["2025"].rho[lifetime])
    with pytest.raises(ConfigError, match="for good; open another account"):
        opened(tmp_path, limits_of(4.0))


# -------------------------------------------------------------------------------------------------- what is noticed


def _charged(folder: Path, rounds: int = 3) -> Budget:
    budget = opened(folder, limits_of(9.0))
    budget.join("run", "research")
    for number in range(rounds):
        budget.settle(budget.charge("run", an_event(30.0), number, 1))
    return budget


def test_a_damaged_account_spends_no_more(tmp_path: Path) -> None:
    path = _charged(tmp_path).path
    content = path.read_bytes()
    at = content.index(b'"kind":"charge"')
    path.write_bytes(content[: at + 40] + bytes([content[at + 40] ^ 1]) + content[at + 41 :])
    with pytest.raises(LedgerDamaged, match=r"account\.jsonl, line \d"):
        Budget(tmp_path / "account", tmp_path / "apart" / "account.head").read()


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b'"relation":"add_remove"', b'"relation":"ad_remove"'), (b'"lifetime"', b'"lifetine"'), (b'"purpose"', b'"purpos"'),
        (b'"kind":"charge"', b'"kine":"charge"'), (b'"rho":[', b'"rho":[[],'), (b'"settle"', b'"charge"'),
    ],
)  # fmt: skip
def test_an_account_whose_entries_are_none_of_an_account_spends_no_more(was: bytes, now: bytes, tmp_path: Path) -> None:
    path = _charged(tmp_path).path
    before, _, after = path.read_bytes().rpartition(was)
    path.write_bytes(before + now + after)
    with pytest.raises(LedgerDamaged):
        Budget(tmp_path / "account", tmp_path / "apart" / "account.head").read()


def test_an_older_account_put_back_is_noticed_and_so_is_one_that_was_removed(tmp_path: Path) -> None:
    budget = _charged(tmp_path)
    older = budget.path.read_bytes()
    budget.charge("run", an_event(30.0), 3, 1)
    budget.path.write_bytes(older)
    with pytest.raises(LedgerDamaged, match="an older file was put back"):
        Budget(budget.path.parent, tmp_path / "apart" / "account.head").read()
    shutil.rmtree(budget.path.parent)
    with pytest.raises(LedgerDamaged, match="an older file was put back"):
        Budget(budget.path.parent, tmp_path / "apart" / "account.head").read()


def test_an_account_whose_head_kept_apart_is_gone_spends_no_more(tmp_path: Path) -> None:
    budget = _charged(tmp_path)
    (tmp_path / "apart" / "account.head").unlink()
    with pytest.raises(LedgerDamaged, match="which remembers how long"):
        Budget(budget.path.parent, tmp_path / "apart" / "account.head").read()


def test_there_is_no_account_until_the_site_opens_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fedvision privacy account open"):
        Budget(tmp_path / "account", tmp_path / "head").read()


def _race(folder: Path, run: str, got: Any) -> None:
    budget = Budget(folder / "account", folder / "apart" / "account.head").read()
    budget.join(run, "research")
    got.put(spend(budget, run, an_event(4.0)))


def test_two_processes_cannot_both_spend_the_last_of_it(tmp_path: Path) -> None:
    limits = limits_of(9.0)
    alone = opened(tmp_path / "alone", limits)
    alone.join("run", "research")
    whole = spend(alone, "run", an_event(4.0))
    opened(tmp_path, limits)
    context = multiprocessing.get_context("fork")
    got = context.Queue()
    racers = [context.Process(target=_race, args=(tmp_path, f"run {n}", got)) for n in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(30)
    assert sum(got.get() for _ in racers) == whole > 10


def _release_for_ever(folder: Path, number: int) -> None:
    budget = Budget(folder / "account", folder / "apart" / "account.head").read()
    budget.join("run", "research")
    with (folder / "released").open("ab", buffering=0) as released:
        for round in range(10_000):
            charge = budget.charge("run", an_event(300.0), 1000 * number + round, 1)
            released.write(b".")  # the update leaves the site
            budget.settle(charge)


def test_killed_at_any_moment_what_was_spent_is_never_below_what_was_released(tmp_path: Path) -> None:
    opened(tmp_path, limits_of(50.0))
    context, rng = multiprocessing.get_context("fork"), np.random.default_rng(0)
    for number in range(8):
        child = context.Process(target=_release_for_ever, args=(tmp_path, number))
        child.start()
        assert child.pid is not None
        before, until = _size(tmp_path / "released"), time.monotonic() + 60
        while _size(tmp_path / "released") < before + 2 and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.05 * rng.random())
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        budget = Budget(tmp_path / "account", tmp_path / "apart" / "account.head").read()
        charges = budget.runs["run"].charges if "run" in budget.runs else []
        released = _size(tmp_path / "released")
        assert released <= len(charges) <= released + number + 1
    assert released > 8


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ------------------------------------------------------------------------------------------------------- whole runs


def _experiment(**changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 3}, "federation": {"rounds": 4},
        "training": {"steps": 2}, "model": {"name": "mlp", "width": 8}, "evaluation": {"server": {"test": 0.2}},
        "tracking": {"mlflow": None, "report": False},
        "privacy": {"mechanism": "dp_sgd", "noise_multiplier": 2.0, "delta": 1e-5, "sampling_rate": 0.1, "divisor": 20.0},
    }  # fmt: skip
    return validate(Experiment, values | changes, "test")


def test_a_site_over_its_budget_declines_with_the_runs_own_remainder_and_the_run_goes_on(tmp_path: Path) -> None:
    plan = plan_of(_experiment())
    half = Limit.filled_by(Terms.of(_experiment(), plan).event, 3, DELTA).epsilon
    folder, summary = simulate(_experiment(conditions={"budgets": {"site-001": half}}), tmp_path / "run", None, quiet=True)
    assert summary["status"] == "completed" and summary["rounds"] == 4
    answered = [set(record["answered"]) for record in folder.rounds()]
    assert answered[0] == {"site-000", "site-001", "site-002"} and answered[-1] == {"site-000", "site-002"}
    reason = folder.rounds()[-1]["declined"]["site-001"]
    paid = sum("site-001" in sites for sites in answered)
    assert reason.startswith("budget: the site pays for no more of this run: ") and f"{paid} of its 4 rounds were paid" in reason
    assert "account" not in reason and f"{half:.2f}" not in reason
    assert {book.site: book.last.rounds for book in books(folder.path) if book.last} == {"site-000": 4, "site-001": paid, "site-002": 4}


def test_a_second_run_is_not_declined_for_what_the_first_has_spent_where_both_are_simulations(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder, _ = simulate(_experiment(), tmp_path / name, None, quiet=True)
        assert all(len(record["answered"]) == 3 for record in folder.rounds())
        assert (folder.path / "sites" / "site-000" / "account" / "account.jsonl").exists()


def _asked(experiment: Experiment, states: Path, run: str) -> Any:
    data = open_federated(experiment)
    bench = Workbench.set_up(experiment, data.shape, data.classes, len(data.sites), states)
    model = {name: t.clone() for name, t in bench.model.state_dict().items()}
    return answer(TrainRequest(run, 0, 1, model), data.site(data.sites[0]), bench)


def test_an_account_that_a_site_opened_itself_pays_for_all_its_runs_and_nothing_is_computed_beyond_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, account = _experiment(), {"account": str(tmp_path / "account"), "head": str(tmp_path / "head"), "purpose": "research"}
    event = Terms.of(experiment, plan_of(experiment)).event
    Budget(tmp_path / "account", tmp_path / "head").open(
        "patients", Limits(DELTA, "example", "add_remove", Limit.filled_by(event, 2, DELTA))
    )
    replies = []
    for run in ("one", "two", "three"):
        (tmp_path / run / "site-000").mkdir(parents=True)
        (tmp_path / run / "site-000" / "account.json").write_text(json.dumps(account))
        if run == "three":
            monkeypatch.setattr("privacy.training.Stepper.release", lambda *_: pytest.fail("a step was taken that nobody paid for"))
        replies.append(_asked(experiment, tmp_path / run, run))
    assert [type(reply) for reply in replies] == [ClientUpdate, ClientUpdate, Declined]
    assert books(tmp_path / "one" / "site-000")[0].plan["limit"] is None  # of its lifetime, the run's record tells nothing
    assert replies[2].code == "budget" and "0 of its 4 rounds were paid" in replies[2].reason
    kept = Budget(tmp_path / "account", tmp_path / "head").read()
    assert [entry["over"] for entry in kept.declined] == ["the limit of its lifetime"]


def test_a_runs_record_states_the_limit_of_one_run_as_the_account_counts_it(tmp_path: Path) -> None:
    experiment = _experiment()
    limits = Limits(DELTA, "example", "replace_one", Limit.of(40.0, DELTA), Limit.of(20.0, DELTA))
    Budget(tmp_path / "account", tmp_path / "head").open("patients", limits)
    pointer = {"account": str(tmp_path / "account"), "head": str(tmp_path / "head"), "purpose": "research"}
    (tmp_path / "one" / "site-000").mkdir(parents=True)
    (tmp_path / "one" / "site-000" / "account.json").write_text(json.dumps(pointer))
    assert isinstance(_asked(experiment, tmp_path / "one", "one"), ClientUpdate)
    said = books(tmp_path / "one" / "site-000")[0].plan["limit"]
    assert (said["epsilon"], said["relation"], said["noise_multiplier"]) == (20.0, "replace_one", 2.0)
    assert said["orders"] == list(Limit.of(20.0, DELTA).orders) and sum(said["shares"]) == pytest.approx(1.0)


def test_a_site_whose_account_was_rolled_back_declines(tmp_path: Path) -> None:
    experiment = _experiment()
    assert isinstance(_asked(experiment, tmp_path, "one"), ClientUpdate)
    path = tmp_path / "site-000" / "account" / "account.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))  # as if nothing had been spent
    (tmp_path / "site-000" / "ledger.jsonl").unlink()
    shutil.rmtree(tmp_path / "site-000" / "replies")
    reply = _asked(experiment, tmp_path, "one")
    assert isinstance(reply, Declined) and reply.code == "ledger"


def test_a_runs_record_is_bound_to_the_account_by_a_hash_that_tells_nothing_of_other_runs(tmp_path: Path) -> None:
    experiment = _experiment()
    plan = plan_of(experiment)
    heads = [site_account(tmp_path, SiteId("a"), run, experiment, plan, Terms.of(experiment, plan)).head for run in ("one", "two", "one")]
    assert heads[0] == heads[2] != heads[1] and all(len(head) == 64 for head in heads)
    folder, _ = simulate(experiment, tmp_path / "run", None, quiet=True)
    lines = (folder.path / "sites" / "site-000" / "account" / "account.jsonl").read_bytes().splitlines()
    joined = next(number for number, line in enumerate(lines) if b'"kind":"joined"' in line)
    assert json.loads(lines[joined + 1])["body"]["prev"] == books(folder.path)[0].plan["account"]


def test_noise_that_is_drawn_at_the_coordinator_is_charged_once_a_round_however_often_it_is_tried(tmp_path: Path) -> None:
    privacy = {"mechanism": "central", "noise_multiplier": 2.0, "delta": 1e-2, "clip": 0.5}
    experiment = _experiment(privacy=privacy, training={"epochs": 1, "batch_size": 32})
    plan = plan_of(experiment)
    account = site_account(tmp_path, SiteId("a"), "run", experiment, plan, Terms.of(experiment, plan))
    assert isinstance(account, RunAccount)
    for number, attempt in ((0, 1), (0, 2), (1, 1)):
        account.reserve(number, attempt)
        account.settle(number, attempt)
    assert account.budget.runs["run"].charges == [(0, 1), (1, 1)]


# ------------------------------------------------------------------------------------------------- the command line


def _said(*words: str) -> str:
    result = CliRunner().invoke(app, ["account", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_an_account_is_opened_and_shown_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDVISION_STATE", str(tmp_path / "state"))
    folder = str(tmp_path / "patients")
    limits = ["--delta", "1e-5", "--lifetime", "8", "--per-run", "3", "--purpose", "research=5"]
    opened = _said("open", folder, "--name", "patients", *limits)
    pointer = json.loads(opened.splitlines()[-1].partition("account.json: ")[2])
    assert pointer == {"account": folder, "head": pointer["head"], "purpose": "research"} and pointer["head"].startswith(
        str(tmp_path / "state")
    )
    budget = Budget(Path(folder), Path(pointer["head"])).read()
    budget.join("run", "research")
    assert spend(budget, "run", an_event(4.0)) > 0
    told = json.loads(_said("show", folder, "--json"))
    assert {row["name"]: row["epsilon"] for row in told["limits"]} == {"lifetime": 8.0, "purpose research": 5.0}
    assert all(0 < row["used"] < 1 and 0 < row["spent"] < row["epsilon"] for row in told["limits"])
    (run,) = told["runs"]
    assert (run["run"], run["purpose"], run["epsilon"]) == ("run", "research", 3.0) and run["rounds"] == len(budget.runs["run"].charges)
    assert [entry["over"] for entry in told["declined"]] == ["the limit per run"]
    assert "1 declined" in _said("show", folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lifetime", "0.001"], "lets nothing through"),
        (["--lifetime", "8", "--purpose", "research"], "--purpose 'research': write it as name and ε"),
        (["--lifetime", "8", "--unit", "image"], "unit 'image': allowed are example, subject, site"),
    ],
)
def test_an_account_that_cannot_be_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _said("open", str(tmp_path / "a"), "--head", str(tmp_path / "h"), "--name", "a", "--delta", "1e-5", *words)
    with pytest.raises(ConfigError, match="there is no account"):
        _said("show", str(tmp_path / "a"), "--head", str(tmp_path / "h"))
