"""docs/ledger.md says what is written: its examples are computed, its verifier is small and stands alone, its soaks find nothing."""

import ast
import contextlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_tampering import INDEPENDENT

from fedvision.cli import main
from privacy.accountants import epsilon
from privacy.ledger.entries import FIRST, parsed, written
from privacy.ledger.figures import Event, rdp_epsilon, rho
from privacy.ledger.keys import Keyring, Roster, roster_path
from privacy.ledger.merkle import Heads
from simulations.rehearsal import DP, begin, planned, play

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # Opacus', at the edge of its grid
ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "ledger.md").read_text()
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_the_lines_in_the_docs_are_what_the_key_in_the_docs_signs() -> None:
    lines = [line.encode() for line in DOCS.splitlines() if line.startswith('{"body":{')]
    assert len(lines) == 2 and KEY.public_key().public_bytes_raw().hex() in DOCS
    prev = FIRST
    for number, line in enumerate(lines):
        entry = parsed(line, number, prev, KEY.public_key())
        body = {name: value for name, value in entry.body.items() if name not in ("seq", "prev")}
        assert written(body, number, prev, KEY)[0] == line + b"\n"
        prev = entry.hash


def test_the_root_and_the_witness_in_the_docs_are_those_of_its_heads() -> None:
    heads = Heads.of({"a": (1, "1" * 64), "b": (4, "2" * 64), "c": (2, "3" * 64)})
    assert heads.root() in DOCS and heads.witness(7, "4" * 64) in DOCS and Heads().root() == FIRST


def test_the_figures_in_the_docs_are_those_of_its_event() -> None:
    event, orders = Event("dp_sgd", 1.0, 1.0, 0.1, 1, 20.0, "poisson", "example", "add_remove", 1e-4), (2.0, 4.0, 8.0, 16.0, 32.0)
    each = rho(event, orders)
    assert ", ".join(f"{x:.6g}" for x in each) in DOCS
    assert f"{rdp_epsilon(orders, 10 * each, 1e-4):.6g}" in DOCS and f"{epsilon([event.phase(10)], 1e-4):.6g}" in DOCS


def test_one_replaced_costs_no_less_than_one_added_and_at_full_rate_what_half_of_the_noise_does() -> None:
    def at(relation: str, rate: float, sigma: float = 1.0) -> np.ndarray:
        sampler = "poisson" if rate < 1 else "all"
        return rho(Event("dp_sgd", sigma, 1.0, rate, 1, None, sampler, "example", relation, 1e-4), (2.0, 4.0, 8.0))

    assert (at("replace_one", 0.1) >= at("add_remove", 0.1)).all()
    assert np.allclose(at("replace_one", 1.0), at("add_remove", 1.0, 0.5)) and np.allclose(at("add_remove", 1.0), [1.0, 2.0, 4.0])


def test_the_independent_verifier_is_under_200_lines_and_imports_nothing_of_this_project() -> None:
    source = (ROOT / "tools" / "verify_ledger.py").read_text()
    assert len(source.splitlines()) < 200
    named = [
        n
        for node in ast.walk(ast.parse(source))
        for n in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        )
    ]
    assert not {name.partition(".")[0] for name in named} & {"fedvision", "privacy", "clients", "server", "simulations"}


# ---------------------------------------------------------------------------------------------------- commands and keys


