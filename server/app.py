"""The ServerApp: whoever conducts the rounds is given Flower's nodes as an Exchange, and keeps what came of it."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedvision.errors import EngineError
from fedvision.types import Exchange, SiteId
from fedvision.wire import Premises
from server.exchange import GridExchange

T = TypeVar("T")


@dataclass
class Conductor(Generic[T]):
    """Runs `conduct` in the thread that Flower gives a ServerApp, for a caller in another thread.

    Flower drops what a ServerApp returns, logs what it raises, and does not stop it when its own runtime ends: so the
    outcome is kept here, nothing is raised into Flower, and `halt` ends the rounds from outside.
    """

    conduct: Callable[[Exchange], T]
    sites: Sequence[SiteId]
    premises: Premises
    workers: int
    _came: list[T] = field(default_factory=list)
    _raised: BaseException | None = None
    _halt: BaseException | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _begun: bool = False
    _done: threading.Event = field(default_factory=threading.Event)

    def app(self) -> ServerApp:
        """The ServerApp."""
        app = ServerApp()
        app.main()(self._main)
        return app

    def halt(self, reason: BaseException) -> None:
        """Raise `reason` in the rounds at their next look for replies, and wait until they have ended."""
        with self._lock:
            self._halt = reason
            begun = self._begun
        if begun:
            self._done.wait()

    def outcome(self) -> T:
        """What `conduct` returned; raises what it raised, or why it never began."""
        error = self._raised or self._halt
        if error is not None:
            raise error
        if not self._came:
            raise EngineError("Flower ended before its ServerApp was called; run.log has what it says")
        return self._came[0]

    def _main(self, grid: Grid, context: Context) -> None:
        with self._lock:
            if self._halt is not None:
                return
            self._begun = True
        try:
            self._came.append(self.conduct(GridExchange(grid, self.sites, self.premises, self.workers, self._check)))
        except BaseException as error:  # handed to the caller by `outcome`, in its own thread
            self._raised = error
        finally:
            self._done.set()

    def _check(self) -> None:
        if self._halt is not None:
            raise self._halt
