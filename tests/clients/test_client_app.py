"""The ClientApp: what a node answers, and that nothing of a failure leaves it but a code and a place."""

import logging
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from clients.app import app, worker
from fedvision.data.federation import open_federated
from fedvision.experiment import Experiment
from fedvision.models import build
from fedvision.schema import validate
from fedvision.types import ClientUpdate, Declined, Reply, Request, SiteId, TrainRequest
from fedvision.wire import Premises, present_of, reply_of, request_records, roll_call

TINY = {
    "data": {"dataset": "digits"},
    "partition": {"scheme": "iid", "sites": 2},
    "federation": {"rounds": 1},
    "model": {"name": "mlp", "width": 4},
    "training": {"epochs": None, "steps": 1},
}


@pytest.fixture(autouse=True)
def of_a_run() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    worker.cache_clear()


@pytest.fixture
def premises(tmp_path: Path) -> Premises:
    experiment = validate(Experiment, TINY, "here")
    open_federated(experiment).partition.save(tmp_path / "partition.npz")
    return Premises(experiment, tmp_path / "partition.npz", tmp_path / "sites")


def request() -> TrainRequest:
    return TrainRequest("run", 0, 1, build(validate(Experiment, TINY, "here"), (1, 8, 8), 10).state_dict())


def sent(content: RecordDict, kind: str, number: object = 0) -> Message:
    message = Message(content, dst_node_id=7, message_type=kind)
    config = {} if number is None else {"partition-id": number}
    return app(message, Context(run_id=1, node_id=7, node_config=config, state=RecordDict(), run_config={}))  # type: ignore[arg-type]


def ask(site: str, premises: Premises, number: object = 0, about: Request | None = None) -> Reply:
    ((_, content),) = request_records({SiteId(site): about or request()}, premises)
    return reply_of(sent(content, "train", number).content)[0]


@pytest.mark.parametrize(("number", "said"), [(0, 0), (5, 5), (None, -1), ("two", -1)])
def test_a_node_says_which_partition_it_is(number: object, said: int) -> None:
    assert present_of(sent(roll_call(), "query", number).content) == said


def test_a_process_opens_the_data_and_builds_the_model_once(premises: Premises) -> None:
    first, second = ask("site-000", premises, 0), ask("site-001", premises, 1)
    assert isinstance(first, ClientUpdate) and isinstance(second, ClientUpdate)
    assert (first.site, second.site) == ("site-000", "site-001")
    assert worker.cache_info().misses == 1 and worker.cache_info().hits == 1


def test_asked_twice_a_node_sends_the_same_bytes(premises: Premises) -> None:
    first, again = ask("site-000", premises), ask("site-000", premises)
    assert isinstance(first, ClientUpdate) and isinstance(again, ClientUpdate)
    assert first.vector.tobytes() == again.vector.tobytes()


@pytest.mark.parametrize("number", [2, -1, None, "0"])
def test_a_node_that_is_no_site_of_the_run_declines(number: object, premises: Premises) -> None:
    reply = ask("site-000", premises, number)
    assert isinstance(reply, Declined) and (reply.site, reply.code) == ("site-000", "unknown_site")


def test_a_node_does_not_answer_for_another_site(premises: Premises) -> None:
    reply = ask("site-001", premises, 0)
    assert isinstance(reply, Declined) and (reply.site, reply.code) == ("site-000", "not_me")


def test_no_word_of_an_error_leaves_the_node(premises: Premises, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = tmp_path / "patient-4711" / "partition.npz"
    with caplog.at_level(logging.ERROR, logger="fedvision.site"):
        reply = ask("site-000", Premises(premises.experiment, secret, premises.states))
    assert isinstance(reply, Declined) and (reply.site, reply.round, reply.code) == ("site-000", 0, "cannot_open")
    assert reply.reason.startswith("DataError in partition.py:") and "4711" not in reply.reason
    assert "4711" in caplog.text  # the site's own log has it


def test_a_model_that_does_not_fit_declines_with_the_place(premises: Premises) -> None:
    reply = ask("site-000", premises, about=TrainRequest("run", 6, 1, {"weight": torch.zeros(1)}))
    assert isinstance(reply, Declined) and (reply.round, reply.code) == (6, "error") and "KeyError in workbench.py" in reply.reason


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"premises": ConfigRecord({"experiment": 1})})], ids=["empty", "garbled"])
def test_a_request_that_cannot_be_read_declines(content: RecordDict) -> None:
    reply, _ = reply_of(sent(content, "train").content)
    assert isinstance(reply, Declined) and reply.code == "cannot_open" and "Malformed" in reply.reason


def test_an_experiment_that_is_none_declines_without_its_words(premises: Premises) -> None:
    ((_, content),) = request_records({SiteId("site-000"): request()}, premises)
    content["premises"] = ConfigRecord({"experiment": '{"name": "patient 4711"}', "partition": "p", "states": "s"})
    reply, _ = reply_of(sent(content, "train").content)
    assert isinstance(reply, Declined) and reply.code == "error" and "4711" not in reply.reason
