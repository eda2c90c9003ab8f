"""Our types <-> Flower's records."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedvision import wire
from fedvision.errors import Malformed
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.types import ClientUpdate, Declined, EvaluateRequest, Lost, Measured, SiteId, TrainRequest

A, B = SiteId("a"), SiteId("Spital Süd / 2")
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
DTYPES = st.sampled_from([np.dtype(name) for name in wire.DTYPES])
NUMBERS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES))
NAMES = st.text(max_size=12)
STATES = st.dictionaries(NAMES, NUMBERS.map(torch.from_numpy), max_size=4)
WHOLE = st.integers(0, 2**40)


@pytest.fixture(scope="session")
def premises(tmp_path_factory: pytest.TempPathFactory) -> wire.Premises:
    values = {"data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 2}, "federation": {"rounds": 1}}
    folder = tmp_path_factory.mktemp("run")
    return wire.Premises(validate(Experiment, values, "here"), folder / "partition.npz", folder / "sites")


def through_bytes(content: RecordDict) -> RecordDict:
    """As Flower sends it: each object flat, and put together again at the other end."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    contents = {id: thing.deflate() for id, thing in get_all_nested_objects(content).items()}
    arrived = inflate_object_from_contents(content.object_id, contents)
    assert isinstance(arrived, RecordDict)
    return arrived


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """To the bit, so that NaN is itself and -0 is not 0."""
    return list(one) == list(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(one.values(), other.values(), strict=True)
    )


@given(numbers=NUMBERS)
def test_any_array_survives_the_trip_to_the_bit(numbers: np.ndarray) -> None:
    back = wire.numbers_of(wire.array_of(numbers), "x")
    assert (back.dtype, back.shape, back.tobytes()) == (numbers.dtype, numbers.shape, numbers.tobytes())


@given(state=STATES)
def test_any_state_survives_the_trip_to_the_bit_and_may_be_written_to(state: dict[str, torch.Tensor]) -> None:
    back = wire.state_of(wire.record_of(state))
    assert same(back, state)
    for tensor in back.values():
        tensor.zero_()


def test_a_tensor_that_lies_crosswise_in_memory_arrives_in_order() -> None:
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last).transpose(2, 3)
    assert torch.equal(wire.state_of(wire.record_of({"x": tensor}))["x"], tensor)


@given(round=WHOLE, attempt=WHOLE, counted=st.none() | WHOLE, model=STATES, extras=st.dictionaries(NAMES, STATES, max_size=2))
def test_any_training_request_survives_the_trip(premises, round, attempt, counted, model, extras) -> None:  # type: ignore[no-untyped-def]
    request = TrainRequest("run-1", round, attempt, model, extras, counted)
    ((to, content),) = wire.request_records({B: request}, premises)
    asked, back = wire.request_of(content)
    assert (to, asked) == (B, B) and isinstance(back, TrainRequest)
    assert (back.run, back.round, back.attempt, back.counted) == ("run-1", round, attempt, counted)
    assert same(dict(back.model), model) and list(back.extras) == list(extras)
    assert all(same(dict(back.extras[name]), extras[name]) for name in extras)


@given(vector=arrays.arrays(st.sampled_from([np.dtype(np.int32), np.dtype(np.int64)]), st.integers(0, 9)), round=WHOLE, work=WHOLE)
def test_any_update_survives_the_trip_as_integers(vector: np.ndarray, round: int, work: int) -> None:
    reply, seconds = wire.reply_of(wire.reply_record(ClientUpdate(B, round, 2, vector, "digest", work), 0.25))
    assert isinstance(reply, ClientUpdate) and seconds == 0.25
    assert (reply.site, reply.round, reply.attempt, reply.layout, reply.work) == (B, round, 2, "digest", work)
    assert reply.vector.dtype == vector.dtype and reply.vector.tobytes() == vector.tobytes()


def test_what_flower_makes_of_the_records_on_a_network_changes_nothing(premises: wire.Premises) -> None:
    model = {"w": torch.tensor([1.5, -0.0, float("nan")]), "steps": torch.tensor(7), "none": torch.zeros(0, 3), "on": torch.tensor([True])}
    asked = EvaluateRequest("run", 3, model, "validation", 2)
    ((_, content),) = wire.request_records({A: asked}, premises)
    arrived = through_bytes(content)
    site, request = wire.request_of(arrived)
    assert site == A and isinstance(request, EvaluateRequest) and same(dict(request.model), model)
    assert (request.round, request.part, request.counted) == (3, "validation", 2)
    assert wire.premises_key(arrived) == wire.premises_key(content)
    sums = {"confusion": np.arange(4).reshape(2, 2), "loss": np.array(3)}
    back, _ = wire.reply_of(through_bytes(wire.reply_record(Measured(A, 3, sums), 0.0)))
    assert isinstance(back, Measured) and {n: v.tolist() for n, v in back.sums.items()} == {"confusion": [[0, 1], [2, 3]], "loss": 3}


