"""The site's side of a federation of real sites: keys, rosters that people sign, and what a site goes by."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clients.masked import open_masking
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.errors import AggregationRefused, ConfigError
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.types import SiteId
from privacy.commands import app
from privacy.ledger.keys import Keyring
from privacy.ledger.keys import Roster as LedgerRoster
from privacy.membership import Membership, fingerprints, ledger_key, membership_of, new_identity, read_identity, read_roster
from privacy.secure_aggregation.messages import Open, Session

SITES = ("east", "north", "south", "west")


def fedvision(*words: object) -> str:
    """What a command prints; the error that it ends with is raised."""
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Four sites with a folder each and a consortium: their public keys."""
    places = {"consortium": tmp_path / "offline" / "consortium.key", **{site: tmp_path / site / "identity.key" for site in SITES}}
    return {name: fedvision("identity", "new", path) for name, path in places.items()}


def made(path: Path, keys: dict[str, str], sites: tuple[str, ...] = SITES, *more: object) -> str:
    """A roster that the consortium has signed; its fingerprint."""
    named = [word for site in sites for word in ("--site", f"{site}={keys[site]}")]
    fedvision("roster", "make", path, "--federation", "lungs", *named, "--authority", keys["consortium"], *more)
    fedvision("roster", "sign", path, path.parent / "offline" / "consortium.key")
    return shown(path)["fingerprint"]


def shown(path: Path) -> dict[str, Any]:
    return json.loads(fedvision("roster", "show", path, "--json"))


