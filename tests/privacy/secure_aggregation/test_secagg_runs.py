"""Whole runs: the masked run ends at the plain run's bytes, whatever drops out, and after a crash in the middle."""

from pathlib import Path
from typing import Any

import pytest
from secagg_runs import conducted, experiment, new_folder, rounds, summary

from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.errors import ConfigError, RoundFailed
from fedvision.experiment import load
from fedvision.types import ClientUpdate, EvaluateRequest, SecureReply, SecureRequest, TrainRequest
from privacy.secure_aggregation.messages import Begin, Masked, Open, Survivors, from_bytes
from simulations.inline import Inline

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoding": {"bits": 64}},
        {"encoding": {"bits": 20, "range_weights": 1.0}},
        {"encoding": {"bits": 16, "range_weights": 1.0, "rounding": "stochastic"}, "conditions": {"dropout": 0.1}},
        {"conditions": {"dropout": 0.1, "absent": 0.1}, "federation": {"rounds": 4, "max_attempts": 20}},
        {"federation": {"sampling": "fixed", "cohort": 5, "min_replies": 4, "rounds": 3}, "conditions": {"dropout": 0.1}, "seed": {}},
        {"strategy": {"name": "fedadam"}},
        {"strategy": {"name": "scaffold"}, "conditions": {"dropout": 0.1}},
        {"encoding": {"rounding": "stochastic"}, "federation": {"weighting": "uniform"}},
        {"conditions": {"speed_sigma": 1.0, "deadline": 0.35}, "federation": {"rounds": 3, "on_missing": "skip"}},
        {"conditions": {"dropout": 0.5, "absent": 0.2, "speed_sigma": 0.5}, "federation": {"on_missing": "wait", "max_attempts": 9}},
        {"federation": {"sampling": "poisson", "rate": 0.8, "rounds": 4, "min_replies": 4, "max_attempts": 20}},
        {
            "federation": {
                "sampling": "poisson",
                "rate": 0.95,
                "rounds": 2,
                "min_replies": 3,
                "on_missing": "skip",
                "weighting": "uniform",
            },
            "privacy": {"mechanism": "central", "noise_multiplier": 1.0, "delta": 1e-3, "simulation_only_seed": 3},
        },
    ],
    ids=[
        "32 bits",
        "64 bits",
        "20 bits",
        "16 bits",
        "dropouts and retries",
        "a fixed number asked",
        "fedadam",
        "scaffold",
        "stochastic rounding",
        "slow sites and a deadline",
        "waited for",
        "drawn by chance",
        "drawn by chance, with noise on the sum",
    ],
)
def test_the_masked_run_ends_at_the_bytes_of_the_plain_run(tmp_path, changes):
    changes.pop("seed", None)
    plain, masked = (summary(tmp_path, on, **changes) for on in (False, True))
    assert masked["status"] == "completed"
    assert masked["model_sha256"] == plain["model_sha256"]
    assert masked["metrics"] == plain["metrics"]
    if changes.get("federation", {}).get("on_missing") != "wait":  # under masks those missing are asked again within one attempt
        assert [r["attempt"] for r in rounds(tmp_path / "True")] == [r["attempt"] for r in rounds(tmp_path / "False")]
    took = [[r["simulated_seconds"] for r in rounds(tmp_path / f"{on}")] for on in (False, True)]
    if "deadline" in changes.get("conditions", {}):
        assert took[0] == took[1] and all(took[1])
        assert any("late" in r["missing"].values() for r in rounds(tmp_path / "True"))


def test_one_site_that_lies_under_its_mask_is_not_named_but_its_round_is_rejected_whole(tmp_path):
    changes = {
        "conditions": {"misbehaving": {"site-000": "opposite", "site-001": "opposite", "site-002": "opposite", "site-003": "opposite"}},
        "evaluation": {"server": {"validation": 0.1, "test": 0.1}}, "acceptance": {"loss_factor": 1.05},
    }  # fmt: skip
    summary(tmp_path, True, **changes)
    for record in rounds(tmp_path / "True"):
        assert (record["status"], len(record["answered"]), record["refused"]) == ("rejected", 7, {})


