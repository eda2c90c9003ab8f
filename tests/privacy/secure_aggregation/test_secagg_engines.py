"""The same masked rounds over Ray's workers and over Flower, by the same messages."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.types import Declined, SecureReply, SecureRequest, SiteId, TrainRequest
from fedvision.wire import Premises, reply_of, reply_record, request_of, request_records
from simulations.ray_worker import for_site, shared_part, states_of, with_states
from simulations.run import simulate

TRAIN = TrainRequest("run", 3, 2, {"w": torch.arange(3.0)}, {"control": {"w": torch.ones(3)}}, 1)
REQUESTS = [SecureRequest("run", 3, (b"open", b"", b"keys")), SecureRequest("run", 3, (b"begin",), TRAIN)]


def experiment(masked: bool, **engine: Any) -> Experiment:
    """Five sites on digits, two rounds, one site of which may drop out."""
    return validate(
        Experiment,
        {
            "data": {"dataset": "digits"},
            "partition": {"scheme": "iid", "sites": 5},
            "federation": {"rounds": 2, "min_replies": 4, "max_examples": 1000, "max_attempts": 20},
            "conditions": {"dropout": 0.1},
            "model": {"name": "mlp", "width": 4},
            "evaluation": {"sites": "none", "server": {"test": 0.2}},
            "encoding": {"bits": 32},
            "secure_aggregation": {"enabled": masked},
            "engine": engine,
            "tracking": {"mlflow": None, "report": False},
        },
        "the test",
    )


def same(one: SecureRequest, other: Any) -> bool:
    """Requests with tensors in them are equal where everything of them is."""
    if (one.run, one.round, one.messages, one.train is None) != (other.run, other.round, other.messages, other.train is None):
        return False
    a, b = one.train, other.train
    if a is None or b is None:
        return True
    tensors = [(a.model["w"], b.model["w"]), *((a.extras[name]["w"], b.extras[name]["w"]) for name in a.extras)]
    return (a.run, a.round, a.attempt, a.counted) == (b.run, b.round, b.attempt, b.counted) and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize("request_", REQUESTS, ids=["messages alone", "with what to train on"])
def test_a_step_of_secure_aggregation_passes_through_flowers_records(request_):
    premises = Premises(experiment(True), Path("partition.npz"), Path("states"))
    ((site, content),) = request_records({SiteId("a"): request_}, premises)
    assert site == "a"
    asked, read = request_of(content)
    assert asked == "a" and same(request_, read)


def test_a_masked_reply_passes_through_flowers_records():
    reply = SecureReply(SiteId("a"), 3, (b"", bytes(range(256))))
    assert reply_of(reply_record(reply, 0.5)) == (reply, 0.5)
    declined = Declined(SiteId("a"), 3, "too_few_examples", "none")
    assert reply_of(reply_record(declined, 0.0)) == (declined, 0.0)


@pytest.mark.parametrize("request_", REQUESTS, ids=["messages alone", "with what to train on"])
def test_what_many_sites_are_sent_alike_and_what_is_a_sites_own_make_the_request_again(request_):
    base, own = shared_part(request_)
    assert base.messages == ()
    bare = with_states(base, {name: {} for name in states_of(base)})
    assert all(not state for state in states_of(bare).values())
    assert same(request_, for_site(with_states(bare, states_of(base)), own))


@pytest.mark.ray
def test_masked_rounds_on_ray_end_at_the_bytes_of_the_plain_loop(tmp_path):
    plain = simulate(experiment(False), tmp_path / "plain", None, quiet=True)[1]
    masked = simulate(experiment(True, name="ray", workers=2), tmp_path / "ray", None, quiet=True)[1]
    assert masked["model_sha256"] == plain["model_sha256"]


@pytest.mark.flower
def test_masked_rounds_on_flower_end_at_the_bytes_of_the_plain_loop(on_flower, tmp_path):
    plain = simulate(experiment(False), tmp_path / "plain", None, quiet=True)[1]
    masked = on_flower.run(experiment(True), tmp_path / "flower")
    assert masked["model_sha256"] == plain["model_sha256"]