def test_a_key_is_its_owners_alone_and_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    public = new_identity(path).public
    assert path.stat().st_mode & 0o777 == 0o600
    assert fedvision("identity", "show", path) == public.hex()
    with pytest.raises(ConfigError, match="a key is never written over"):
        new_identity(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others than its owner"):
        read_identity(path)
    path.chmod(0o600)
    path.write_text("not a key\n")
    with pytest.raises(ConfigError, match="holds no key"):
        read_identity(path)


def test_a_site_pins_the_roster_whose_fingerprint_it_was_told_and_no_other(tmp_path: Path, keys: dict[str, str]) -> None:
    fingerprint = made(tmp_path / "roster.json", keys)
    with pytest.raises(AggregationRefused) as refused:
        fedvision("roster", "pin", tmp_path / "north", tmp_path / "roster.json", "--fingerprint", "0" * 64)
    assert refused.value.check == "roster"
    assert "site north goes by roster 1 of lungs" in fedvision(
        "roster", "pin", tmp_path / "north", tmp_path / "roster.json", "--fingerprint", fingerprint
    )
    said = shown(tmp_path / "north")
    assert (said["site"], said["fingerprint"], said["minimum_cohort"]) == ("north", fingerprint, 3)
    with pytest.raises(ConfigError, match="has a pinned roster"):
        fedvision("roster", "pin", tmp_path / "north", tmp_path / "roster.json", "--fingerprint", fingerprint)


def test_a_roster_that_the_consortium_has_not_signed_or_that_lacks_the_site_is_not_pinned(tmp_path: Path, keys: dict[str, str]) -> None:
    made(tmp_path / "roster.json", keys, SITES[:3])
    signed = read_roster(tmp_path / "roster.json")
    with pytest.raises(ConfigError, match="does not have this site's key"):
        Membership.join(tmp_path / "west", signed, signed.roster.fingerprint, 3)
    value = json.loads((tmp_path / "roster.json").read_text())
    (tmp_path / "roster.json").write_text(json.dumps(value | {"sites": value["sites"] | {"north": keys["west"]}}))
    changed = read_roster(tmp_path / "roster.json")
    with pytest.raises(AggregationRefused) as refused:
        Membership.join(tmp_path / "east", changed, changed.roster.fingerprint, 3)
    assert refused.value.check == "roster_signature"


def test_a_newer_roster_takes_effect_when_the_sites_people_have_approved_it_and_never_goes_back(
    tmp_path: Path, keys: dict[str, str]
) -> None:
    first, second, third = (tmp_path / f"{n}.json" for n in (1, 2, 3))
    fedvision("roster", "pin", tmp_path / "north", first, "--fingerprint", made(first, keys))
    fedvision("roster", "make", second, "--after", first, "--remove", "west")
    fedvision("roster", "sign", second, tmp_path / "offline" / "consortium.key")
    with pytest.raises(AggregationRefused) as refused:
        fedvision("roster", "adopt", tmp_path / "north", second)
    assert refused.value.check == "not_approved"
    fedvision("roster", "approve", tmp_path / "north", shown(second)["fingerprint"])
    assert "goes by roster 2 of lungs" in fedvision("roster", "adopt", tmp_path / "north", second)
    with pytest.raises(AggregationRefused) as refused:
        fedvision("roster", "adopt", tmp_path / "north", first)
    assert refused.value.check == "roster_version"
    fedvision("roster", "make", third, "--after", second, "--remove", "south")
    fedvision("roster", "sign", third, tmp_path / "offline" / "consortium.key")
    fedvision("roster", "approve", tmp_path / "north", shown(third)["fingerprint"])
    with pytest.raises(AggregationRefused) as refused:
        fedvision("roster", "adopt", tmp_path / "north", third)
    assert refused.value.check == "roster_shrinks"
    assert shown(tmp_path / "north")["version"] == 2


def test_m_of_the_sites_sign_where_there_is_no_consortium(tmp_path: Path, keys: dict[str, str]) -> None:
    path = tmp_path / "roster.json"
    named = [word for site in SITES for word in ("--site", f"{site}={keys[site]}", "--authority", keys[site])]
    fedvision("roster", "make", path, "--federation", "lungs", *named, "--quorum", 3)
    for count, site in enumerate(("east", "west", "south"), 1):
        fedvision("roster", "sign", path, tmp_path / site / "identity.key")
        assert len(shown(path)["signed_by"]) == count
        if count == 2:
            with pytest.raises(AggregationRefused) as refused:
                Membership.join(tmp_path / "north", read_roster(path), read_roster(path).roster.fingerprint, 3)
            assert refused.value.check == "roster_signature"
    assert Membership.join(tmp_path / "north", read_roster(path), read_roster(path).roster.fingerprint, 3).site == "north"


def test_the_roster_of_a_runs_ledgers_is_made_of_a_signed_one(tmp_path: Path, keys: dict[str, str]) -> None:
    made(tmp_path / "roster.json", keys)
    fedvision(
        "roster", "ledger", tmp_path / "roster.json", "--run", "one", "--coordinator", keys["consortium"], "--out", tmp_path / "one.json"
    )
    found = LedgerRoster.read(tmp_path / "one.json")
    assert (found.run, found.coordinator, found.sites) == ("one", keys["consortium"], {site: keys[site] for site in SITES})
    fedvision("roster", "make", tmp_path / "unsigned.json", "--after", tmp_path / "roster.json")
    with pytest.raises(ConfigError, match="signed by 0 of its authorities, and 1 are needed"):
        fedvision(
            "roster", "ledger", tmp_path / "unsigned.json", "--run", "one", "--coordinator", keys["east"], "--out", tmp_path / "two.json"
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--federation", "lungs", "--site", "north=abc"), "is no public key"),
        (("--federation", "lungs", "--site", "north"), "write it as a name and a public key"),
        ((), "give one of them"),
        (("--federation", "lungs"), "a quorum of 1 to the number of authorities"),
    ],
)
def test_a_roster_that_cannot_be_says_why(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fedvision("roster", "make", tmp_path / "roster.json", *words)


def _pointed(states: Path, site: str, folder: Path) -> Path:
    (states / site).mkdir(parents=True)
    (states / site / "site.json").write_text(json.dumps({"folder": str(folder)}))
    return states


def test_a_real_sites_ledger_is_signed_by_its_identity_and_a_simulated_ones_by_the_user(tmp_path: Path, keys: dict[str, str]) -> None:
    made(tmp_path / "roster.json", keys)
    signed = read_roster(tmp_path / "roster.json")
    Membership.join(tmp_path / "north", signed, signed.roster.fingerprint, 3)
    states = _pointed(tmp_path / "run", "north", tmp_path / "north")
    assert ledger_key(states, "run", SiteId("north")).public_key().public_bytes_raw().hex() == keys["north"]
    assert ledger_key(states, "run", SiteId("south")).private_bytes_raw() == Keyring.here().key("run", "south").private_bytes_raw()
    _pointed(tmp_path / "run", "south", tmp_path / "north")
    with pytest.raises(ConfigError, match="is the folder of site north, and south is asked"):
        membership_of(states, SiteId("south"))
    os.chmod(tmp_path / "north" / "identity.key", 0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        ledger_key(states, "run", SiteId("north"))


def test_a_real_site_goes_by_its_own_roster_and_minima_and_keeps_its_state_over_runs(tmp_path: Path, keys: dict[str, str]) -> None:
    made(tmp_path / "roster.json", keys)
    signed = read_roster(tmp_path / "roster.json")
    Membership.join(tmp_path / "north", signed, signed.roster.fingerprint, 4, threshold=4)
    values = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 4}, "federation": {"rounds": 1, "min_replies": 3},
        "model": {"name": "mlp", "width": 4}, "evaluation": {"sites": "none", "server": {}}, "encoding": {"bits": 32},
        "secure_aggregation": {"enabled": True, "min_cohort": 3, "planned_dropouts": 1},
    }  # fmt: skip
    e = validate(Experiment, values, "the test")
    data = open_federated(e)
    said = []
    for run in ("one", "two"):
        states = _pointed(tmp_path / run, "north", tmp_path / "north")
        bench = Workbench.set_up(e, data.shape, data.classes, 4, states)
        site = open_masking(states, SiteId("north"), bench)
        said.append(site.answer(Open(Session("one", 0, 1, signed.roster.fingerprint))))
    assert (said[0].threshold, said[0].cohort) == (4, 4)
    assert said[0] == said[1]  # the same attempt, the same keys: what it said is kept beside its identity
    assert site.identity.public.hex() == keys["north"]


