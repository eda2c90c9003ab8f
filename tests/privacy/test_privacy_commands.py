"""`fedvision privacy`: figures for a person and for a program, and exit code 2 with the value and the limit for a mistake."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fedvision.errors import ConfigError
from fedvision.experiment import load
from fedvision.types import Guarantee
from privacy.accountants import Phase, epsilon
from privacy.commands import app
from privacy.plan import calibrate, plan_of

CONFIGS = Path(__file__).parents[2] / "configs"
runner = CliRunner()


def _said(*words: str) -> str:
    result = runner.invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_epsilon_prints_one_object_with_what_makes_the_number_mean_something() -> None:
    said = json.loads(
        _said("epsilon", "--noise-multiplier", "1", "--sampling-rate", "0.01", "--steps", "1000", "--delta", "1e-5", "--json")
    )
    assert said["epsilon"] == pytest.approx(1.828244, rel=1e-4)
    assert {k: said[k] for k in ("delta", "accountant", "relation", "unit")} == {
        "delta": 1e-5,
        "accountant": "pld",
        "relation": "add_remove",
        "unit": "example",
    }


def test_phases_compose_alone_or_after_the_first() -> None:
    first = ["--noise-multiplier", "10", "--sampling-rate", "1", "--steps", "1"]
    both = json.loads(_said("epsilon", *first, "--phase", "1,0.02,200", "--delta", "1e-5", "--json"))["epsilon"]
    assert both == pytest.approx(1.889132, rel=1e-4)
    assert json.loads(_said("epsilon", "--phase", "10,1,1", "--phase", "1,0.02,200", "--delta", "1e-5", "--json"))[
        "epsilon"
    ] == pytest.approx(both)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--noise-multiplier", "0", "--sampling-rate", "0.1", "--steps", "10", "--delta", "1e-5"], "noise multiplier 0.*at least 0.01"),
        (["--noise-multiplier", "1", "--sampling-rate", "1.5", "--steps", "10", "--delta", "1e-5"], "sampling rate 1.5.*at most 1"),
        (["--noise-multiplier", "1", "--sampling-rate", "0.1", "--steps", "0", "--delta", "1e-5"], "steps 0"),
        (["--noise-multiplier", "1", "--sampling-rate", "0.1", "--steps", "10", "--delta", "2"], "delta 2"),
        (["--noise-multiplier", "1", "--steps", "10", "--delta", "1e-5"], "--sampling-rate: missing"),
        (["--delta", "1e-5"], "missing"),
        (["--phase", "1,2", "--delta", "1e-5"], "--phase '1,2'"),
        (["--phase", "1,0.1,10", "--delta", "1e-5", "--accountant", "gdp"], "allowed are pld, rdp, prv"),
        (["--phase", "1,0.1,10", "--delta", "1e-5", "--relation", "swap"], "allowed are add_remove, replace_one, zero_out"),
        (["--phase", "1,0.1,10", "--delta", "1e-5", "--unit", "hospital"], "allowed are example, subject, site"),
    ],
)
def test_a_number_out_of_range_is_an_error_of_the_command_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        _said("epsilon", *words)
    assert caught.value.exit_code == 2


def test_plan_calibrates_the_noise_shows_alternatives_and_draws_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    said = json.loads(_said("plan", str(CONFIGS / "client_level_dp.yaml"), "--out", str(picture), "--json"))
    assert said["epsilon"] <= 10.0 and said["unit"] == "site" and said["divisor"] == 100
    noise = {row["epsilon"]: row["noise_multiplier"] for row in said["alternatives"]}
    assert sorted(noise.values(), reverse=True) == [noise[e] for e in sorted(noise)]
    assert Image.open(picture).size[0] > 600


def test_a_plan_says_its_promise_its_noise_and_when_the_noise_drowns_the_signal(tmp_path: Path) -> None:
    said = _said("plan", str(CONFIGS / "client_level_dp.yaml"), "--set", "privacy.epsilon=0.5", "--out", str(tmp_path / "p.png"))
    assert "per site (pld, one added or removed)" in said and "times the largest signal" in said


@pytest.mark.parametrize(
    ("rate", "steps", "target", "delta", "relation"), [(0.05, 100, 3.0, 1e-4, "add_remove"), (1.0, 20, 2.0, 1e-3, "replace_one")]
)
def test_calibrated_noise_meets_the_target_and_hardly_more(rate: float, steps: int, target: float, delta: float, relation: str) -> None:
    sigma = calibrate(rate, steps, target, delta, "pld", relation)
    found = epsilon([Phase(sigma, rate, steps)], delta, "pld", relation)
    assert 0.985 * target <= found <= target


@pytest.mark.parametrize("name", ["quickstart_dp", "client_level_dp", "subject_dp"])
def test_the_configs_promise_what_their_first_line_says(name: str) -> None:
    experiment = load(CONFIGS / f"{name}.yaml")
    plan = plan_of(experiment)
    assert experiment.privacy is not None and experiment.privacy.epsilon is not None
    assert plan.guarantee.epsilon <= experiment.privacy.epsilon
    assert name != "quickstart_dp" or plan.guarantee.epsilon <= 3.0
    assert plan.guarantee.unit == {"quickstart_dp": "example", "client_level_dp": "site", "subject_dp": "subject"}[name]


def test_a_patient_at_several_sites_has_a_figure_of_its_own() -> None:
    experiment = load(CONFIGS / "quickstart_dp.yaml", ["privacy.epsilon=null", "privacy.noise_multiplier=1.5", "privacy.sites_per_unit=3"])
    plan = plan_of(experiment)
    three = Phase(1.5, plan.a_round.sampling_rate, 3 * plan.rounds * plan.a_round.steps)
    assert plan.over_sites.epsilon == epsilon([three], plan.guarantee.delta) > plan.guarantee.epsilon


def test_check_model_prints_each_claim_with_its_measure_and_its_limit() -> None:
    said = _said("check-model", str(CONFIGS / "quickstart_dp.yaml"))
    assert said.count("ok: ") == 4 and "channels_last" in said and "can be protected by dp_sgd" in said


def test_a_guarantee_is_never_rounded_down() -> None:
    assert str(Guarantee(2.9914, 1e-4, "subject", "replace_one", "pld")) == "ε = 3.00 at δ = 0.0001 per subject (pld, one replaced)"
    assert str(Guarantee(3.0, 1e-4, "site", "zero_out", "rdp")) == "ε = 3.00 at δ = 0.0001 per site (rdp, one blanked)"
