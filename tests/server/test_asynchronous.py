"""FedBuff: who trains when on the simulated clock, and the step that late updates make, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedvision.algorithms import ALGORITHMS
from fedvision.errors import ConfigError, RoundFailed
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.sums import COUNT, Encoder, Field, Layout, Total
from fedvision.types import ClientUpdate, SiteId
from server.arrivals import Arrivals
from server.strategies import make_strategy
from simulations.run import simulate

WHOLE = Field("examples", {"": ()}, 100, weighted=False, whole=True)
LAYOUT = Layout((Field("weights", {"w": (2,)}, 16.0), Field("loss", {"": ()}, 9.0), Field(COUNT, {"": ()}, 1, weighted=False, whole=True), WHOLE), 64, 9)  # fmt: skip


def experiment(**changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "iid", "sites": 9},
        "federation": {"rounds": 6, "weighting": "uniform"},
        "conditions": {"speed_sigma": 0.0},
        "strategy": {"name": "fedbuff", "buffer": 2, "concurrency": 4},
        "model": {"name": "mlp", "width": 4},
        "training": {"batch_size": 32, "learning_rate": 0.1},
        "evaluation": {"every": 10, "server": {"test": 0.2}, "sites": "none"},
        "tracking": {"mlflow": None, "report": False},
    }
    for key, block in changes.items():
        values[key] = {**values[key], **block}
    return validate(Experiment, values, "test")  # type: ignore[no-any-return]


def vector(update: list[float]) -> np.ndarray:
    return Encoder(LAYOUT).encode({"weights": {"w": np.float32(update)}, "loss": 2.0, COUNT: 1, "examples": 7}, 1)


def reply(site: str, examples: int, update: list[float], round: int = 0) -> ClientUpdate:
    return ClientUpdate(SiteId(site), round, 1, vector(update), LAYOUT.digest, examples)


def test_an_update_three_steps_late_counts_half_and_the_buffers_size_divides() -> None:
    rule = make_strategy(ALGORITHMS["fedbuff"](name="fedbuff", buffer=4, server_learning_rate=0.5))
    arrivals = Arrivals(LAYOUT, experiment(), now=7.0)
    for tau, updates in {0: [[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]], 3: [[8.0, 8.0]]}.items():
        arrivals.totals[tau] = Total(LAYOUT)
        for update in updates:
            arrivals.totals[tau].add(vector(update))
    after = rule.apply(rule.init({"w": torch.tensor([1.0, -1.0])}), arrivals, 9)
    assert after.w["w"].tolist() == [1.0 + 0.5 * (4 + 4) / 4, -1.0 + 0.5 * (4 + 4) / 4]
    assert float(after.clock["now"]) == 7.0 and arrivals.staleness() == {"0": 3, "3": 1}
    assert arrivals.trained() == {"loss": 2.0, "examples": 28}


def test_whoever_comes_back_first_is_folded_first_and_another_site_begins_at_that_moment() -> None:
    """Two at a time, two make a step.  0.001 s an example: a takes 5, b 2, c 1 and d 1, e 9 (ms)."""
    plan = experiment(strategy={"name": "fedbuff", "buffer": 2, "concurrency": 2})
    rule = make_strategy(plan.strategy)
    start = rule.init({"w": torch.zeros(2)})
    first = Arrivals(LAYOUT, plan)
    for site, examples, update in (("a", 5, [4.0, 0.0]), ("b", 2, [1.0, 0.0]), ("c", 1, [0.0, 2.0])):
        first.take(reply(site, examples, update))
    came = first.pass_time(start, 0, [SiteId("a"), SiteId("b"), SiteId("c")], buffer=2, at_once=2)
    assert came == ["b", "c"], "b at 2 ms; c began then, and is back at 3"
    assert first.now == pytest.approx(0.003) and sorted(first.flight) == ["a"] and float(first.due["a"]) == pytest.approx(0.005)
    state = rule.apply(start, first, 9)
    assert state.w["w"].tolist() == [0.5, 1.0]
    second = Arrivals(LAYOUT, plan)
    for site, examples, update in (("d", 1, [0.0, 0.0]), ("e", 9, [9.0, 9.0])):
        second.take(reply(site, examples, update, round=1))
    came = second.pass_time(state, 1, [SiteId("d"), SiteId("e")], buffer=2, at_once=1)
    assert came == ["d", "a"] and second.staleness() == {"0": 1, "1": 1}
    after = rule.apply(state, second, 9)
    np.testing.assert_allclose(after.w["w"] - state.w["w"], [4.0 / np.sqrt(2) / 2, 0.0], rtol=1e-6)
    assert int(after.sent["e"]) == 1 and float(after.due["e"]) == pytest.approx(0.004 + 0.009), "e began when d came, at 4 ms"


def test_as_many_train_at_once_as_the_config_says_and_nobody_twice(tmp_path: Path) -> None:
    folder, _ = simulate(experiment(conditions={"speed_sigma": 1.0}), tmp_path / "run", None, quiet=True)
    training: set[str] = set()
    for record in folder.rounds():
        assert not training & set(record["asked"]) and len(record["asked"]) == (5 if record["round"] == 0 else 2)
        training |= set(record["asked"])
        assert len(record["answered"]) == 2 and set(record["answered"]) <= training
        training -= set(record["answered"])
        assert len(training) == 3, "the fourth begins with the next round's model"
        assert record["simulated_seconds"] > 0


def test_a_lost_site_is_followed_by_another_until_the_attempts_are_used_up(tmp_path: Path) -> None:
    folder, _ = simulate(experiment(conditions={"dropout": 0.3}), tmp_path / "run", None, quiet=True)
    records = folder.rounds()
    assert any(record["missing"] for record in records) and all(len(record["answered"]) == 2 for record in records)
    assert any(record["attempt"] > 1 for record in records)
    with pytest.raises(RoundFailed, match=r"round 0: 0 updates arrived, and strategy.buffer is 2; .* attempt 5 of at most 5"):
        simulate(experiment(conditions={"dropout": 1.0}), tmp_path / "none", None, quiet=True)


def test_slow_sites_hold_up_a_synchronous_round_and_not_an_asynchronous_one(tmp_path: Path) -> None:
    """As many updates each: 6 rounds of 4 of 9 sites, and 12 steps of 2."""
    slow = {"speed_sigma": 2.0}
    buffered, _ = simulate(experiment(conditions=slow, federation={"rounds": 12}), tmp_path / "a", None, quiet=True)
    waiting = {"sampling": "fixed", "cohort": 4, "rounds": 6}
    plain = experiment().model_dump() | {"strategy": {"name": "fedavg"}, "conditions": slow}
    plain["federation"] |= waiting
    synchronous, _ = simulate(validate(Experiment, plain, "test"), tmp_path / "b", None, quiet=True)
    asynchronous, waited = (sum(r["simulated_seconds"] for r in folder.rounds()) for folder in (buffered, synchronous))
    assert asynchronous < 0.6 * waited


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"strategy": {"name": "fedbuff", "buffer": 4, "concurrency": 7}},
            "keep up to 10 sites busy in a round, and there are 9: take fewer",
        ),
        ({"federation": {"sampling": "fixed", "cohort": 3}}, "fedbuff and federation.sampling = fixed exclude each other: whoever is free"),
        ({"federation": {"on_missing": "wait"}}, "fedbuff and federation.on_missing = wait exclude each other: another site follows"),
        ({"conditions": {"deadline": 1.0}}, "fedbuff and conditions.deadline = 1 exclude each other: nobody is waited for"),
        ({"federation": {"min_replies": 3}}, "federation.min_replies = 3 can never be reached: strategy.buffer = 2"),
        ({"federation": {"weighting": "examples"}}, "fedbuff and federation.weighting = examples exclude each other"),
    ],
)
def test_what_asynchronous_rounds_do_not_go_with_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(**changes)
    assert said in str(caught.value)
