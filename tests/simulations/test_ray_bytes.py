"""The same experiment ends at the same bytes on Ray as in a loop, with any number of workers, whatever becomes of them."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray_runs import digits, workers

from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.errors import EngineError
from fedvision.sums import Total
from fedvision.types import Added, EvaluateRequest, Measured, Subtotal, TrainRequest
from simulations import ray_crew
from simulations.inline import Inline
from simulations.ray_crew import Crew, Hand
from simulations.ray_exchange import OnRay, on_ray
from simulations.setting import Setting

pytestmark = pytest.mark.ray
SCAFFOLD = {"strategy": {"name": "scaffold"}, "federation": {"rounds": 3, "sampling": "fixed", "cohort": 5}}
FEDBN = {"strategy": {"name": "fedbn"}, "model": {"name": "cnn", "width": 4, "hidden": 16, "norm": "batch"}}
ROUGH = {"conditions": {"absent": 0.1, "dropout": 0.2, "deadline": 0.02, "speed_sigma": 0.5}, "strategy": {"name": "fedadam"}}


@pytest.mark.parametrize("blocks", [FEDBN, ROUGH], ids=["fedbn", "fedadam under rough conditions"])
def test_two_workers_end_at_the_bytes_of_a_loop(a_ray: Any, run: Callable[..., Any], blocks: dict[str, Any]) -> None:
    _, loop = run("loop", {"name": "inline"}, **blocks)
    _, two = run("two", workers(2), **blocks)
    assert two["model_sha256"] == loop["model_sha256"]
    assert two["metrics"] == loop["metrics"]


def test_one_two_and_three_workers_end_at_the_bytes_of_a_loop(a_ray: Any, run: Callable[..., Any]) -> None:
    _, loop = run("loop", {"name": "inline"}, **SCAFFOLD)
    ends = {number: run(f"ray {number}", workers(number), **SCAFFOLD)[1] for number in (1, 2, 3)}
    assert {number: end["model_sha256"] for number, end in ends.items()} == dict.fromkeys((1, 2, 3), loop["model_sha256"])


def test_threads_mean_the_same_to_a_worker_as_to_a_loop(a_ray: Any, run: Callable[..., Any]) -> None:
    wide = {"model": {"name": "cnn", "width": 8, "hidden": 64}, "federation": {"rounds": 1}, "evaluation": {"sites": "none", "server": {}}}
    _, loop = run("loop", {"name": "inline", "threads": 2}, **wide)
    _, one = run("one", workers(1, threads=2), **wide)
    assert one["model_sha256"] == loop["model_sha256"]


class KillingExchange:
    """An exchange on which workers are killed with signal 9: after so many replies, those of these numbers among who is up."""

    def __init__(self, exchange: OnRay, after: dict[int, list[int]]):
        self.exchange, self.after, self.replies = exchange, after, 0
        self.sites, self.clock, self.busy, self.close = exchange.sites, exchange.clock, exchange.busy, exchange.close

    def ask(self, requests: Any) -> Iterator[Any]:
        for reply in self.exchange.ask(requests):
            self.replies += 1
            for number in self.after.get(self.replies, ()):
                up = self.exchange.crew.able()
                os.kill(int(up[number % len(up)].who.split()[1]), signal.SIGKILL)
            yield reply


def killing(monkeypatch: pytest.MonkeyPatch, after: dict[int, list[int]]) -> None:
    monkeypatch.setattr("simulations.ray_exchange.OnRay", lambda *parts: KillingExchange(OnRay(*parts), after))


def test_a_worker_killed_in_a_round_is_replaced_and_moves_no_byte(
    a_ray: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, loop = run("loop", {"name": "inline"}, **SCAFFOLD)
    killing(monkeypatch, after={2: [1], 6: [1], 16: [0]})
    folder, killed = run("killed", workers(2), **SCAFFOLD)
    assert killed["model_sha256"] == loop["model_sha256"]
    assert (folder.path / "run.log").read_text().count(" died: ") == 3
    assert all(record["missing"] == {} for record in folder.rounds())


def test_workers_that_die_too_often_end_the_run_and_say_how(a_ray: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    killing(monkeypatch, after={2: [0, 1]})
    with pytest.raises(
        EngineError, match=r"Ray worker \d \(process \d+ on node \w{8}\) died: .*engine.max_restarts = 1 replacements are used up"
    ):
        run("killed", workers(2, max_restarts=1))


@pytest.fixture(scope="module")
def two_ways(a_ray: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OnRay, Inline]]:
    """The same sites on two Ray workers and in a loop."""
    experiment, folder = digits(workers(2)), tmp_path_factory.mktemp("states")
    data = open_federated(experiment)
    bench = Workbench.set_up(experiment, data.shape, data.classes, len(data.sites), folder / "loop")
    with on_ray(Setting(experiment, data, folder / "ray", print)) as exchange:
        yield exchange, Inline(data, bench)


def train(loop: Inline) -> dict[Any, Any]:
    """A request to every site."""
    return dict.fromkeys(loop.sites(), TrainRequest("run", 0, 1, {n: t.clone() for n, t in loop.bench.model.state_dict().items()}))


def evaluate(loop: Inline) -> dict[Any, Any]:
    """A request to every site."""
    return dict.fromkeys(loop.sites(), EvaluateRequest("run", 0, {n: t.clone() for n, t in loop.bench.model.state_dict().items()}))


def test_workers_send_the_sum_and_the_norms_that_a_loops_replies_add_up_to(two_ways: tuple[OnRay, Inline]) -> None:
    ray, loop = two_ways
    replies = list(ray.ask(train(loop)))
    parts = [reply for reply in replies if isinstance(reply, Subtotal)]
    total, norms = Total(loop.bench.layout), {}
    for reply in loop.ask(train(loop)):
        norms[reply.site] = total.add(reply.vector)  # type: ignore[union-attr]
    assert {reply.site for reply in replies if isinstance(reply, Added)} == set(norms)
    assert {site: norm for part in parts for site, norm in part.norms.items()} == norms
    assert sum(len(part.norms) for part in parts) == len(norms)
    assert (sum(part.sum for part in parts) == total.sum).all()


def test_a_model_is_put_into_shared_memory_once_and_nobody_writes_to_it(two_ways: tuple[OnRay, Inline], a_ray: Any) -> None:
    exchange, loop = two_ways
    requests = train(loop)
    model = next(iter(requests.values())).model
    before, puts = {name: tensor.clone() for name, tensor in model.items()}, set(exchange._states)
    updates, busy = list(exchange.ask(requests)), exchange.busy()
    figures = list(exchange.ask({site: EvaluateRequest("run", 0, model) for site in requests}))
    assert [type(figure) for figure in figures] == [Measured] * 6
    assert {update.site for update in updates if isinstance(update, Added)} == set(requests)
    (put,) = set(exchange._states) - puts
    shared = a_ray.get(exchange._states[put][1])
    assert not any(array.flags.writeable for array in shared.values())
    assert all((shared[name] == tensor.numpy()).all() for name, tensor in before.items())
    assert 0 < busy < exchange.busy()


def test_half_a_round_that_nobody_waits_for_does_not_disturb_the_next(two_ways: tuple[OnRay, Inline]) -> None:
    exchange, loop = two_ways
    next(iter(exchange.ask(train(loop))))
    assert sorted(reply.site for reply in exchange.ask(evaluate(loop))) == sorted(loop.sites())


def test_a_thousand_small_sites_share_calls_and_large_ones_do_not(two_ways: tuple[OnRay, Inline]) -> None:
    exchange, _ = two_ways
    exchange._pace = {TrainRequest: 0.001, EvaluateRequest: 10.0}
    assert [exchange._sites_a_call(TrainRequest, left) for left in (1000, 40, 4, 1)] == [100, 10, 1, 1]  # 100 ms; a fourth of what is left
    assert exchange._sites_a_call(EvaluateRequest, 1000) == 1
    exchange._pace.clear()


def test_a_site_that_fails_tells_the_runs_own_log_where(a_ray: Any, run: Callable[..., Any]) -> None:
    blocks = {"federation": {"rounds": 1, "on_missing": "skip", "max_examples": 100_000}, "encoding": {"range_weights": 1e-9}}
    said = [run(name, engine, **blocks)[0].rounds()[0]["declined"] for name, engine in (("loop", {"name": "inline"}), ("ray", workers(1)))]
    assert said[0] == said[1] != {}


def test_a_worker_that_does_not_come_up_is_started_once_more(a_ray: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    greeted = Crew._greeted

    def late(self: Crew, number: int, actor: Any, second: bool = False) -> Hand:
        hand = greeted(self, number, actor, second)
        hand.late = hand.late if second else 0.0
        return hand

    monkeypatch.setattr(Crew, "_greeted", late)
    monkeypatch.setattr(ray_crew, "_LOOK_SECONDS", 0.01)
    folder, summary = run("ray", workers(1), federation={"rounds": 1})
    assert summary["status"] == "completed" and "started once more" in (folder.path / "run.log").read_text()
