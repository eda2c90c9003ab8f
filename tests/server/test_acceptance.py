"""A round whose sum or whose model is not plausible is rejected whole, in the clear and under masks alike."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedvision.errors import ConfigError, RoundFailed, UpdateRefused
from fedvision.experiment import Acceptance, Experiment
from fedvision.schema import validate
from fedvision.sums import COUNT, Encoder, Field, Layout, Total
from fedvision.tracking.report import draw_report
from server.acceptance import Judge
from server.checkpoints import Progress
from simulations.run import simulate


def experiment(**changes: Any) -> Experiment:
    """Five sites on digits, linear, of which three send the opposite of what they learned, fourfold."""
    values: dict[str, Any] = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "iid", "sites": 5},
        "federation": {"rounds": 3, "min_replies": 4, "max_attempts": 2},
        "model": {"name": "mlp", "width": 4},
        "training": {"batch_size": 50, "learning_rate": 0.5},
        "evaluation": {"sites": "none", "server": {"validation": 0.1, "test": 0.1}},
        "conditions": {"misbehaving": {"site-000": "opposite", "site-001": "opposite", "site-002": "opposite"}},
        "tracking": {"mlflow": None, "report": False},
    }
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value}
    return validate(Experiment, values, "the test")


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_a_round_whose_model_is_far_worse_on_held_out_data_is_rejected_and_the_model_is_as_it_was(tmp_path):
    simulate(experiment(acceptance={"loss_factor": 1.05}), tmp_path / "run", None, quiet=True)
    first, *others = rounds(tmp_path / "run")
    assert first["status"] == "rejected"
    assert "over acceptance.loss_factor = 1.05 times" in first["rejected"]
    assert len(first["answered"]) == 5
    untrained = simulate(experiment(federation={"rounds": 1, "min_replies": 5, "on_missing": "skip"}, conditions={"misbehaving": {"site-000": "raise"}}),
                         tmp_path / "untrained", None, quiet=True)[1]  # fmt: skip
    assert first["evaluation"]["server"]["test"]["loss"] == pytest.approx(untrained["metrics"]["loss"])
    draw_report(tmp_path / "run")
    said = (tmp_path / "run" / "report.html").read_text()
    assert "Round 1 was rejected whole: its model has loss" in said
    assert f"{1 + sum(r['status'] == 'rejected' for r in others)} rejected" in said


def test_what_is_rejected_is_asked_again_or_ends_the_run_where_the_config_says_so(tmp_path):
    for how, attempt in (("retry", "attempt 2 of at most 2"), ("stop", "attempt 1 of at most 2")):
        with pytest.raises(RoundFailed, match=rf"round 0 is rejected: its model has loss .*{attempt}.*on_rejected = {how}"):
            simulate(experiment(acceptance={"loss_factor": 1.05, "on_rejected": how}), tmp_path / how, None, quiet=True)


def test_an_honest_run_under_limits_is_the_run_without_them(tmp_path):
    honest = {"conditions": {"misbehaving": {}}}
    limits = {"loss_factor": 2.0, "max_mean_norm": 100.0}
    plain = simulate(experiment(**honest), tmp_path / "plain", None, quiet=True)[1]
    judged = simulate(experiment(acceptance=limits, **honest), tmp_path / "judged", None, quiet=True)[1]
    assert judged["model_sha256"] == plain["model_sha256"]
    assert judged["metrics"] == plain["metrics"]


LAYOUT = Layout((Field("weights", {"w": (2,)}, 8.0), Field(COUNT, {"": ()}, 100, weighted=False, whole=True)), 64, 4, 100)


def total(*updates: float) -> Total:
    found = Total(LAYOUT)
    for value in updates:
        found.add(Encoder(LAYOUT).encode({"weights": {"w": np.full(2, value, np.float32)}, COUNT: 50}, 50))
    return found


def test_the_norm_of_the_mean_is_that_of_the_updates_mean():
    assert total(3.0, 1.0).mean_norm() == pytest.approx(2.0 * np.sqrt(2), rel=1e-6)


def test_a_sum_that_nobody_saw_one_by_one_is_refused_where_its_mean_is_longer_than_any_site_may_send():
    fits, found = total(3.0, 1.0), Total(LAYOUT, max_norm=2.8)
    with pytest.raises(UpdateRefused, match=r"a mean update of norm 2.828.*, and each site's is 2.8 at most"):
        found.put(fits.sum, 2)
    Total(LAYOUT, max_norm=2.83).put(fits.sum, 2)


def test_a_sum_that_is_too_large_is_rejected_before_anything_is_made_of_it():
    judge = Judge(Acceptance(max_mean_norm=2.0), lambda model: 0.0)
    assert judge.size(total(1.0, -1.0)) is None
    assert "norm 2.828, over acceptance.max_mean_norm = 2" in str(judge.size(total(3.0, 1.0)))


def test_a_loss_is_held_against_the_lowest_of_the_models_that_were_taken():
    losses = iter([2.0, 1.0, 1.4, 1.6])
    judge = Judge(Acceptance(loss_factor=1.5), lambda model: next(losses))
    progress = judge.begun(Progress(), {})
    assert progress.lowest == 2.0
    progress, why = judge.quality(progress, {})
    assert (progress.lowest, why) == (1.0, None)
    progress, why = judge.quality(progress, {})
    assert (progress.lowest, why) == (1.0, None)
    progress, why = judge.quality(progress, {})
    assert progress.lowest == 1.0
    assert "loss 1.6" in str(why)
    assert "1.5 times 1, the lowest" in str(why)


@pytest.mark.parametrize(
    ("sentence", "changes"),
    [
        ("needs data that the coordinator holds out", {"acceptance": {"loss_factor": 2.0}, "evaluation": {"server": {"test": 0.2}}}),
        ("it makes no mean", {"acceptance": {"max_mean_norm": 1.0}, "strategy": {"name": "median"}, "federation": {"weighting": "uniform"}}),
        ("in updates that are under way", {"acceptance": {"loss_factor": 2.0}, "strategy": {"name": "fedbuff", "buffer": 4, "concurrency": 2}, "federation": {"weighting": "uniform"}}),
        (
            "a second sum of a round is given for the same sites only",
            {
                "acceptance": {"max_mean_norm": 1.0, "on_rejected": "retry"}, "secure_aggregation": {"enabled": True},
                "conditions": {"misbehaving": {}}, "encoding": {"bits": 32},
            },
        ),
    ],
)  # fmt: skip
def test_what_a_round_cannot_be_judged_by_is_a_config_error(sentence, changes):
    with pytest.raises(ConfigError, match=sentence):
        experiment(**changes)