def test_a_sum_that_no_sites_could_send_fails_the_round_and_one_that_is_too_long_is_rejected(tmp_path):
    with pytest.raises(RoundFailed, match="count sums to"):
        summary(
            tmp_path / "a", True, conditions={"misbehaving": {"site-000": "huge_weight"}}, federation={"rounds": 1, "on_missing": "stop"}
        )
    limits = {"acceptance": {"max_mean_norm": 3.0}, "federation": {"rounds": 1}}
    summary(tmp_path / "b", True, conditions={"misbehaving": {"site-000": "huge"}}, **limits)
    summary(tmp_path / "c", True, **limits)
    assert [rounds(tmp_path / run / "True")[0]["status"] for run in "bc"] == ["rejected", "counted"]


def test_a_simulated_site_that_declines_under_masks_is_left_out(tmp_path):
    summary(tmp_path, True, conditions={"misbehaving": {"site-000": "raise"}}, federation={"rounds": 1})
    assert list(rounds(tmp_path / "True")[0]["declined"]) == ["site-000"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"encoding": {"range_weights": 1e-6}}, "out_of_range"),
        ({"federation": {"rounds": 1, "on_missing": "stop", "max_update_norm": 1e-6}}, "norm_too_large"),
    ],
    ids=["a number beyond its range", "an update that is too long"],
)
def test_a_site_that_may_not_send_what_it_has_keeps_the_figure_to_itself(tmp_path, caplog, changes, code):
    """A coordinator could choose a model under which a site's loss or norm is beyond its bounds, to be told them."""
    with pytest.raises(RoundFailed) as failed:
        summary(tmp_path, True, **{"federation": {"rounds": 1, "on_missing": "stop"}} | changes)
    said = f"site-000 {code}: its update is beyond what the run allows; the figure stands in the site's own log"
    assert said in str(failed.value)
    own = [record.getMessage() for record in caplog.records if record.name == "fedvision.site"]
    assert len(own) == 7 and all("e-" in line or "." in line for line in own)


def test_a_round_for_which_chance_draws_nobody_is_skipped(tmp_path):
    changes = {"federation": {"sampling": "poisson", "rate": 1e-9, "rounds": 1, "min_replies": 4, "on_missing": "skip"}}
    assert summary(tmp_path, True, **changes)["status"] == "completed"
    assert rounds(tmp_path / "True")[0]["status"] == "skipped"


def test_rounds_that_fail_are_skipped_alike(tmp_path):
    changes = {"conditions": {"dropout": 0.35}, "federation": {"rounds": 4, "on_missing": "skip"}}
    plain, masked = (summary(tmp_path, on, **changes) for on in (False, True))
    assert {r["status"] for r in rounds(tmp_path / "True")} == {"counted", "skipped"}
    assert masked["model_sha256"] == plain["model_sha256"]


def test_a_round_that_cannot_be_summed_says_why(tmp_path):
    with pytest.raises(RoundFailed, match="site-000 dropout"):
        summary(tmp_path, True, conditions={"dropout": 1.0}, federation={"rounds": 1, "max_attempts": 2})


def test_the_coordinator_gets_masked_messages_and_nothing_else(tmp_path):
    e = experiment(True)
    tapped, _ = conducted(new_folder(e, tmp_path / "run"), e)
    assert {type(r) for r in tapped.requests} == {SecureRequest}
    assert {type(r) for r in tapped.replies} == {SecureReply}
    assert not any(isinstance(r, ClientUpdate | TrainRequest) for r in tapped.replies)


def test_under_masks_a_site_gives_nobody_an_update_or_its_figures_in_the_clear(tmp_path):
    """Whoever leaves the protocol out and asks as in a plain run."""
    e = experiment(True)
    data = open_federated(e)
    bench = Workbench.set_up(e, data.shape, data.classes, len(data.sites), tmp_path)
    model = dict(bench.tensors)
    for asked in (TrainRequest("run", 0, 1, model, {}, None), EvaluateRequest("run", 0, model, "test", None)):
        replies = list(Inline(data, bench).ask(dict.fromkeys(data.sites, asked)))
        assert [reply.code for reply in replies] == ["masked"] * 7


