"""The same experiment ends at the same bytes on Ray as in a loop, with any number of workers, whatever becomes of them."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedvision.data.federation import open_federated
from fedvision.errors import EngineError
from fedvision.types import EvaluateRequest, Measured, TrainRequest
from simulations.engines import Setting, inline
from simulations.ray_exchange import OnRay, run_on_ray
from ray_runs import digits, on_ray

pytestmark = pytest.mark.ray
SCAFFOLD = {"strategy": {"name": "scaffold"}, "federation": {"rounds": 3, "sampling": "fixed", "cohort": 5}}
FEDBN = {"strategy": {"name": "fedbn"}, "model": {"name": "cnn", "width": 4, "hidden": 16, "norm": "batch"}}
ROUGH = {"conditions": {"absent": 0.1, "dropout": 0.2, "deadline": 0.02, "speed_sigma": 0.5}, "strategy": {"name": "fedadam"}}


@pytest.mark.parametrize("blocks", [{}, SCAFFOLD, FEDBN, ROUGH], ids=["fedavg", "scaffold", "fedbn", "rough conditions"])
def test_two_workers_end_at_the_bytes_of_a_loop(a_ray: Any, run: Callable[..., Any], blocks: dict[str, Any]) -> None:
    _, loop = run("loop", {"name": "inline"}, **blocks)
    _, two = run("two", on_ray(2), **blocks)
    assert two["model_sha256"] == loop["model_sha256"]
    assert two["metrics"] == loop["metrics"]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_moves_no_byte(a_ray: Any, run: Callable[..., Any], workers: int) -> None:
    _, loop = run("loop", {"name": "inline"}, **SCAFFOLD)
    _, some = run("some", on_ray(workers), **SCAFFOLD)
    assert some["model_sha256"] == loop["model_sha256"]


def test_threads_mean_the_same_to_a_worker_as_to_a_loop(a_ray: Any, run: Callable[..., Any]) -> None:
    wide = {"model": {"name": "cnn", "width": 32, "hidden": 256}, "training": {"batch_size": 64, "epochs": None, "steps": 2}}
    _, loop = run("loop", {"name": "inline", "threads": 2}, **wide)
    _, two = run("two", on_ray(2, threads=2), **wide)
    assert two["model_sha256"] == loop["model_sha256"]


class KillingExchange:
    """An exchange on which some workers are killed with signal 9 when so many replies have come."""

    def __init__(self, exchange: OnRay, after: list[int]):
        self.exchange, self.after, self.replies = exchange, after, 0
        self.sites, self.clock, self.busy, self.close = exchange.sites, exchange.clock, exchange.busy, exchange.close

    def ask(self, requests: Any) -> Iterator[Any]:
        for reply in self.exchange.ask(requests):
            self.replies += 1
            if self.replies in self.after:
                hand = self.exchange.crew.able()[-1]
                os.kill(int(hand.who.split()[1]), signal.SIGKILL)
            yield reply


def killing(monkeypatch: pytest.MonkeyPatch, after: list[int]) -> None:
    monkeypatch.setattr("simulations.ray_exchange.OnRay", lambda *parts: KillingExchange(OnRay(*parts), after))


def test_a_worker_killed_in_a_round_is_replaced_and_moves_no_byte(a_ray: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, loop = run("loop", {"name": "inline"}, **SCAFFOLD)
    killing(monkeypatch, after=[2, 13])
    folder, killed = run("killed", on_ray(2), **SCAFFOLD)
    assert killed["model_sha256"] == loop["model_sha256"]
    assert (folder.path / "run.log").read_text().count(" died: ") == 2
    assert all(record["missing"] == {} for record in folder.rounds())


def test_workers_that_die_too_often_end_the_run_and_say_how(a_ray: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    killing(monkeypatch, after=[2, 9])
    with pytest.raises(EngineError, match=r"Ray worker \d \(process \d+ on node \w{8}\) died: .*engine.max_restarts = 1 replacements are used up"):
        run("killed", on_ray(2, max_restarts=1))


def _setting(engine: dict[str, Any], states: Path, **blocks: Any) -> Setting:
    experiment = digits(engine, **blocks)
    return Setting(experiment, open_federated(experiment), states, print)


def _requests(data: Any, experiment: Any, part: str = "test") -> tuple[dict[Any, Any], dict[Any, Any]]:
    from fedvision.models import build

    model = build(experiment, data.shape, len(data.classes)).state_dict()
    train = TrainRequest("run", 0, 1, model)
    return dict.fromkeys(data.sites, train), dict.fromkeys(data.sites, EvaluateRequest("run", 0, model, part))


def test_a_model_is_put_into_shared_memory_once_and_nobody_writes_to_it(a_ray: Any, tmp_path: Path) -> None:
    setting = _setting(on_ray(2), tmp_path)
    train, evaluate = _requests(setting.data, setting.experiment)
    before = {name: tensor.clone() for name, tensor in next(iter(train.values())).model.items()}

    def conduct(exchange: Any) -> None:
        updates, figures = list(exchange.ask(train)), list(exchange.ask(evaluate))
        assert [type(figure) for figure in figures] == [Measured] * 6 and {update.site for update in updates} == set(setting.data.sites)
        (_, reference), *others = exchange._states.values()
        assert not others
        shared = a_ray.get(reference)
        assert not any(array.flags.writeable for array in shared.values())
        assert all((shared[name] == tensor.numpy()).all() for name, tensor in before.items())
        assert exchange.busy() > 0

    run_on_ray(setting, conduct)


def test_a_reply_is_the_same_value_that_a_loop_gives(a_ray: Any, tmp_path: Path) -> None:
    def replies(exchange: Any) -> dict[Any, Any]:
        return {reply.site: (reply.round, reply.attempt, reply.layout, reply.work, reply.vector.tobytes()) for reply in exchange.ask(train)}

    setting = _setting({"name": "inline"}, tmp_path / "loop")
    train, _ = _requests(setting.data, setting.experiment)
    assert run_on_ray(_setting(on_ray(2), tmp_path / "ray"), replies) == inline(setting, replies)


def test_half_a_round_that_nobody_waits_for_does_not_disturb_the_next(a_ray: Any, tmp_path: Path) -> None:
    setting = _setting(on_ray(2), tmp_path)
    train, evaluate = _requests(setting.data, setting.experiment)

    def conduct(exchange: Any) -> list[Any]:
        next(exchange.ask(train))
        return [reply.site for reply in exchange.ask(evaluate)]

    assert sorted(run_on_ray(setting, conduct)) == sorted(setting.data.sites)


def test_a_site_that_fails_says_so_in_the_runs_own_log(a_ray: Any, run: Callable[..., Any]) -> None:
    blocks = {"training": {"batch_size": 8, "epochs": None, "steps": 2, "learning_rate": 1e30}, "federation": {"rounds": 1, "on_missing": "skip"}}
    folder, _ = run("loop", {"name": "inline"}, **blocks)
    again, _ = run("two", on_ray(2), **blocks)
    assert again.rounds()[0]["declined"] == folder.rounds()[0]["declined"] != {}