@pytest.mark.parametrize(
    "changed",
    [
        {"federation": ""},
        {"federation": 3},
        {"version": 0},
        {"version": "1"},
        {"version": True},
        {"quorum": 0},
        {"more": 1},
        {"sites": {"east": "ab"}},
    ],
    ids=str,
)
def test_a_file_that_is_no_roster_is_named(tmp_path: Path, keys: dict[str, str], changed: dict[str, Any]) -> None:
    made(tmp_path / "roster.json", keys)
    value = json.loads((tmp_path / "roster.json").read_bytes())
    (tmp_path / "roster.json").write_text(json.dumps(value | changed))
    with pytest.raises(ConfigError, match=r"roster\.json holds no roster"):
        read_roster(tmp_path / "roster.json")


def test_what_is_no_fingerprint_is_named() -> None:
    digits = "0123456789abcdef" * 4
    assert fingerprints([f"{digits[:32]} {digits[32:].upper()}"]) == [bytes.fromhex(digits)]
    for odd in (digits[:-1], digits + "0", "g" * 64, ""):
        with pytest.raises(ConfigError, match="64 hexadecimal digits"):
            fingerprints([odd])


def test_a_newer_roster_in_which_a_site_has_another_name_is_not_adopted(tmp_path: Path, keys: dict[str, str]) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    fingerprint = made(first, keys)
    fedvision("roster", "pin", tmp_path / "north", first, "--fingerprint", fingerprint)
    fedvision("roster", "make", second, "--after", first, "--remove", "north", "--site", f"norden={keys['north']}")
    fedvision("roster", "sign", second, tmp_path / "offline" / "consortium.key")
    fedvision("roster", "approve", tmp_path / "north", shown(second)["fingerprint"])
    with pytest.raises(AggregationRefused, match="calls this site norden, and it is north"):
        fedvision("roster", "adopt", tmp_path / "north", second)
