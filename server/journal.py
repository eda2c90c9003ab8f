"""The journal of a run: each finished round is made durable, shown and logged, while the next one already trains."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedvision.tracking.folder import RunFolder
from fedvision.tracking.progress import Progress as Display
from server.checkpoints import Checkpoints, Progress


class Listener(Protocol):
    """Who else is told of a round, e.g. MLflow."""

    def log_round(self, record: dict[str, Any]) -> None:
        """A round is durable."""
        ...


@dataclass
class Journal:
    """Writes rounds in the background, one at a time and in order.

    A round's line is in rounds.jsonl before its checkpoint is whole: a crash in between leaves a line that a resume drops,
    never a checkpoint without its line.  behind: how many rounds may be under way; 0 where the sites' states must not
    overtake the checkpoints (a request that names round n as counted makes a site forget the state before it).
    """

    folder: RunFolder
    checkpoints: Checkpoints
    display: Display
    listeners: list[Listener]
    behind: int = 1
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "journal"))
    _pending: list["Future[None]"] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, round: int, sites: int) -> None:
        """Requests go out."""
        self.display.round_started(round, sites)

    def replied(self) -> None:
        """One site has replied."""
        self.display.site_done()

    def done(self, state: Any, progress: Progress, record: dict[str, Any], best: bool) -> None:
        """Write the round; its errors (a full disk) come out at the next round at the latest, and no earlier round is lost."""
        self._pending.append(self._pool.submit(self._write, state, progress, record, best))
        while len(self._pending) > self.behind:
            self._pending.pop(0).result()

    def _write(self, state: Any, progress: Progress, record: dict[str, Any], best: bool) -> None:
        self.folder.append_round(record)
        self.checkpoints.write(state, progress, best)
        with self._lock:
            self.display.round_finished(record)
        for listener in self.listeners:
            listener.log_round(record)

    def settle(self) -> None:
        """Wait until all that was handed in is on disk."""
        while self._pending:
            self._pending.pop(0).result()

    def close(self) -> None:
        """Let the thread go."""
        self._pool.shutdown(wait=True)