def test_a_refusal_survives_the_trip() -> None:
    said = Declined(A, 4, "out_of_range", "too large")
    assert wire.reply_of(wire.reply_record(said, 0.0)) == (said, 0.0)


def test_the_experiment_survives_the_trip(premises: wire.Premises) -> None:
    ((_, content),) = wire.request_records({A: EvaluateRequest("run", 0, {})}, premises)
    assert Experiment.model_validate_json(wire.premises_key(content)[0]) == premises.experiment


def test_a_model_is_written_once_however_many_sites_it_goes_to(premises: wire.Premises) -> None:
    model, control = {"w": torch.ones(3)}, {"w": torch.zeros(3)}
    requests = {SiteId(str(n)): TrainRequest("run", 1, 1, model, {"control": control}, counted=n) for n in range(3)}
    contents = [content for _, content in wire.request_records(requests, premises)]
    assert len({id(content["model"]) for content in contents}) == 1
    assert len({id(content["extra/control"]) for content in contents}) == 1
    assert [wire.request_of(content)[1].counted for content in contents] == [0, 1, 2]


def test_what_is_no_reply_of_a_site_is_not_sent() -> None:
    with pytest.raises(TypeError, match="Lost"):
        wire.reply_record(Lost(A, 0, "late"), 0.0)
    with pytest.raises(TypeError, match="complex64"):
        wire.array_of(np.zeros(2, np.complex64))


def reply(**changes: object) -> RecordDict:
    fields = {"kind": "update", "site": "a", "round": 1, "attempt": 1, "layout": "x", "work": 1, "seconds": 0.0} | changes
    vector = wire.arrays_of({"vector": np.zeros(2, np.int64)})
    return RecordDict({"reply": ConfigRecord({k: v for k, v in fields.items() if v is not None}), "arrays": vector})  # type: ignore[misc]


MALFORMED = {
    "nothing at all": RecordDict(),
    "no kind": reply(kind=None),
    "an unknown kind": reply(kind="gradient"),
    "a word for a round": reply(round="1"),
    "a bool for a round": reply(round=True),
    "a list for a site": reply(site=["a"]),
    "seconds that are no number": reply(seconds=float("nan")),
    "negative seconds": reply(seconds=-1.0),
    "negative work": reply(work=-1),
    "no arrays": RecordDict({"reply": reply()["reply"]}),
    "settings for arrays": RecordDict({"reply": reply()["reply"], "arrays": ConfigRecord({"vector": 1})}),
    "no vector": RecordDict({"reply": reply()["reply"], "arrays": ArrayRecord()}),
    "a numpy file": RecordDict({"reply": reply()["reply"], "arrays": ArrayRecord({"vector": Array(np.zeros(2, np.int64))})}),
    "a shape larger than its bytes": RecordDict(
        {"reply": reply()["reply"], "arrays": ArrayRecord({"vector": Array("int64", (10**15,), wire.NUMBERS, b"12345678")})}
    ),
    "a negative shape": RecordDict(
        {"reply": reply()["reply"], "arrays": ArrayRecord({"vector": Array("int64", (-1, -1), wire.NUMBERS, b"12345678")})}
    ),
    "objects": RecordDict({"reply": reply()["reply"], "arrays": ArrayRecord({"vector": Array("object", (1,), wire.NUMBERS, b"12345678")})}),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_a_reply_that_does_not_hold_what_it_should_is_malformed_by_name(content: RecordDict) -> None:
    with pytest.raises(Malformed):
        wire.reply_of(content)


def test_a_request_of_an_unknown_kind_is_malformed(premises: wire.Premises) -> None:
    ((_, content),) = wire.request_records({A: EvaluateRequest("run", 0, {})}, premises)
    content["request"]["kind"] = "divulge"  # type: ignore[index]
    with pytest.raises(Malformed, match="divulge"):
        wire.request_of(content)
