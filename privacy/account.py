"""What a site has spent in a run, and what it has released: on its own disk, before either has an effect.

Charge, then act: `reserve` writes that a round's steps will be taken before they are; `settle` that they were.  A crash in
between counts them.  Ask twice, get the same bytes: a reply that carries secret noise is kept under the hash of its request
before it leaves, and the same request is answered from there, at no charge and without new noise.
"""

import hashlib
import io
import json
import os
import weakref
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from fedvision.errors import BudgetExhausted, RunFolderError
from fedvision.types import ClientUpdate, SiteId, State, TrainRequest
from privacy.ledger.entries import canonical
from privacy.plan import Plan


class Account(Protocol):
    """Who pays for a site's steps."""

    def reserve(self, round: int, attempt: int) -> None:
        """Charge one round of the plan; BudgetExhausted, and nothing charged, where the plan does not hold it."""
        ...

    def settle(self, round: int, attempt: int) -> None:
        """The steps that were reserved have been taken."""
        ...


class Odometer:
    """A site's account of one run: a line a reservation in `spent.jsonl`, on disk before the step.  Bounded by the plan.

    repeatable: whether the noise is a simulation's that repeats, so that the same attempt asked again releases nothing new.
    """

    def __init__(self, folder: Path, site: SiteId, plan: Plan, repeatable: bool = False):
        self.path = folder / quote(site, safe="") / "spent.jsonl"
        self.site, self.plan, self.repeatable = site, plan, repeatable

    def reserved(self) -> int:
        """Rounds that were charged so far."""
        return sum(entry["event"] == "reserve" for entry in self._entries())

    def _entries(self) -> list[dict[str, Any]]:
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was torn by a kill, and never acted on
        except FileNotFoundError:
            return []
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise RunFolderError(f"{self.path} is damaged: what site {self.site} has spent is not known, so it spends no more") from None

    def reserve(self, round: int, attempt: int) -> None:
        """Charge one round."""
        entries = self._entries()
        if self.repeatable and any((e["round"], e["attempt"]) == (round, attempt) for e in entries):
            return
        already = sum(entry["event"] == "reserve" for entry in entries)
        if already >= self.plan.rounds:
            raise BudgetExhausted(
                f"{self.plan.a_round.steps} more steps are not in the plan: all its {self.plan.rounds} rounds are spent, {self.plan.guarantee}; "
                "stop here, or plan more rounds"
            )
        self._append({"event": "reserve", "round": round, "attempt": attempt, "steps": self.plan.a_round.steps, "rounds": already + 1})

    def settle(self, round: int, attempt: int) -> None:
        """Note that the reserved steps were taken."""
        self._append({"event": "settle", "round": round, "attempt": attempt})

    def _append(self, entry: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            content = os.read(handle, os.fstat(handle).st_size)
            end = content.rfind(b"\n") + 1
            os.ftruncate(handle, end)
            os.pwrite(handle, json.dumps(entry).encode() + b"\n", end)
            os.fsync(handle)
        finally:
            os.close(handle)


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
