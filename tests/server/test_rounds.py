"""The rounds, over an exchange of four sites whose updates are written down."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fedvision.errors import RoundFailed
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.sums import COUNT, Encoder, Field, Layout
from fedvision.types import ClientUpdate, Declined, Lost, Reply, Request, SiteId, TrainRequest
from server.checkpoints import Progress
from server.rounds import Rounds
from server.run import last_counted
from server.strategies import make_strategy

SITES = [SiteId(name) for name in "abcd"]
FIELDS = (
    Field("weights", {"w": (1,)}, 16.0),
    Field("loss", {"": ()}, 100.0),
    Field(COUNT, {"": ()}, 100, weighted=False, whole=True),
    Field("examples", {"": ()}, 100, weighted=False, whole=True),
)
LAYOUT = Layout(FIELDS, 64, 4, 100)


class Written:
    """An exchange whose replies are a function of the request."""

    def __init__(self, reply: Callable[[SiteId, TrainRequest], Reply | None]):
        self.reply = reply
        self.asked: list[dict[SiteId, TrainRequest]] = []

    def sites(self) -> list[SiteId]:
        return SITES

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
        self.asked.append(dict(requests))  # type: ignore[arg-type]
        for site, request in requests.items():
            reply = self.reply(site, request)  # type: ignore[arg-type]
            if reply is not None:
                yield reply

    def clock(self) -> float:
        return 0.0

    def busy(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


class Kept:
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.progress: list[Progress] = []

    def asked(self, round: int, sites: int) -> None: ...
    def replied(self) -> None: ...
    def done(self, state: Any, progress: Progress, record: dict[str, Any], best: bool) -> None:
        self.records.append(record)
        self.progress.append(progress)


def update(site: SiteId, request: TrainRequest, value: float = 1.0, n: int = 10, **other: Any) -> ClientUpdate:
    values = {"weights": {"w": np.float32([value])}, "loss": 1.0, COUNT: n, "examples": n}
    made = {
        "site": site,
        "round": request.round,
        "attempt": request.attempt,
        "vector": Encoder(LAYOUT).encode(values, n),
        "layout": LAYOUT.digest,
    }
    return ClientUpdate(**(made | other))


def play(reply: Callable[[SiteId, TrainRequest], Reply | None], strategy: str = "fedavg", **federation: Any) -> tuple[float, Kept, Written]:
    values = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "iid", "sites": 4},
        "federation": {"rounds": 1, **federation},
        "strategy": {"name": strategy},
    }
    experiment = validate(Experiment, values, "test")
    exchange, kept, rule = Written(reply), Kept(), make_strategy(experiment.strategy)
    rounds = Rounds(experiment, "run", exchange, rule, LAYOUT, lambda *_: {}, kept)
    state = rounds.run(rule.init({"w": torch.zeros(1)}), Progress())
    return float(rule.weights(state)["w"]), kept, exchange


def test_a_round_moves_the_model_by_the_mean_of_who_answered() -> None:
    w, kept, _ = play(lambda s, r: update(s, r, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 6.0}[s]))
    assert w == pytest.approx(3.0)
    assert kept.records[0]["answered"] == ["a", "b", "c", "d"] and kept.records[0]["train"] == {"loss": pytest.approx(1.0), "examples": 40}


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (lambda s, r: update(s, r, vector=np.full(4, np.nan)), "wrong_dtype"),
        (lambda s, r: update(s, r, vector=np.zeros(3, np.int64)), "wrong_shape"),
        (lambda s, r: update(s, r, layout="other"), "wrong_names"),
        (lambda s, r: update(s, r, round=7), "stale"),
        (lambda s, r: update(s, r, attempt=9), "stale"),
        (lambda s, r: update(SiteId("z"), r), "not_asked"),
    ],
)
def test_an_update_that_is_not_what_was_asked_for_is_refused_and_named_and_the_rest_goes_on(bad: Any, code: str) -> None:
    w, kept, _ = play(lambda s, r: bad(s, r) if s == "b" else update(s, r))
    record = kept.records[0]
    assert w == 1.0 and record["answered"] == ["a", "c", "d"]
    assert [said.partition(":")[0] for said in record["refused"].values()] == [code]


def test_a_second_reply_of_a_site_does_not_count_twice() -> None:
    first: list[Reply] = []

    def reply(site: SiteId, request: TrainRequest) -> Reply:
        first.append(update(site, request, 4.0 if site == "a" else 0.0))
        return first[0] if site == "b" else first[-1]

    w, kept, _ = play(reply)
    assert w == pytest.approx(4 / 3)
    assert kept.records[0]["answered"] == ["a", "c", "d"] and kept.records[0]["missing"] == {"b": "no reply"}


def lossy(until: int, losing: str = "cd") -> Callable[[SiteId, TrainRequest], Reply | None]:
    """Sites `losing` are lost until attempt `until`."""
    return lambda s, r: Lost(s, r.round, "dropout") if s in losing and r.attempt < until else update(s, r, 2.0 if s in losing else 1.0)


def test_wait_keeps_what_came_and_asks_the_missing_again() -> None:
    w, kept, exchange = play(lossy(3), min_replies=4, on_missing="wait")
    assert [sorted(asked) for asked in exchange.asked] == [["a", "b", "c", "d"], ["c", "d"], ["c", "d"]]
    assert w == 1.5 and kept.records[0]["attempt"] == 3 and kept.records[0]["missing"] == {}


def test_retry_throws_away_what_came_and_asks_a_fresh_cohort() -> None:
    w, kept, exchange = play(lossy(2), min_replies=4, on_missing="retry")
    assert [len(asked) for asked in exchange.asked] == [4, 4]
    assert w == 1.5 and kept.records[0]["answered"] == ["a", "b", "c", "d"]


def test_skip_leaves_the_model_as_it_is_and_goes_on() -> None:
    w, kept, _ = play(lossy(99), min_replies=3, on_missing="skip", rounds=2)
    assert w == 0.0 and [r["status"] for r in kept.records] == ["skipped", "skipped"]


@pytest.mark.parametrize(("how", "attempts"), [("stop", 1), ("retry", 3), ("wait", 3)])
def test_too_few_replies_end_the_run_with_the_round_the_limit_and_the_reasons(how: str, attempts: int) -> None:
    with pytest.raises(
        RoundFailed, match=rf"round 0: 2 sites' .*min_replies is 3 \(c dropout; d dropout\); after attempt {attempts} of at most 3"
    ):
        play(lossy(99), min_replies=3, on_missing=how, max_attempts=3)


def test_a_site_that_declines_is_recorded_with_its_reason_and_not_asked_again() -> None:
    _, kept, exchange = play(
        lambda s, r: Declined(s, r.round, "busy", "a scan is running") if s == "a" else lossy(2, "b")(s, r),
        min_replies=3,
        on_missing="wait",
    )
    assert kept.records[0]["declined"] == {"a": "busy: a scan is running"}
    assert sorted(exchange.asked[1]) == ["b"]


def test_only_counted_rounds_of_a_site_are_named_to_it() -> None:
    def reply(site: SiteId, request: TrainRequest) -> Reply:
        return Lost(site, request.round, "late") if (site, request.round) == ("a", 1) else update(site, request)

    fields = (FIELDS[0], Field("control", {"w": (1,)}, 16.0, weighted=False), *FIELDS[1:])
    here = Layout(fields, 64, 4, 100)

    def with_control(site: SiteId, request: TrainRequest) -> Reply:
        made = reply(site, request)
        if isinstance(made, Lost):
            return made
        values = {"weights": {"w": np.float32([1.0])}, "control": {"w": np.float32([0.0])}, "loss": 1.0, COUNT: 10, "examples": 10}
        return ClientUpdate(site, request.round, request.attempt, Encoder(here).encode(values, 10), here.digest)

    values = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "iid", "sites": 4},
        "federation": {"rounds": 3},
        "strategy": {"name": "scaffold"},
    }
    experiment = validate(Experiment, values, "test")
    exchange, kept, rule = Written(with_control), Kept(), make_strategy(experiment.strategy)
    rounds = Rounds(experiment, "run", exchange, rule, here, lambda *_: {}, kept)
    rounds.run(rule.init({"w": torch.zeros(1)}), Progress())
    assert [asked[SiteId("a")].counted for asked in exchange.asked] == [None, 0, 0]
    assert [asked[SiteId("b")].counted for asked in exchange.asked] == [None, 0, 1]
    assert rounds.counted == last_counted(kept.records) == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_the_median_holds_against_one_site_that_lies_within_its_range() -> None:
    w, _, _ = play(lambda s, r: update(s, r, 15.0 if s == "d" else 1.0, n=1), strategy="median", weighting="uniform")
    assert w == 1.0


def test_poisson_sampling_that_draws_nobody_is_a_round_without_replies() -> None:
    w, kept, _ = play(lambda s, r: update(s, r), sampling="poisson", rate=1e-9, on_missing="skip")
    assert w == 0.0 and kept.records[0]["asked"] == [] and kept.records[0]["status"] == "skipped"
