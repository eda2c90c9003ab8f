"""What a site has spent in a run, and what it has released: on its own disk, before either has an effect.

Charge, then act: `reserve` writes that a round's steps will be taken before they are; `settle` that they were.  A crash in
between counts them.  Ask twice, get the same bytes: a reply that carries secret noise is kept under the hash of its request
before it leaves, and the same request is answered from there, at no charge and without new noise.
"""

import hashlib
import io
import os
import weakref
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from fedvision.types import ClientUpdate, SiteId, State, TrainRequest
from privacy.ledger.entries import canonical


class Account(Protocol):
    """Who pays for a site's steps: `privacy.budget.RunAccount`."""

    def reserve(self, round: int, attempt: int) -> None:
        """Charge one round of the plan; BudgetExhausted, and nothing charged, where the plan does not hold it."""
        ...

    def settle(self, round: int, attempt: int) -> None:
        """The steps that were reserved have been taken."""
        ...


def state_hash(state: State) -> str:
    """SHA-256 over tensors by name: their dtypes, shapes and numbers.  That of the state hashed last is remembered: a round's
    model goes to many sites."""
    global _last
    tensors = [tensor for _, tensor in sorted(state.items())]
    refs, found = _last
    if len(refs) == len(tensors) and all(ref() is tensor for ref, tensor in zip(refs, tensors, strict=True)):
        return found
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"\x1f{name}:{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).reshape(-1).view(np.uint8).data)
    found = digest.hexdigest()
    if tensors:
        _last = (tuple(map(weakref.ref, tensors)), found)
    return found


_last: tuple[tuple["weakref.ref[Any]", ...], str] = ((), "")


def request_hash(request: TrainRequest) -> str:
    """SHA-256 over all that a reply may depend on: run, round, attempt, the model and the extras."""
    extras = [[name, state_hash(state)] for name, state in sorted(request.extras.items())]
    return hashlib.sha256(canonical([request.run, request.round, request.attempt, state_hash(request.model), extras])).hexdigest()


class Replies:
    """A site's released vectors, until a request names their round as counted."""

    def __init__(self, folder: Path, site: SiteId):
        self.folder = folder / quote(site, safe="") / "replies"

    def find(self, request: TrainRequest, layout: str) -> np.ndarray | None:
        """The vector that was released for this very request."""
        path = self._path(request, layout)
        return np.load(io.BytesIO(path.read_bytes())) if path.exists() else None

    def keep(self, request: TrainRequest, reply: ClientUpdate) -> None:
        """Make `reply` durable, before it leaves."""
        path = self._path(request, reply.layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(f".{os.getpid()}.part")
        with written.open("wb") as file:
            np.save(file, reply.vector)
            file.flush()
            os.fsync(file.fileno())
        os.replace(written, path)

    def forget(self, counted: int | None) -> None:
        """Drop what is counted, or older."""
        if counted is None or not self.folder.exists():
            return
        for path in self.folder.glob("*.npy"):
            if int(path.name.partition("-")[0]) <= counted:
                path.unlink(missing_ok=True)

    def _path(self, request: TrainRequest, layout: str) -> Path:
        return self.folder / f"{request.round}-{request_hash(request)[:40]}-{layout[:16]}.npy"
