"""Whatever is changed in a run folder's ledgers is found, by line and reason, or said to be beyond what a folder can show."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_tampering import bodies, judged, last, relined, resealed

from fedvision.experiment import Conditions
from privacy.ledger import terms
from privacy.ledger.figures import Event, rdp_epsilon
from privacy.ledger.keys import Keyring, Roster, roster_path
from privacy.ledger.reading import Fault
from privacy.ledger.verify import Verdict, verify
from privacy.limits import Limit, over_rdp
from simulations.rehearsal import begin, planned, play

SITE = "sites/site-001/ledger.jsonl"


@dataclass
class Run:
    """A copy of an honest run folder, and the keys that its parties have."""

    path: Path
    roster: Roster
    older: Path

    @property
    def site(self) -> Path:
        """One site's ledger."""
        return self.path / SITE

    @property
    def coordinator(self) -> Path:
        """The coordinator's."""
        return self.path / "ledger.jsonl"

    def key(self, site: str | None = "site-001") -> Ed25519PrivateKey:
        """The key of a party that lies."""
        return Keyring.here().key(self.roster.run, site)

    def verdict(self, head: str | None = None) -> Verdict:
        """What the verifier says."""
        return judged(self.path, self.roster, head)

    def fault(self, said: str, file: str = SITE) -> Fault:
        """That it finds this, in this file."""
        with pytest.raises(Fault, match=said) as caught:
            self.verdict()
        assert caught.value.file == file
        return caught.value


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three sites, five rounds, closed; and the folder as it was after three."""
    folder = tmp_path_factory.mktemp("honest")
    ledgers = begin(planned(3, 6, pld_every=2), folder / "run")
    play(ledgers, range(3))
    shutil.copytree(folder / "run", folder / "older")
    play(ledgers, range(3, 5))
    ledgers.close()
    return Run(folder / "run", Roster.read(roster_path(ledgers.coordinator.run)), folder / "older")


@pytest.fixture
def run(honest: Run, tmp_path: Path) -> Iterator[Run]:
    yield Run(Path(shutil.copytree(honest.path, tmp_path / "run")), honest.roster, honest.older)


def test_an_honest_folder_is_sound_and_its_figures_are_those_of_the_plan(run: Run) -> None:
    found = run.verdict()
    assert found.closed and not found.notes and found.entries == 3 * (1 + 5 + 5 + 2 + 1) + 2 + 5 + 5 + 1
    assert [(s.rounds, s.received) for s in found.sites] == [(5, 5)] * 3
    assert found.sites[0].pld == pytest.approx(found.terms.pld(5)) and found.sites[0].pld < found.sites[0].epsilon


def test_it_is_as_sound_in_another_place_with_the_roster_alone(run: Run, tmp_path: Path) -> None:
    moved = shutil.move(run.path, tmp_path / "elsewhere")
    for other in ("summary.json", "config.yaml"):
        (Path(moved) / other).unlink()
    assert judged(Path(moved), run.roster).closed


def test_sites_may_be_called_anything(tmp_path: Path) -> None:
    ledgers = begin(planned(2, 3), tmp_path / "run", name="Spital Süd / {} 😀 ../%2F")
    play(ledgers, range(2))
    ledgers.close()
    assert judged(tmp_path / "run", Roster.read(roster_path(ledgers.coordinator.run))).closed


# --------------------------------------------------------------------------------------------- without a key


@pytest.mark.parametrize("file", [SITE, "ledger.jsonl"])
def test_one_digit_changed_is_found(run: Run, file: str) -> None:
    relined(run.path / file, lambda lines: [*lines[:2], re.sub(rb"\d(?=\D*$)", lambda m: b"%d" % (9 - int(m[0])), lines[2]), *lines[3:]])
    assert run.fault("signature", file).line == 3


@pytest.mark.parametrize("file", [SITE, "ledger.jsonl"])
def test_an_entry_removed_is_found(run: Run, file: str) -> None:
    relined(run.path / file, lambda lines: [*lines[:4], *lines[5:]])
    assert run.fault("entry 5, and stands where entry 4", file).line == 5


@pytest.mark.parametrize("file", [SITE, "ledger.jsonl"])
def test_entries_reordered_are_found(run: Run, file: str) -> None:
    relined(run.path / file, lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]])
    assert run.fault("entry 3, and stands where entry 2", file).line == 3


@pytest.mark.parametrize("file", [SITE, "ledger.jsonl"])
def test_an_entry_duplicated_is_found(run: Run, file: str) -> None:
    relined(run.path / file, lambda lines: [*lines[:3], lines[2], *lines[3:]])
    assert run.fault("entry 2, and stands where entry 3", file).line == 4


@pytest.mark.parametrize("left", range(1, 14))
def test_a_sites_ledger_cut_at_any_line_is_found(run: Run, left: int) -> None:
    relined(run.site, lambda lines: lines[:left])
    with pytest.raises(Fault, match="cut, or an older file was put back"):
        run.verdict()


def test_a_ledger_cut_within_a_line_is_found(run: Run) -> None:
    run.site.write_bytes(run.site.read_bytes()[:-20])
    assert run.fault("it does not end").line == 14
    run.site.write_bytes(b"")
    run.fault("it is empty")


@pytest.mark.parametrize("left", range(1, 12))
def test_the_coordinators_ledger_cut_before_its_end_is_found(run: Run, left: int) -> None:
    relined(run.coordinator, lambda lines: lines[:left])
    with pytest.raises(Fault, match=r"never asked for|root at the end of the coordinator's ledger"):
        run.verdict()


def test_the_coordinators_last_entry_cut_is_said_to_be_for_an_outside_head(run: Run) -> None:
    noted = run.verdict().head
    relined(run.coordinator, lambda lines: lines[:-1])
    assert "not closed" in run.verdict().notes[0]
    with pytest.raises(Fault, match="noted elsewhere is in no chain"):
        run.verdict(noted)


def test_another_key_is_found(run: Run) -> None:
    resealed(run.site, Ed25519PrivateKey.generate(), lambda content: None)
    assert run.fault("signature is not by the key of this ledger").line == 1


def test_a_sites_own_key_on_the_coordinators_ledger_is_found(run: Run) -> None:
    resealed(run.coordinator, run.key(), lambda content: None)
    run.fault("signature", "ledger.jsonl")


def test_an_older_file_of_a_site_put_back_is_found(run: Run) -> None:
    shutil.copy(run.older / SITE, run.site)
    run.fault("entry 8 of site site-001 is here, and that site's ledger ends before it", "ledger.jsonl")


def test_an_older_file_of_the_coordinator_put_back_is_found(run: Run) -> None:
    shutil.copy(run.older / "ledger.jsonl", run.coordinator)
    run.fault("never asked for", "sites/site-000/ledger.jsonl")


def test_an_older_folder_put_back_is_sound_but_not_closed_and_an_outside_head_shows_it(run: Run) -> None:
    noted = run.verdict().head
    old = Run(run.older, run.roster, run.older)
    found = old.verdict()
    assert not found.closed and "a head that was noted elsewhere" in found.notes[0]
    assert not old.verdict(found.head).closed
    with pytest.raises(Fault, match="in no chain"):
        old.verdict(noted)


def test_a_ledger_removed_is_found(run: Run) -> None:
    run.site.unlink()
    run.fault("a ledger is missing")
    run.coordinator.unlink()
    run.fault("a ledger is missing", "ledger.jsonl")


def test_one_sites_ledger_in_the_place_of_anothers_is_found(run: Run) -> None:
    shutil.copy(run.path / "sites/site-000/ledger.jsonl", run.site)
    run.fault("signature")


def test_a_ledger_of_nobody_is_found(run: Run) -> None:
    shutil.copytree(run.site.parent, run.path / "sites/site-009")
    run.fault("of nobody who is in the roster", "sites/site-009/ledger.jsonl")


@pytest.mark.parametrize("name", ["old-ledger.jsonl", "sites/site-001/ledger-2.jsonl", "sites/site-001/account/ledger.jsonl"])
def test_a_second_ledger_anywhere_in_the_folder_is_found(run: Run, name: str) -> None:
    (run.path / name).parent.mkdir(exist_ok=True)
    shutil.copy(run.site, run.path / name)
    run.fault("a ledger of nobody", name)


def test_a_ledger_that_is_a_pipe_or_a_folder_is_missing(run: Run) -> None:
    run.site.unlink()
    os.mkfifo(run.site)
    run.fault("a ledger is missing")
    run.site.unlink()
    run.site.mkdir()
    run.fault("a ledger is missing")


def test_a_config_that_is_not_the_one_of_the_plan_is_found(run: Run) -> None:
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("clip: 1.0", "clip: 0.1"))
    with pytest.raises(Fault, match=r"config\.yaml: it is not the config that the ledgers were made under"):
        verify(run.path, run.roster)
    config.write_text("[")
    with pytest.raises(Fault, match=r"config\.yaml: it cannot be read"):
        verify(run.path, run.roster)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"1.0", b"1"),
        lambda text: text.replace(b"1.0", b"1e0"),
        lambda text: text.replace(b"1.0", b"1.00"),
        lambda text: text.replace(b"1.0", b"NaN"),
        lambda text: text.replace(b'"seq":0', b'"seq":-0'),
        lambda text: text.replace(b'"body":{', b'"body": {'),
        lambda text: text.replace(b'"kind"', b'"\\u006bind"'),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: re.sub(rb'"sig":"[0-9a-f]*', lambda m: m[0][:7] + m[0][7:].upper(), text),
    ],
    ids=["1.0 as 1", "as 1e0", "as 1.00", "as NaN", "-0", "space", "escape", "CRLF", "BOM", "capitals"],
)  # fmt: skip
def test_the_same_values_in_another_notation_are_found(run: Run, change) -> None:  # type: ignore[no-untyped-def]
    run.coordinator.write_bytes(change(run.coordinator.read_bytes()))
    with pytest.raises(Fault) as caught:
        run.verdict()
    assert (caught.value.file, caught.value.line) == ("ledger.jsonl", 1)


def test_two_runs_spliced_are_found(run: Run, tmp_path: Path) -> None:
    other = begin(planned(3, 6, pld_every=2), tmp_path / "other")
    play(other, range(5))
    other.close()
    shutil.copy(tmp_path / "other" / SITE, run.site)
    run.fault("signature")
    relined(run.site, lambda lines: run.path.joinpath("sites/site-000/ledger.jsonl").read_bytes().splitlines(keepends=True)[:1] + lines[1:])
    run.fault("signature")


# ------------------------------------------------------------------------------------------- by one who has a key


def test_a_forked_ledger_of_a_site_that_lies_is_found(run: Run) -> None:
    """The site signs another history of the same length, in which its third round began a second later."""

    def other(content: list[dict]) -> None:  # type: ignore[type-arg]
        [body for body in content if body["kind"] == "charge"][2]["time"] += 1

    resealed(run.site, run.key(), other)
    run.fault("entry 6 of site site-001 is another one in its ledger: forked, or begun again", "ledger.jsonl")


def test_a_ledger_begun_again_is_found(run: Run) -> None:
    def begun_again(content: list[dict]) -> None:  # type: ignore[type-arg]
        content[0]["nonce"] = "0" * 32
        del content[1:]

    resealed(run.site, run.key(), begun_again)
    run.fault("entry 0 of site site-001 is another one in its ledger: forked, or begun again", "ledger.jsonl")


@pytest.mark.parametrize(
    ("kind", "name", "change", "said"),
    [
        ("charge", "epsilon", lambda x: x * 0.99, "its epsilon is .*, and its events come to"),
        ("charge", "rdp", lambda x: [0.9 * v for v in x], "cumulative rdp does not follow"),
        ("charge", "rounds", lambda x: x - 1, "its rounds is"),
        ("charge", "new", lambda x: 0, "its new is '0', and it should charge '1'"),
        ("charge", "noise_multiplier", lambda x: 2.0, "its noise_multiplier is '2.0', and the plan has '1.0'"),
        ("charge", "model", lambda x: "0" * 64, "its model is not the one in the coordinator's ledger"),
        ("charge", "witness", lambda x: "0" * 64, "its witness is not the one in the coordinator's ledger"),
        ("charge", "round", lambda x: 99, "round 99, attempt 1, which the coordinator's ledger never asked for"),
        ("charge", "run", lambda x: "another", "its run is 'another'"),
        ("checkpoint", "pld", lambda x: x * 0.99, "its PLD figure is"),
        ("settle", "charge", lambda x: 0, "no charge, or settled already"),
        ("end", "pld", lambda x: x * 0.99, "its PLD figure is"),
        ("end", "witness", lambda x: "0" * 64, "its witness is not the root at the end"),
        ("plan", "noise_multiplier", lambda x: 2.0, "its epsilon is"),
        ("plan", "epsilon", lambda x: 0.1, "its epsilon is"),
        ("plan", "pld", lambda x: [[6, 0.1]], "its PLD figure is"),
        ("plan", "rounds", lambda x: 7, "its epsilon is"),
        ("plan", "sites_per_unit", lambda x: 2, "its sites_per_unit is '2', and the coordinator registered '1'"),
    ],
)  # fmt: skip
def test_a_figure_that_does_not_follow_from_the_events_is_found_though_it_is_signed(
    run: Run, kind: str, name: str, change, said: str
) -> None:  # type: ignore[no-untyped-def]
    def lie(content: list[dict]) -> None:  # type: ignore[type-arg]
        body = last(content, kind)
        body[name] = change(body[name])

    resealed(run.site, run.key(), lie)
    run.fault(said)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("plan", "clip", 1), ("plan", "repeatable", None), ("plan", "sampler", "all"), ("plan", "orders", [2, 4]), ("plan", "steps", 2**40),
        ("plan", "noise_multiplier", 1e308), ("plan", "noise_multiplier", 5e-324), ("plan", "mechanism", 1), ("request", "model", 0),
        ("request", "round", True), ("request", "sites", ""), ("receipts", "attempt", 1.0),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_found_where_it_stands(run: Run, kind: str, name: str, value: object) -> None:
    resealed(run.coordinator, run.key(None), lambda content: last(content, kind).update({name: value}))
    at = [body["kind"] for body in bodies(run.coordinator)]
    with pytest.raises(Fault) as caught:
        run.verdict()
    assert (caught.value.file, caught.value.line) == ("ledger.jsonl", len(at) - at[::-1].index(kind))


@pytest.mark.parametrize(
    ("name", "wrong", "file", "line"),
    [
        ("rdp_epsilon", 1.002, "ledger.jsonl", 1), ("rdp_epsilon", 0.998, "ledger.jsonl", 1), ("epsilon", 1.002, "ledger.jsonl", 1),
        ("epsilon", 0.998, "ledger.jsonl", 1), ("rho", 0.998, "sites/site-000/ledger.jsonl", 2),
    ],
)  # fmt: skip
def test_figures_that_all_parties_sign_and_that_are_off_by_two_thousandths_are_found(
    name: str, wrong: float, file: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        right = getattr(terms, name)
        patched.setattr(terms, name, lambda *given: wrong * right(*given))
        ledgers = begin(planned(1, 2), tmp_path / "run")
        play(ledgers, range(2))
    with pytest.raises(Fault) as caught:
        judged(tmp_path / "run", ledgers.coordinator.roster)
    assert (caught.value.file, caught.value.line) == (file, line)


def test_more_charges_than_the_plan_holds_are_found(run: Run) -> None:
    def over(content: list[dict]) -> None:  # type: ignore[type-arg]
        charge, orders = last(content, "charge"), content[0]["orders"]
        each = np.asarray(charge["rdp"]) / charge["rounds"]
        content.pop()
        for rounds in (6, 7):
            figures = {"rdp": list(each * rounds), "epsilon": rdp_epsilon(orders, each * rounds, charge["delta"])}
            content.append({**charge, "rounds": rounds, **figures})

    resealed(run.site, run.key(), over)
    run.fault("it is charge 7, over the budget of the plan, which is 6")


def test_more_charges_than_the_sites_own_account_holds_are_found(tmp_path: Path) -> None:
    """The site signs them all the same: it states what its account gives a run, and spends more."""
    config = planned(2, 5)
    plan = Limit.filled_by(Event("dp_sgd", 1.0, 1.0, 0.1, 1, 20.0, "poisson", "example", "add_remove", 1e-4), 5, 1e-4)
    held = over_rdp(plan.orders[0], 1e-4) + (plan.epsilon - over_rdp(plan.orders[0], 1e-4)) * 3 / 5  # what three of five charges take
    ledgers = begin(config.model_copy(update={"conditions": Conditions(budgets={"site-001": held})}), tmp_path / "run")
    play(ledgers, range(3))
    assert not judged(tmp_path / "run", ledgers.coordinator.roster).closed
    play(ledgers, range(3, 5))
    with pytest.raises(Fault, match="it is charge 4, and the limit of the site's account, which its first entry states, holds 3") as caught:
        judged(tmp_path / "run", ledgers.coordinator.roster)
    assert (caught.value.file, caught.value.line) == (SITE, 8)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epsilon", "much"), ("shares", [2.0]), ("orders", [1.0]), ("relation", "none"), ("more", 1.0)],
    ids=lambda v: str(v),
)
def test_a_limit_that_is_none_is_found(run: Run, name: str, value: object) -> None:
    resealed(run.site, run.key(), lambda bodies: bodies[0]["limit"].update({name: value}))
    run.fault("its limit cannot be read")


def test_a_long_run_is_read_by_several_processes_to_the_same_verdicts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run.verdict()
    monkeypatch.setattr("privacy.ledger.verify.LONG", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    together = run.verdict(alone.sites[1].hashes[2])
    assert (together.head, together.entries, together.sites) == (alone.head, alone.entries, alone.sites)
    resealed(run.site, run.key(), lambda bodies: last(bodies, "charge").update(epsilon=0.1))
    fault = run.fault("its epsilon is 0.1, and its events come to")
    assert fault.line == 12


def test_an_entry_that_only_the_coordinator_has_is_found(tmp_path: Path) -> None:
    ledgers = begin(planned(3, 6, pld_every=2), tmp_path / "run")
    play(ledgers, range(2))
    ledgers.coordinator.receive(1, 1, {"site-001": (9, "a" * 64)})
    with pytest.raises(Fault, match="entry 9 of site site-001 is here, and that site's ledger ends before it"):
        judged(tmp_path / "run", Roster.read(roster_path(ledgers.coordinator.run)))


def test_a_charge_that_the_coordinator_never_received_is_fine_and_counts(tmp_path: Path) -> None:
    ledgers = begin(planned(3, 3), tmp_path / "run")
    play(ledgers, range(2), lost=[ledgers.sites[1]])
    ledgers.close()
    found = judged(tmp_path / "run", Roster.read(roster_path(ledgers.coordinator.run)))
    assert [s.rounds for s in found.sites] == [2, 2, 2] and "2 of 6 charges have no receipt" in found.notes[0]


def test_a_request_that_tells_another_witness_is_found(run: Run) -> None:
    def lie(content: list[dict]) -> None:  # type: ignore[type-arg]
        last(content, "request")["witness"] = "0" * 64

    resealed(run.coordinator, run.key(None), lie)
    run.fault("not the root of the sites' heads as counted before it", "ledger.jsonl")


def test_a_coordinator_that_changes_its_own_past_is_found_by_what_the_sites_vouched_for(run: Run) -> None:
    def lie(content: list[dict]) -> None:  # type: ignore[type-arg]
        content[0]["time"] += 1

    resealed(run.coordinator, run.key(None), lie)
    run.fault("its witness is not the root of the sites' heads as counted before it, and of this ledger's", "ledger.jsonl")


def test_what_follows_the_end_is_found(run: Run) -> None:
    resealed(run.site, run.key(), lambda content: content.append(dict(last(content, "settle"))))
    run.fault("it follows the end")


def test_the_roster_says_who_takes_part(run: Run) -> None:
    keys = {name: key for name, key in run.roster.sites.items() if name != "site-001"}
    with pytest.raises(Fault, match="the roster has"):
        judged(run.path, Roster(run.roster.run, run.roster.coordinator, keys))
    with pytest.raises(Fault, match="the roster is of run"):
        judged(run.path, Roster("another", run.roster.coordinator, run.roster.sites))
    assert json.loads(run.roster.written())["sites"] == run.roster.sites
