"""What passes between a coordinator and its sites, and what comes out: values, never connections."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NewType, Protocol

import numpy as np

if TYPE_CHECKING:  # who only reads a run's records needs no torch
    from torch import Tensor

SiteId = NewType("SiteId", str)
State = Mapping[str, "Tensor"]  # tensors by name; never changed in place once it is in a message


@dataclass(frozen=True)
class TrainRequest:
    """Train `model` on your own data.

    model: what the sites load, by parameter name.
    extras: the algorithm's own fields, e.g. SCAFFOLD's c as {"control": {...}}.
    witness: in a private run, Merkle root of all sites' ledgers as counted so far, which the site's own entry repeats.
    seen: in a private run, "NUMBER HASH" of the newest entry of THIS site's ledger that the coordinator has counted; a site whose ledger
        lacks it has gone back, and declines.  "" = none.
    counted: the last round whose reply of THIS site entered the model; the site's own state of that round, and no
        other, becomes current.  None: none so far.
    """

    run: str
    round: int
    attempt: int
    model: State
    extras: Mapping[str, State] = field(default_factory=dict)
    counted: int | None = None
    witness: str = ""
    seen: str = ""


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

    vector: int64 or int32 [layout.size], the site's weight and figures of training among its fields; `Unwritten` only in a
        loop that adds it up before its site's worker goes on.
    layout: the layout's digest, so that two parties who mean different numbers find out.
    work: examples that went through the model: what the simulated clock runs on.
    entry: in a private run, the line of the site's ledger that charges this request.
    """

    site: SiteId
    round: int
    attempt: int
    vector: Any
    layout: str
    work: int = 0
    entry: bytes = b""


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
    """A site's answers to a `SecureRequest`, one a message, in their bytes; nothing of the site beside them but, in a private
    run, the line of its ledger (`entry`) that charges the vector among them.

    work: of a simulated site, what the simulated clock runs on; a real one says 0.
    """

    site: SiteId
    round: int
    messages: tuple[bytes, ...]
    entry: bytes = b""
    work: int = 0


@dataclass(frozen=True)
class Added:
    """The site's update was sound and is in a sum where it was made, which comes as a `Subtotal`."""

    site: SiteId
    round: int


@dataclass(frozen=True)
class Subtotal:
    """The sum of some sites' updates, each checked and added up where it was made, by a worker of the coordinator's own.

    sum: int64 [layout.size].  norms: the L2 norm of each site's update, by its name.
    """

    round: int
    attempt: int
    sum: np.ndarray
    norms: Mapping[SiteId, float]
    layout: str


Reply = ClientUpdate | Measured | SecureReply | Declined | Lost | Added

RELATIONS = {"add_remove": "one added or removed", "replace_one": "one replaced", "zero_out": "one blanked"}


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy, with all that makes the number mean something.

    unit: what one neighbour differs in: example, subject or site.  relation: how, of `RELATIONS`.
    accountant: how epsilon was computed.

    >>> print(Guarantee(2.5, 1e-5, "example", "add_remove", "pld"))
    ε = 2.50 at δ = 1e-05 per example (pld, one added or removed)
    """

    epsilon: float
    delta: float
    unit: str
    relation: str
    accountant: str

    def __str__(self) -> str:
        shown = math.ceil(self.epsilon * 100 - 1e-9) / 100 if math.isfinite(self.epsilon) else self.epsilon  # never rounded down
        return f"ε = {shown:.2f} at δ = {self.delta:g} per {self.unit} ({self.accountant}, {RELATIONS[self.relation]})"


class Exchange(Protocol):
    """A way to ask sites and get their replies: a loop, a pool of workers, a network."""

    def sites(self) -> Sequence[SiteId]:
        """Every site of the federation, in a fixed order."""
        ...

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
        """Replies as they come, at most one a site, in any order; a site that is lost gives `Lost` or nothing; those that
        are `Added` are in a `Subtotal` that follows.

        The caller folds a reply before it asks for the next, so that no more than a few are ever held.
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
