"""Our types <-> Flower's records: the only file that knows both.

Arrays travel as their bare numbers, little-endian in C order, with Flower's own dtype and shape beside them: no header to
parse, no copy to write, and a receiver can check the size before it believes anything.  What arrives is not trusted: a
record that does not hold what it should is `Malformed`, by the name of its part.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedvision.errors import Malformed
from fedvision.experiment import Experiment
from fedvision.types import (
    ClientUpdate,
    Declined,
    EvaluateRequest,
    Measured,
    Reply,
    Request,
    SecureReply,
    SecureRequest,
    SiteId,
    State,
    TrainRequest,
)

NUMBERS = "fedvision.numbers"  # the serialisation type of our arrays
DTYPES = {str(d): d for d in map(np.dtype, ("?", "u1", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"))}
T = TypeVar("T")

# Flower's error codes (flwr.common.constant.ErrorCode), in words
FLOWER_ERRORS = {
    0: "the worker died or could not start",
    1: "the client app did not load",
    2: "the client app raised",
    3: "the request was lost",
    4: "the reply was lost",
    5: "node unavailable",
    6: "a condition of the client app was not met",
    7: "the bundle was refused",
    8: "the client app crashed",
}


@dataclass(frozen=True)
class Premises:
    """Where the sites of a simulation are opened: on which data (`partition`, a file), with their own states in a folder."""

    experiment: Experiment
    partition: Path
    states: Path

    @cached_property
    def record(self) -> ConfigRecord:
        """It travels in each message, because a worker of Flower's knows nothing of a run before its first one."""
        return ConfigRecord({"experiment": self.experiment.model_dump_json(), "partition": str(self.partition), "states": str(self.states)})


def premises_key(content: RecordDict) -> tuple[str, str, str]:
    """(experiment as JSON, partition, states) of a request: equal for all requests of a run."""
    record = _config(content, "premises")
    return _get(record, "experiment", str), _get(record, "partition", str), _get(record, "states", str)


# ------------------------------------------------------------------------------------------------------------ tensors


def array_of(numbers: np.ndarray) -> Array:
    """`numbers` as Flower carries them.  TypeError for a dtype that does not travel."""
    name = str(numbers.dtype)
    if name not in DTYPES:
        raise TypeError(f"numbers of type {name} do not travel; those that do: {', '.join(DTYPES)}")
    return Array(name, tuple(numbers.shape), NUMBERS, numbers.astype(DTYPES[name], copy=False).tobytes())