def test_the_commands_say_sound_or_why_not_or_that_the_keys_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledgers = begin(planned(2, 3), tmp_path / "run")
    play(ledgers, range(3))
    head = ledgers.close()
    roster = roster_path(ledgers.coordinator.run)
    run = str(tmp_path / "run")

    def said(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedvision", "privacy", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    code, out, _ = said("verify", run, "--head", head, "--json")
    found = json.loads(out.splitlines()[-1])
    assert code == 0 and found["sound"] and found["closed"] and found["head"] == head and [s["rounds"] for s in found["sites"]] == [3, 3]
    assert said("verify", run)[0] == 0 and said("verify", run, "--roster", str(roster))[0] == 0
    assert said("verify", run, "--head", "0" * 64)[0] == 1
    code, out, _ = said("spent", run, "--json")
    charges = json.loads(out.splitlines()[-1])["charges"]
    assert code == 0 and [(c["site"], c["rounds"]) for c in charges] == [(s, n) for s in ("site-000", "site-001") for n in (1, 2, 3)]
    assert "whole plan" not in said("spent", f"{run}/sites/site-001")[1]
    (tmp_path / "elsewhere").mkdir()
    kept = (tmp_path / "elsewhere" / "roster.json").write_bytes(roster.read_bytes()) and str(tmp_path / "elsewhere" / "roster.json")
    monkeypatch.setenv("FEDVISION_STATE", str(tmp_path / "nobody"))
    assert (
        said("verify", run)[0] == 2 and said("verify", run, "--roster", str(kept))[0] == 0 and said("verify", run, "--roster", run)[0] == 2
    )
    ledger = tmp_path / "run" / "sites" / "site-000" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"round":1', b'"round":2', 1))
    code, out, err = said("verify", run, "--roster", str(kept), "--json")
    assert code == 1 and json.loads(out.splitlines()[-1])["line"] == 4 and "sites/site-000/ledger.jsonl, line 4: its signature" in err
    (tmp_path / "run" / "ledger.jsonl").unlink()
    (tmp_path / "run" / "summary.json").unlink()
    assert said("verify", run)[0] == 1


@pytest.mark.parametrize(
    ("changes", "counts", "reason"),
    [
        ({}, [], ""),
        ({"relation": "zero_out"}, [1, 2, 3], "prv does not know relation zero_out"),
        ({"noise_multiplier": 0.25}, [2, 3], "prv takes minutes at ε above 20"),
    ],
)
def test_verify_names_the_figures_that_no_second_estimate_was_held_against(
    changes: dict[str, Any],
    counts: list[int],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledgers = begin(planned(2, 3, 1, {**DP, **changes}), tmp_path / "run")
    play(ledgers, range(3))
    ledgers.close()
    run, roster = str(tmp_path / "run"), roster_path(ledgers.coordinator.run)
    for words in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["fedvision", "privacy", "verify", run, *words])
        with contextlib.suppress(SystemExit):
            main()
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["sound"] and found["notes"] == []
    assert found["cross_checked"] == [n for n in (1, 2, 3) if n not in counts]
    assert found["not_cross_checked"] == ([{"reason": reason, "charges": counts}] if counts else [])
    assert f"cross-checked: {3 - len(counts)} of 3 PLD figures by prv, all of them by rdp" in lines
    assert any(f"PLD figures of {', '.join(map(str, counts))} charges, because {reason}" in line for line in lines) == bool(counts)
    said = list(INDEPENDENT.Run(tmp_path / "run", json.loads(roster.read_bytes())).verify())
    assert f"not cross-checked by prv: the PLD figures of {counts} charges" in said


def test_keys_are_this_users_and_each_partys_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDVISION_STATE", str(tmp_path / "state"))
    ring = Keyring.here()
    assert (
        ring == Keyring.here()
        and (tmp_path / "state" / "simulations.key").stat().st_mode & 0o077 == 0
        and ring.secret.hex() not in repr(ring)
    )
    roster = ring.found("run", ["b", "a"])
    assert len({roster.coordinator, *roster.sites.values(), ring.roster("other", ["a"]).sites["a"]}) == 4
    assert Roster.read(roster_path("run")) == roster and list(roster.sites) == ["a", "b"]
    monkeypatch.setenv("FEDVISION_STATE", str(tmp_path / "another"))
    assert Keyring.here() != ring


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"run":"r","coordinator":"00","sites":{}}', '{"run":"r","coordinator":"' + "g" * 64 + '","sites":{}}', '{"run":1}'],
)
def test_what_is_no_roster_is_refused(text: str, tmp_path: Path) -> None:
    from fedvision.errors import ConfigError

    (tmp_path / "roster.json").write_text(text)
    with pytest.raises(ConfigError, match=r"roster\.json"):
        Roster.read(tmp_path / "roster.json")


# --------------------------------------------------------------------------------------------------------------- soaks


def _soak(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.soak


def test_random_changes_of_honest_folders_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What benchmarks/soak_ledger_mutate.py does a thousand times."""
    monkeypatch.setenv("FEDVISION_STATE", "set by the soak")
    found = _soak("soak_ledger_mutate")(60, 1)
    assert found["missed"] == [] and sum(found["outcomes"].values()) == 60 and found["outcomes"]["found"] > 40


def test_a_ledger_outlives_kills_while_two_processes_charge_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What benchmarks/soak_ledger_kill.py does two hundred times."""
    monkeypatch.setenv("FEDVISION_STATE", "set by the soak")
    found = _soak("soak_ledger_kill")(12, 1)
    assert found["wrong"] == [] and found["charges"] >= max(found["released"], 12)
