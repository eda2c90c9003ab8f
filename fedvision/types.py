"""What passes between a coordinator and its sites, and what comes out: values, never connections."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NewType, Protocol

import numpy as np
from torch import Tensor

SiteId = NewType("SiteId", str)
State = Mapping[str, Tensor]  # tensors by name; never changed in place once it is in a message


@dataclass(frozen=True)
class TrainRequest:
    """Train `model` on your own data.

    model: what the sites load, by parameter name.
    extras: the algorithm's own fields, e.g. SCAFFOLD's c as {"control": {...}}.
    counted: the last round whose reply of THIS site entered the model; the site's own state of that round, and no
        other, becomes current.  None: none so far.
    """

    run: str
    round: int
    attempt: int
    model: State
    extras: Mapping[str, State] = field(default_factory=dict)
    counted: int | None = None


@dataclass(frozen=True)
class EvaluateRequest:
    """Measure `model` on your own `part` ("test" or "validation")."""

    run: str
    round: int
    model: State
    part: str = "test"
    counted: int | None = None


@dataclass(frozen=True)
class SecureRequest:
    """A step of secure aggregation.  messages: the protocol's, in their bytes, answered in this order.

    train: what to train on, where one of them asks for a masked vector.
    """

    run: str
    round: int
    messages: tuple[bytes, ...]
    train: TrainRequest | None = None


Request = TrainRequest | EvaluateRequest | SecureRequest


@dataclass(frozen=True)
class ClientUpdate:
    """A site's contribution to a round's sums: one vector of fixed-point numbers, laid out by the run's `sums.Layout`.

    vector: int64 or int32 [layout.size], the site's weight and figures of training among its fields.
    layout: the layout's digest, so that two parties who mean different numbers find out.
    work: examples that went through the model: what the simulated clock runs on.
    """

    site: SiteId
    round: int
    attempt: int
    vector: np.ndarray
    layout: str
    work: int = 0


@dataclass(frozen=True)
class Measured:
    """What a site measured: metrics as sums over its examples, by name (int64), so that sites can be added up."""

    site: SiteId
    round: int
    sums: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Declined:
    """A site says no.  `code` is short and fixed, for counting; `reason` holds nothing of the site's data."""

    site: SiteId
    round: int
    code: str
    reason: str


@dataclass(frozen=True)
class Lost:
    """No reply, and what the exchange knows about it: "absent", "dropout", "late", or a worker's fate."""

    site: SiteId
    round: int
    kind: str


@dataclass(frozen=True)
class SecureReply:
    """A site's answers to a `SecureRequest`, one a message, in their bytes; nothing of the site beside them."""

    site: SiteId
    round: int
    messages: tuple[bytes, ...]


Reply = ClientUpdate | Measured | SecureReply | Declined | Lost


class Exchange(Protocol):
    """A way to ask sites and get their replies: a loop, a pool of workers, a network."""

    def sites(self) -> Sequence[SiteId]:
        """Every site of the federation, in a fixed order."""
        ...

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
        """Replies as they come, at most one a site, in any order; a site that is lost gives `Lost` or nothing.

        A `ClientUpdate`'s vector is the caller's until it asks the iterator for the next reply.
        """
        ...

    def clock(self) -> float:
        """Seconds: the wall's, or a simulation's."""
        ...

    def busy(self) -> float:
        """Wall seconds that the sites have worked so far, over the number that work at once: the rest is transport."""
        ...

    def close(self) -> None:
        """Let workers and connections go."""
        ...