def numbers_of(array: Array, name: str) -> np.ndarray:
    """What `array_of` wrote, read-only; Malformed where dtype, shape and size do not belong together."""
    dtype, shape, size = DTYPES.get(array.dtype), array.shape, len(array.data)
    if array.stype != NUMBERS or dtype is None:
        raise Malformed(f"{name}: numbers of type {array.dtype[:40]} as {array.stype[:40]}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise Malformed(f"{name}: {size} bytes for shape {tuple(shape[:8])} of {dtype}")
    return np.frombuffer(array.data, dtype).reshape(shape)


def arrays_of(numbers: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Arrays by name."""
    return ArrayRecord({name: array_of(value) for name, value in numbers.items()})


def record_of(state: State) -> ArrayRecord:
    """Tensors by name, from wherever they are."""
    return arrays_of({name: tensor.detach().cpu().contiguous().numpy() for name, tensor in state.items()})


def state_of(record: ArrayRecord) -> dict[str, Tensor]:
    """What `record_of` wrote, in tensors that may be written to."""
    return {name: torch.from_numpy(numbers_of(array, name).copy()) for name, array in record.items()}


# ----------------------------------------------------------------------------------------------------------- requests


def request_records(requests: Mapping[SiteId, Request], premises: Premises) -> Iterator[tuple[SiteId, RecordDict]]:
    """Each site's request.  A state is written once, however many sites it goes to: their records share it."""
    written: dict[int, ArrayRecord] = {}  # by identity: `requests` keeps the states alive

    def once(state: State) -> ArrayRecord:
        if id(state) not in written:
            written[id(state)] = record_of(state)
        return written[id(state)]

    for site, request in requests.items():
        fields: dict[str, Any] = {"site": site, "run": request.run, "round": request.round}
        content: dict[str, Any] = {"premises": premises.record}
        carrier = request.train if isinstance(request, SecureRequest) else request
        if isinstance(request, SecureRequest):
            fields["kind"] = "masked" if carrier is None else "masked train"
            content["messages"] = messages_record(request.messages)
        elif isinstance(request, TrainRequest):
            fields["kind"] = "train"
        else:
            fields |= {"kind": "evaluate", "part": request.part}
        if carrier is not None:
            if carrier.counted is not None:
                fields["counted"] = carrier.counted
            content["model"] = once(carrier.model)
        if isinstance(carrier, TrainRequest):
            fields |= {"attempt": carrier.attempt, "witness": carrier.witness, "seen": carrier.seen}
            content |= {f"extra/{name}": once(state) for name, state in carrier.extras.items()}
        yield site, RecordDict(content | {"request": ConfigRecord(fields)})


def request_of(content: RecordDict) -> tuple[SiteId, Request]:
    """The site that is asked, and what; Malformed where it cannot be read."""
    fields = _config(content, "request")
    site, run, round = SiteId(_get(fields, "site", str)), _get(fields, "run", str), _get(fields, "round", int)
    counted = _get(fields, "counted", int) if "counted" in fields else None
    kind = _get(fields, "kind", str)
    if kind == "masked":
        return site, SecureRequest(run, round, messages_of(content))
    if kind not in ("evaluate", "train", "masked train"):
        raise Malformed(f"a request of kind {kind[:40]!r}; there are train, evaluate, masked and masked train")
    model = state_of(_arrays(content, "model"))
    if kind == "evaluate":
        return site, EvaluateRequest(run, round, model, _get(fields, "part", str), counted)
    extras = {name.removeprefix("extra/"): state_of(_arrays(content, name)) for name in content if name.startswith("extra/")}
    own = (_get(fields, name, str) for name in ("witness", "seen"))
    train = TrainRequest(run, round, _get(fields, "attempt", int), model, extras, counted, *own)
    return site, train if kind == "train" else SecureRequest(run, round, messages_of(content), train)


def messages_record(messages: tuple[bytes, ...]) -> ArrayRecord:
    """Messages of secure aggregation, numbered: arrays of bytes, which Flower carries in pieces where they are long."""
    return ArrayRecord({str(number): array_of(np.frombuffer(message, np.uint8)) for number, message in enumerate(messages)})


def messages_of(content: RecordDict) -> tuple[bytes, ...]:
    """What `messages_record` wrote; Malformed where one is missing."""
    record = _arrays(content, "messages")
    return tuple(numbers_of(_item(record, str(number)), f"message {number}").tobytes() for number in range(len(record)))


# ------------------------------------------------------------------------------------------------------------ replies


def reply_record(reply: Reply, seconds: float) -> RecordDict:
    """A site's reply; `seconds` that it worked on it."""
    fields: dict[str, Any] = {"site": reply.site, "round": reply.round, "seconds": seconds}
    if isinstance(reply, ClientUpdate):
        fields |= {"kind": "update", "attempt": reply.attempt, "layout": reply.layout, "work": reply.work, "entry": reply.entry}
        return RecordDict({"reply": ConfigRecord(fields), "arrays": arrays_of({"vector": reply.vector})})
    if isinstance(reply, Measured):
        return RecordDict({"reply": ConfigRecord(fields | {"kind": "measured"}), "arrays": arrays_of(reply.sums)})
    if isinstance(reply, SecureReply):
        fields |= {"kind": "masked", "entry": reply.entry, "work": reply.work}
        return RecordDict({"reply": ConfigRecord(fields), "messages": messages_record(reply.messages)})
    if isinstance(reply, Declined):
        return RecordDict({"reply": ConfigRecord(fields | {"kind": "declined", "code": reply.code, "reason": reply.reason})})
    raise TypeError(f"a {type(reply).__name__} is the exchange's word, and no site sends it")


def _work(fields: ConfigRecord) -> int:
    work: int = _get(fields, "work", int)
    if work < 0:
        raise Malformed(f"reply: {work} examples of work")
    return work


def reply_of(content: RecordDict) -> tuple[Reply, float]:
    """The reply and the seconds that its site worked; Malformed where it cannot be read."""
    fields = _config(content, "reply")
    site, round, kind = SiteId(_get(fields, "site", str)), _get(fields, "round", int), _get(fields, "kind", str)
    seconds = _get(fields, "seconds", float)
    if not 0 <= seconds < math.inf:
        raise Malformed(f"reply: {seconds} seconds of work")
    if kind == "update":
        vector = numbers_of(_item(_arrays(content, "arrays"), "vector"), "vector")
        attempt, layout = _get(fields, "attempt", int), _get(fields, "layout", str)
        return ClientUpdate(site, round, attempt, vector, layout, _work(fields), _get(fields, "entry", bytes)), seconds
    if kind == "measured":
        return Measured(site, round, {name: numbers_of(array, name) for name, array in _arrays(content, "arrays").items()}), seconds
    if kind == "masked":
        return SecureReply(site, round, messages_of(content), _get(fields, "entry", bytes), _work(fields)), seconds
    if kind == "declined":
        return Declined(site, round, _get(fields, "code", str)[:40], _get(fields, "reason", str)[:400]), seconds
    raise Malformed(f"a reply of kind {kind[:40]!r}; there are update, measured, masked and declined")


def roll_call() -> RecordDict:
    """Asks a node which partition of the simulation it is: Flower's node ids are random."""
    return RecordDict({"roll": ConfigRecord({})})


def present_record(number: int) -> RecordDict:
    """The answer to `roll_call`."""
    return RecordDict({"present": ConfigRecord({"number": number})})


def present_of(content: RecordDict) -> int:
    """The number of a node's partition; Malformed where it cannot be read."""
    return _get(_config(content, "present"), "number", int)


def loss_of(message: Message) -> str | None:
    """What became of a request to which `message`, of Flower itself, is the answer; None where the site answered.
    The words that Flower passes on are not read: they may be a site's."""
    if not message.has_error():
        return None if message.has_content() else "no reply: empty"
    code = message.error.code
    return f"no reply: {FLOWER_ERRORS.get(code, 'another error')} ({code})"


# -------------------------------------------------------------------------------------------------------------- parts


def _get(record: ConfigRecord, name: str, kind: type[T]) -> T:
    value = record.get(name)
    if type(value) is not kind:  # exactly: a bool is no number here
        raise Malformed(f"{name} is {type(value).__name__}, and should be {kind.__name__}")
    return value


def _config(content: RecordDict, name: str) -> ConfigRecord:
    return _typed(content.get(name), name, ConfigRecord)


def _arrays(content: RecordDict, name: str) -> ArrayRecord:
    return _typed(content.get(name), name, ArrayRecord)


def _item(record: ArrayRecord, name: str) -> Array:
    return _typed(record.get(name), name, Array)


def _typed(value: object, name: str, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise Malformed(f"{name} is missing, or no {kind.__name__}")
    return value
