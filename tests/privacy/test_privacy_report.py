"""The privacy officer's page: its numbers, its alarms, and what it does when something is missing."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import norm
from typer.testing import CliRunner

from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.schema import validate
from privacy.accountants import Phase
from privacy.attacks.one_run import RESULT
from privacy.commands import app
from privacy.plan import plan_of
from privacy.report import draw_privacy
from privacy.statistics import together
from privacy.tradeoff import Tradeoff
from privacy.wording import uncovered
from simulations.rehearsal import begin, planned, play
from simulations.run import simulate


def _experiment(**changes: Any) -> Experiment:
    promise = {"mechanism": "dp_sgd", "noise_multiplier": 2.0, "delta": 1e-5, "sampling_rate": 0.2, "divisor": 40.0}
    values: dict[str, Any] = {
        "name": "officer", "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 3}, "federation": {"rounds": 3},
        "training": {"steps": 2}, "model": {"name": "mlp", "width": 8}, "evaluation": {"server": {"test": 0.2}},
        "tracking": {"mlflow": None, "report": False},
    }  # fmt: skip
    return validate(Experiment, values | changes | {"privacy": promise | changes.get("privacy", {})}, "test")


def _text(page: Path) -> str:
    """What is read on the page."""
    html = page.read_text()
    body = re.sub(r"<(style|svg)\b.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("&#39;", "'").replace("&lt;", "<")


# ------------------------------------------------------------------------------------------------ what attackers can do


@pytest.mark.parametrize("sigma", [0.8, 2.0, 6.0])
def test_what_an_attacker_can_find_under_one_gaussian_sum_is_its_known_trade_off(sigma: float) -> None:
    tradeoff = Tradeoff.of(Phase(sigma, 1.0, 1), 1e-5, "add_remove")
    assert tradeoff.right == pytest.approx(norm.cdf(1 / (2 * sigma)), abs=0.002)
    for wrongly in (0.001, 0.01, 0.1, 0.5):
        known = norm.cdf(norm.ppf(wrongly) + 1 / sigma)
        assert known - 1e-4 <= tradeoff.found(wrongly) <= known * 1.03 + 2e-4


def test_sixteen_sums_under_four_times_the_noise_are_one_and_sampling_finds_less() -> None:
    one, sixteen = (Tradeoff.of(Phase(sigma, 1.0, steps), 1e-5, "add_remove") for sigma, steps in ((1.0, 1), (4.0, 16)))
    sampled = Tradeoff.of(Phase(4.0, 0.3, 16), 1e-5, "add_remove")
    for wrongly in (0.01, 0.2):
        assert one.found(wrongly) == pytest.approx(sixteen.found(wrongly), rel=0.01)
        assert wrongly < sampled.found(wrongly) < sixteen.found(wrongly)


# ------------------------------------------------------------------------------------------------------------- the page


def test_the_page_says_promise_spending_attack_and_how_to_check_again(tmp_path: Path) -> None:
    experiment = _experiment(privacy={"audit": {"canaries": 200}}, conditions={"budgets": {"site-001": 1.35}})
    folder, _ = simulate(experiment, tmp_path / "run", None, quiet=True)
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(folder.path), "--out", str(page)])
    assert done.exit_code == 0 and str(page) in done.output
    said, plan = _text(page), plan_of(experiment)
    assert (
        str(plan.guarantee) in said
        and "For each image held at a site: what everyone outside the site" in said
        and "a coin is right in 50 %: " in said
    )
    assert f"all {plan.rounds} rounds paid" in said and " sound " in said
    paid = next(rounds for rounds in (1, 2) if f"site-001 {rounds} 3 " in said)
    assert f"site-001 {paid} 3 {3 - paid} {plan.spent(paid).epsilon:.3f}" in said and "of ε = 1.35" in said
    assert f"site-000 3 3 0 {plan.guarantee.epsilon:.3f}" in said
    assert f"Rounds were declined, and the run went on without: site-001 in {3 - paid}." in said
    html, own = page.read_text(), plan.spent(paid).epsilon
    assert (
        f"budget of the run, at δ = 1e-05 per example ({plan.guarantee.epsilon:.3f})" in html
        and f"own budget: site-001 ({own:.3f})" in html
    )
    assert "600 canaries stood beside the noisy sums" in said and "took part" in said
    for line in uncovered(experiment, plan):
        assert line in said
    assert f"fedvision privacy verify {folder.path}" in said
    again = re.search(r"fedvision (privacy epsilon [^<\n]+)", page.read_text())
    assert again is not None
    told = CliRunner().invoke(app, again[1].split()[1:])
    assert told.output.strip() == str(plan.guarantee)


def test_the_page_alarms_where_the_record_was_changed_the_audit_refutes_or_the_noise_repeats(tmp_path: Path) -> None:
    experiment = _experiment(privacy={"simulation_only_seed": 1, "audit": {"canaries": 50}}, federation={"rounds": 2})
    folder, _ = simulate(experiment, tmp_path / "run", None, quiet=True)
    assert "Not private: the noise comes from a seed" in _text(draw_privacy(folder.path))
    result = folder.path / RESULT
    result.write_text(result.read_text().replace('"alarm": false', '"alarm": true'))
    assert "The audit refutes the promise" in _text(draw_privacy(folder.path))
    ledger = folder.path / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"steps":2', b'"steps":3', 1))
    said = _text(draw_privacy(folder.path))
    assert "The record is not as it was written" in said and " broken " in said


def test_the_page_alarms_where_the_config_is_not_the_one_that_the_record_was_made_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(begin(planned(2, 3), tmp_path / "run"), range(1))
    assert "not the config" not in _text(draw_privacy(tmp_path / "run"))
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("clip: 1.0", "clip: 0.1"))
    assert "config.yaml: it is not the config that the ledgers were made under" in _text(draw_privacy(tmp_path / "run"))
    monkeypatch.setenv("FEDVISION_STATE", str(tmp_path / "another machine"))
    assert "not the config that the record was made under" in _text(draw_privacy(tmp_path / "run"))


def test_more_sites_than_colours_are_drawn_all_and_those_that_spent_most_and_least_are_named(tmp_path: Path) -> None:
    ledgers = begin(planned(9, 9), tmp_path / "run")
    for number in range(9):  # site n pays for n + 1 rounds
        play(dataclasses.replace(ledgers, sites=ledgers.sites[number:]), range(number, number + 1))
    page = draw_privacy(tmp_path / "run").read_text()
    assert "spent most: site-008" in page and "spent least: site-000" in page
    assert all(f"<title>{site}</title>" in page for site in ledgers.sites)
    assert "site-008 9 9 0" in _text(tmp_path / "run" / "privacy.html")


def test_where_keys_are_unknown_the_page_says_that_nothing_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = simulate(_experiment(federation={"rounds": 1}), tmp_path / "run", None, quiet=True)
    monkeypatch.setenv("FEDVISION_STATE", str(tmp_path / "another machine"))
    said = _text(draw_privacy(folder.path))
    assert "not checked here: the run's public keys are not on this machine; give them with --roster" in said
    assert "No canaries were in this run" in said


def test_a_site_level_run_says_whom_it_protects_and_that_the_coordinator_sees_updates(tmp_path: Path) -> None:
    central = {"mechanism": "central", "noise_multiplier": 2.0, "delta": 1e-2, "clip": 0.5}
    values = {**_experiment().model_dump(mode="json"), "training": {"epochs": 1, "batch_size": 32}, "privacy": central}
    folder, _ = simulate(validate(Experiment, values, "test"), tmp_path / "run", None, quiet=True)
    said = _text(draw_privacy(folder.path))
    assert "For each site with all that it holds: what everyone but the coordinator" in said
    assert "The coordinator, who sees each site's update before the noise." in said


def test_statistics_that_the_same_data_gave_before_are_told_with_the_promise(tmp_path: Path) -> None:
    experiment = planned(2, 3)
    experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"statistics_noise": 20.0})})
    play(begin(experiment, tmp_path / "run"), range(1))
    both = together(plan_of(experiment), experiment)
    assert both is not None and both.epsilon > plan_of(experiment).guarantee.epsilon
    assert f"released before it, data.mean and data.std: {both}." in _text(draw_privacy(tmp_path / "run"))


def test_a_run_that_promised_nothing_has_no_such_page(tmp_path: Path) -> None:
    values = {**_experiment().model_dump(mode="json"), "training": {"epochs": 1, "batch_size": 32}, "privacy": None}
    folder, _ = simulate(validate(Experiment, values, "test"), tmp_path / "run", None, quiet=True)
    with pytest.raises(ConfigError, match="promised nothing"):
        draw_privacy(folder.path)
