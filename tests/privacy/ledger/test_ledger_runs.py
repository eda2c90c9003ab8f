"""Whole private runs: what their ledgers hold, that they are sound, and what a repetition, a crash or a liar does to them."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flower_runs import FlowerRuns
from ledger_tampering import bodies, judged

from clients.answer import answer
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.errors import ConfigError, RunFolderError, UpdateRefused
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.types import ClientUpdate, Declined, Reply, Request, SecureRequest, SiteId, TrainRequest
from privacy.ledger.entries import FIRST
from privacy.ledger.keys import Keyring, Roster, roster_path
from privacy.ledger.site import SiteLedger
from privacy.ledger.terms import Terms
from privacy.ledger.verify import Verdict
from privacy.plan import plan_of
from privacy.secure_aggregation.messages import Proof, Survivors, from_bytes
from simulations.inline import Inline
from simulations.ledgers import Ledgers
from simulations.rehearsal import DP, asked, begin, planned, play
from simulations.run import simulate

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # Opacus', at the edge of its grid
SITE_LEVEL = {"noise_multiplier": 1.0, "delta": 1e-2, "clip": 0.5}
SECRET_DRAW = SITE_LEVEL | {"mechanism": "central", "amplified": True}
MASKED = {
    "partition": {"scheme": "iid", "sites": 4}, "federation": {"rounds": 3, "min_replies": 3}, "encoding": {"bits": 32},
    "secure_aggregation": {"enabled": True, "planned_dropouts": 1},
}  # fmt: skip


def experiment(privacy: Mapping[str, Any] = DP, **changes: Any) -> Experiment:
    training = {"steps": 2} if privacy["mechanism"] == "dp_sgd" else {"batch_size": 50}
    values: dict[str, Any] = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 3}, "federation": {"rounds": 3}, "training": training,
        "model": {"name": "mlp", "width": 4}, "evaluation": {"server": {"test": 0.2}, "every": 3}, "ledger": {"pld_every": 2},
        "tracking": {"mlflow": None, "report": False}, "privacy": dict(privacy),
    }  # fmt: skip
    for key, block in changes.items():
        values[key] = {**values.get(key, {}), **block}
    return validate(Experiment, values, "the test")


def checked(run: Path) -> Verdict:
    name = json.loads((run / "summary.json").read_text())["run"]
    return judged(run, Roster.read(roster_path(name)))


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(
    ("privacy", "changes"),
    [
        (DP, {}),
        (DP | {"simulation_only_seed": 1}, {}),
        (DP | {"relation": "replace_one"}, {}),
        (DP, {"federation": {"rounds": 3, "sampling": "fixed", "cohort": 2}}),
        (DP, {"federation": {"rounds": 6, "on_missing": "skip", "min_replies": 2}, "conditions": {"dropout": 0.3}}),
        (DP, MASKED),
        (SITE_LEVEL | {"mechanism": "local"}, {}),
        (SITE_LEVEL | {"mechanism": "central"}, {}),
        (SITE_LEVEL | {"mechanism": "central", "adaptive": {"noise": 1.0}}, {"federation": {"rounds": 3, "max_attempts": 9, "min_replies": 3}, "conditions": {"dropout": 0.2}}),
        (SITE_LEVEL | {"mechanism": "central"}, {"federation": {"rounds": 3, "max_attempts": 9, "min_replies": 3, "on_missing": "wait"}, "conditions": {"dropout": 0.3}}),
        (SITE_LEVEL | {"mechanism": "central"}, MASKED),
    ],
    ids=["dp_sgd", "seeded", "replace_one", "cohort", "dropouts", "masked", "local", "central", "adaptive, retried", "waited for", "central, masked"],
)  # fmt: skip
def test_the_ledgers_of_a_run_are_sound_and_tell_what_it_spent(privacy: dict[str, Any], changes: dict[str, Any], tmp_path: Path) -> None:
    run, summary = simulate(experiment(privacy, **changes), tmp_path / "run", None, quiet=True)
    found = checked(run.path)
    assert found.closed and summary["privacy"]["ledger_head"] == found.head
    assert not any("no receipt" in note for note in found.notes) or "conditions" in changes
    answers = {site: sum(site in record["answered"] for record in run.rounds()) for site in (s.site for s in found.sites)}
    for site in found.sites:
        assert answers[site.site] <= site.rounds <= found.terms.rounds and site.pld is not None and site.pld <= site.epsilon
        if "conditions" not in changes:
            assert site.rounds == site.received == answers[site.site]


@pytest.mark.ray
@pytest.mark.parametrize("changes", [{}, MASKED], ids=["clear", "masked"])
def test_the_ledgers_of_a_run_on_ray_are_sound(changes: dict[str, Any], tmp_path: Path) -> None:
    run, _ = simulate(experiment(DP, **changes, engine={"name": "ray", "workers": 2}), tmp_path / "run", None, quiet=True)
    found = checked(run.path)
    assert found.closed and not found.notes and [site.rounds for site in found.sites] == [3] * len(found.sites)


@pytest.mark.flower
def test_the_ledgers_of_a_run_on_flower_are_sound(on_flower: FlowerRuns, tmp_path: Path) -> None:
    on_flower.run(experiment(DP), tmp_path / "run")
    found = checked(tmp_path / "run")
    assert found.closed and not found.notes and [site.rounds for site in found.sites] == [3, 3, 3]


def test_a_run_that_promises_nothing_has_no_ledger(tmp_path: Path) -> None:
    values = experiment().model_dump(mode="json") | {"privacy": None, "training": {"epochs": 1, "batch_size": 50}}
    run, _ = simulate(validate(Experiment, values, "the test"), tmp_path / "run", None, quiet=True)
    assert not list(run.path.rglob("*ledger*"))


# ---------------------------------------------------------------------------------------------- crashes and repetitions


class _Killed(BaseException):
    """What no one catches."""


class _Half(Inline):
    """Dies after half of the replies of round 1; nothing that it held survives."""

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
        for count, reply in enumerate(super().ask(requests)):
            if reply.round == 1 and count == 2:
                raise _Killed
            yield reply


def _half(setting: Any, conduct: Any) -> Any:
    bench = Workbench.set_up(setting.experiment, setting.data.shape, setting.data.classes, len(setting.data.sites), setting.states)
    return conduct(_Half(setting.data, bench))


@pytest.mark.parametrize(
    "privacy", [DP, SITE_LEVEL | {"mechanism": "local"}, SITE_LEVEL | {"mechanism": "central"}], ids=lambda p: p["mechanism"]
)
def test_killed_after_half_of_the_replies_no_site_is_charged_twice(privacy: dict[str, Any], tmp_path: Path) -> None:
    config = experiment(privacy, partition={"sites": 4})
    with pytest.raises(_Killed):
        simulate(config, tmp_path / "run", None, quiet=True, engine=_half)
    assert not checked(tmp_path / "run").closed
    charged = [len([b for b in bodies(f) if b["kind"] == "charge"]) for f in sorted((tmp_path / "run" / "sites").glob("*/ledger.jsonl"))]
    assert charged == [2, 2, 2, 1]
    before = (tmp_path / "run" / "ledger.jsonl").read_bytes()
    run, _ = simulate(config, None, tmp_path / "run", quiet=True)
    found = checked(run.path)
    assert found.closed and [(site.rounds, len(site.charges)) for site in found.sites] == [(3, 3)] * 4
    assert (run.path / "ledger.jsonl").read_bytes().startswith(before)
    sent = [(b["round"], b["attempt"]) for b in bodies(run.path / "ledger.jsonl") if b["kind"] == "request"]
    assert sent == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("kind", [Survivors, Proof], ids=lambda kind: kind.__name__)
def test_a_masked_round_that_is_taken_up_after_its_survivors_were_named_countersigns_its_charges(kind: type, tmp_path: Path) -> None:
    class Dies(Inline):
        def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
            some = next(iter(requests.values()))
            if isinstance(some, SecureRequest) and some.round == 1 and isinstance(from_bytes(some.messages[0]), kind):
                raise _Killed
            yield from super().ask(requests)

    def engine(setting: Any, conduct: Any) -> Any:
        bench = Workbench.set_up(setting.experiment, setting.data.shape, setting.data.classes, len(setting.data.sites), setting.states)
        return conduct(Dies(setting.data, bench))

    config = experiment(DP, **MASKED)
    with pytest.raises(_Killed):
        simulate(config, tmp_path / "run", None, quiet=True, engine=engine)
    run, _ = simulate(config, None, tmp_path / "run", quiet=True)
    found = checked(run.path)
    assert found.closed and not found.notes and [(site.rounds, site.received) for site in found.sites] == [(3, 3)] * 4


def test_a_request_that_was_sent_is_repeated_as_it_was_or_not_at_all(tmp_path: Path) -> None:
    ledgers = begin(planned(2, 4), tmp_path / "run")
    first = ledgers.coordinator.request(asked(ledgers, 0), ledgers.sites)
    play(ledgers, range(2))
    again = _reopened(ledgers)
    assert again.request(asked(ledgers, 0), ledgers.sites) == first != again.witness()
    with pytest.raises(RunFolderError, match="round 1, attempt 1: its request was sent with another model"):
        again.request(dataclasses.replace(asked(ledgers, 1), model={"weight": torch.tensor([9.0])}), ledgers.sites)


def _reopened(ledgers: Ledgers) -> Any:
    c = ledgers.coordinator
    opened = type(c)(c.chain.path.parent, ledgers.keyring.key(c.run, None), c.run, c.roster, c.terms)
    opened.chain.read()
    return opened


def test_a_run_is_not_gone_on_with_under_another_config_or_by_a_version_whose_configs_have_other_keys(tmp_path: Path) -> None:
    ledgers = begin(planned(2, 4), tmp_path / "run")
    play(ledgers, range(1))
    c = ledgers.coordinator
    other = dataclasses.replace(c.terms, config="0" * 64)
    with pytest.raises(ConfigError, match="was begun under another config, or by a version of fedvision"):
        type(c)(c.chain.path.parent, ledgers.keyring.key(c.run, None), c.run, c.roster, other).found({})


def test_a_charge_is_on_disk_before_the_step_that_it_pays_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, bench, request = _opened(tmp_path)

    def crash(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("privacy.training.Stepper.release", crash)
    with pytest.raises(SystemExit):
        answer(request, site, bench)
    assert [body["kind"] for body in bodies(tmp_path / site.id / "ledger.jsonl")] == ["plan", "charge"]


def test_a_retry_whose_reply_was_not_stored_is_charged_again_and_one_that_was_is_not(tmp_path: Path) -> None:
    site, bench, request = _opened(tmp_path)
    first, again = answer(request, site, bench), answer(request, site, bench)
    assert isinstance(first, ClientUpdate) and isinstance(again, ClientUpdate) and first.entry == again.entry
    for reply in (tmp_path / site.id / "replies").iterdir():
        reply.unlink()
    anew = answer(request, site, bench)
    assert isinstance(anew, ClientUpdate) and json.loads(anew.entry)["body"]["rounds"] == 2


def test_a_site_whose_ledger_was_changed_declines_and_says_nothing_of_it(tmp_path: Path) -> None:
    site, bench, request = _opened(tmp_path)
    answer(request, site, bench)
    path = tmp_path / site.id / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"rounds":1', b'"rounds":0'))
    bench.ledgers.clear()
    reply = answer(dataclasses.replace(request, round=1), site, bench)
    assert isinstance(reply, Declined) and reply.code == "ledger" and str(tmp_path) not in reply.reason


def test_an_older_ledger_under_a_kept_reply_is_noticed(tmp_path: Path) -> None:
    site, bench, request = _opened(tmp_path)
    answer(request, site, bench)
    path = tmp_path / site.id / "ledger.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    bench.ledgers.clear()
    reply = answer(request, site, bench)
    assert isinstance(reply, Declined) and reply.code == "ledger"


OLDER = {  # what is put back -> what the site says of it
    ("account", "account.head", "ledger.jsonl"): "the coordinator has counted entry 3 of this site's ledger, and it is not there",
    ("account", "account.head"): "not as it was written",
}


@pytest.mark.parametrize("what", OLDER, ids=" and ".join)
def test_a_site_whose_account_and_its_head_are_put_back_together_declines_and_is_charged_nothing(
    what: tuple[str, ...], tmp_path: Path
) -> None:
    class Rejoins(Inline):
        """Site 0 comes back to round 2 with copies from before round 1, in a process that remembers nothing."""

        def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
            number, site = next((r.round, s) for s, r in requests.items() if isinstance(r, TrainRequest))
            here = tmp_path / "run" / "sites" / site
            if number == 1:
                shutil.copytree(here, tmp_path / "copy")
            if number == 2:
                for name in what:
                    old = tmp_path / "copy" / name
                    (shutil.copytree if old.is_dir() else shutil.copy2)(
                        old, here / name, **({"dirs_exist_ok": True} if old.is_dir() else {})
                    )
                spent = [path for path in here.rglob("*") if path.is_file() and path.parent.name != "replies"]
                before = [path.read_bytes() for path in spent]
                self.bench.ledgers.clear()
                self.bench.accounts.clear()
                replies = list(super().ask(requests))
                assert [path.read_bytes() for path in spent] == before
                raise _Declining([r for r in replies if isinstance(r, Declined)])
            yield from super().ask(requests)

    def engine(setting: Any, conduct: Any) -> Any:
        bench = Workbench.set_up(setting.experiment, setting.data.shape, setting.data.classes, len(setting.data.sites), setting.states)
        return conduct(Rejoins(setting.data, bench))

    with pytest.raises(_Declining) as found:
        simulate(experiment(), tmp_path / "run", None, quiet=True, engine=engine)
    (reply,) = found.value.replies
    assert reply.site == "site-000" and reply.code == "ledger" and OLDER[what] in reply.reason


class _Declining(BaseException):
    """Ends a run with what its sites declined."""

    def __init__(self, replies: list[Declined]):
        super().__init__(replies)
        self.replies = replies


def _opened(folder: Path) -> tuple[Any, Workbench, TrainRequest]:
    config = experiment()
    data = open_federated(config)
    bench = Workbench.set_up(config, data.shape, data.classes, len(data.sites), folder)
    model = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    return data.site(data.sites[0]), bench, TrainRequest("run", 0, 1, model, witness=FIRST)


# ---------------------------------------------------------------------------------------------------- who is believed


def test_the_coordinator_counts_no_reply_without_the_sites_own_charge_for_this_request(tmp_path: Path) -> None:
    ledgers = begin(planned(2, 4), tmp_path / "run")
    play(ledgers, range(1))
    request = asked(ledgers, 1)
    sent = dataclasses.replace(request, witness=ledgers.coordinator.request(request, ledgers.sites))
    a, b = ledgers.sites
    lines = (ledgers.states / a / "ledger.jsonl").read_bytes().splitlines()
    refused = {
        b"": "no entry",
        lines[1]: "another round",
        lines[0]: "another kind",
        lines[1].replace(b'"round":0', b'"round":1'): "signature",
    }
    for line, said in refused.items():
        with pytest.raises(UpdateRefused, match=said):
            ledgers.coordinator.checked(a, line, sent)
    with pytest.raises(UpdateRefused, match="signature"):
        ledgers.coordinator.checked(b, lines[1], dataclasses.replace(sent, round=0))


def test_the_coordinator_counts_no_reply_of_a_site_whose_ledger_went_back(tmp_path: Path) -> None:
    ledgers = begin(planned(2, 4), tmp_path / "run")
    play(ledgers, range(1))
    path = ledgers.of(ledgers.sites[0]).chain.path
    older = path.read_bytes()
    play(ledgers, range(1, 2))
    path.write_bytes(older)
    with pytest.raises(UpdateRefused, match="entry 3, which was counted before: its ledger went back"):
        play(ledgers, range(2, 3))


def test_a_run_is_gone_on_with_by_the_keys_that_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers = begin(planned(2, 4), tmp_path / "run")
    monkeypatch.setenv("FEDVISION_STATE", str(tmp_path / "another user"))
    site, c = ledgers.sites[0], ledgers.coordinator
    with pytest.raises(ConfigError, match=r"begun with another key.*FEDVISION_STATE"):
        SiteLedger(ledgers.states, Keyring.here().key(c.run, site), c.run, site, c.terms).join()
    with pytest.raises(ConfigError, match=r"begun with another key.*FEDVISION_STATE"):
        type(c)(c.chain.path.parent, Keyring.here().key(c.run, None), c.run, c.roster, c.terms).found({})


def test_a_site_that_died_while_it_joined_pays_for_the_whole_plan_when_it_goes_on(tmp_path: Path) -> None:
    ledgers = begin(planned(2, 4, privacy=SECRET_DRAW), tmp_path / "run")
    path = ledgers.of(ledgers.sites[0]).chain.path
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    again = ledgers.of(ledgers.sites[0])
    again.join()
    again.join()
    assert (again.rounds, again.chain.count) == (4, 2)


# ---------------------------------------------------------------------------------------------------- a secret draw


def test_under_a_plan_paid_at_joining_nothing_that_is_written_later_tells_who_was_drawn(tmp_path: Path) -> None:
    """Two runs of four rounds in which other sites are drawn: but for their names, keys and times, the folders are the same."""
    config = planned(3, 4, privacy=SECRET_DRAW)
    told = []
    for name, drawn in (("one", [[0], [1], [2], [0]]), ("other", [[0, 1, 2], [], [], [1]])):
        ledgers = begin(config, tmp_path / name)
        for number, chosen in enumerate(drawn):
            request = asked(ledgers, number)
            witness = ledgers.coordinator.request(request, [ledgers.sites[i] for i in chosen])
            for i in chosen:
                site = ledgers.of(ledgers.sites[i])
                site.charge(f"{number}", number, 1, "model", witness, 0.5)
                site.settle(f"{number}")
                assert site.entry(f"{number}") == b""
            ledgers.coordinator.receive(number, 1, {})
        ledgers.close()
        found = checked(tmp_path / name)
        assert found.closed and not found.notes and [(s.rounds, len(s.charges)) for s in found.sites] == [(4, 1)] * 3
        files = [tmp_path / name / "ledger.jsonl", *sorted((tmp_path / name / "sites").glob("*/ledger.jsonl"))]
        told.append(
            [
                [{k: v for k, v in b.items() if k in ("kind", "rounds", "round", "attempt", "new", "sites")} for b in bodies(f)]
                for f in files
            ]
        )
    assert told[0] == told[1]


def test_terms_of_a_plan_say_what_a_charge_is_and_how_it_is_counted() -> None:
    terms = Terms.of(experiment(), plan_of(experiment()))
    assert (terms.once_a_round, terms.repeatable, terms.event.sampler, terms.event.divisor) == (False, False, "poisson", 20.0)
    central = experiment(SITE_LEVEL | {"mechanism": "central"})
    terms = Terms.of(central, plan_of(central))
    assert (terms.once_a_round, terms.repeatable, terms.event.sampler, terms.event.divisor) == (True, True, "all", 3.0)