def test_a_round_takes_three_exchanges_once_the_first_has_begun(tmp_path):
    e = experiment(True, federation={"rounds": 5})
    tapped, _ = conducted(new_folder(e, tmp_path / "run"), e)
    assert tapped.calls == 5 + 4 * 3
    by_type = [{type(from_bytes(m)) for m in r.messages} for r in tapped.requests]
    assert {Begin, Open} in by_type  # the next round's keys ride on this one's vectors
    assert {Survivors} in by_type


TROUBLED = {"conditions": {"dropout": 0.1}, "federation": {"rounds": 2, "max_attempts": 20}}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return summary(tmp_path_factory.mktemp("plain"), False, **TROUBLED)


@pytest.mark.parametrize("breaks_at", range(2, 9))
def test_a_coordinator_that_crashes_anywhere_is_resumed_and_ends_at_the_same_bytes(tmp_path, plain, breaks_at):
    e = experiment(True, **TROUBLED)
    folder = new_folder(e, tmp_path / "run")
    tapped, ended = conducted(folder, e, breaks_at)
    assert ended is None or tapped.calls < breaks_at
    assert conducted(folder, e)[1]["model_sha256"] == plain["model_sha256"]


def test_a_sites_vector_is_masked_again_for_nobody_after_a_crash(tmp_path):
    """Between two begins of one attempt a site sends the same bytes; between two attempts, other keys."""
    e = experiment(True, federation={"rounds": 1})
    folder = new_folder(e, tmp_path / "run")
    first, _ = conducted(folder, e, 4)
    second, _ = conducted(folder, e)
    seen: dict[Any, set[bytes]] = {}
    for reply in (*first.replies, *second.replies):
        for message in map(from_bytes, reply.messages):
            if isinstance(message, Masked):
                seen.setdefault((message.site, message.session), set()).add(message.body)
    assert all(len(bodies) == 1 for bodies in seen.values())


REFUSED = {
    "strategy.name = median and secure_aggregation.enabled": {"strategy": {"name": "median"}, "federation": {"weighting": "uniform"}},
    "privacy.amplified = true and secure_aggregation.enabled = true": {
        "federation": {"sampling": "poisson", "rate": 0.5, "weighting": "uniform"},
        "privacy": {"mechanism": "central", "amplified": True, "noise_multiplier": 1.0, "delta": 1e-3},
    },
    "no sum is over fewer than 3 sites": {"federation": {"sampling": "poisson", "rate": 0.5, "min_replies": 2}},
    "evaluation.sites = all": {"evaluation": {"sites": "all"}},
    "conditions.misbehaving = {site-000: nan}": {"conditions": {"misbehaving": {"site-000": "nan"}}},
    "planned_dropouts = 3 leave 4, and 5 must remain": {"secure_aggregation": {"planned_dropouts": 3}},
    "7 sites a round and planned_dropouts = 0 leave 7, and 8 must remain": {"secure_aggregation": {"min_cohort": 8}},
    "federation.min_replies = 4": {"federation": {"min_replies": 4}},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_masking_does_not_go_with_is_a_config_error(sentence):
    with pytest.raises(ConfigError) as refused:
        experiment(True, **REFUSED[sentence])
    assert sentence in str(refused.value)
    assert refused.value.exit_code == 2


def test_quickstart_secure_differs_from_its_plain_run_in_one_key():
    masked = load(CONFIGS / "quickstart_secure.yaml")
    plain = load(CONFIGS / "quickstart_secure.yaml", ["secure_aggregation.enabled=false"])
    assert masked.conditions.dropout > 0
    assert masked.model_copy(update={"secure_aggregation": plain.secure_aggregation}) == plain
