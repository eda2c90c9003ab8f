"""Child processes that de-identify, each within limits of memory and time: what a hostile file can do ends there.

A child is forked, gets a pipe and the rules, answers one outcome a file, and is replaced when it is over time or dies.
Its time is CPU time, which a busy or paused machine does not use up, and the system ends it there; the parent's clock
ends only what sleeps or is blocked for PATIENCE times as long. Its standard error is closed: a traceback could hold
values.
"""

import contextlib
import ctypes
import math
import multiprocessing
import multiprocessing.connection
import os
import resource
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fedvision.errors import DataError
from privacy.deidentify.instance import Outcome
from privacy.deidentify.states import State

PR_SET_PDEATHSIG = 1  # prctl(2)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
BATCH = 8  # files sent to a child at once
QUEUE, QUEUE_BYTES = 48, 32_000  # files, and bytes of paths, that lie before a child: work while the parent is at the disk
PATIENCE = 10  # times the limit of CPU time: wall-clock time that a file may take
AHEAD = 96  # files per child that may be under way or waiting for their turn
GATHER = 0.01  # seconds in which answers gather while every child has work: a parent that wakes for each takes a child's processor

Handler = Callable[[bytes, bool], Outcome]
Task = tuple[int, tuple[bytes, bool], Any]  # (number, what the handler is called with, what the caller wants back)


@dataclass
class _Child:
    process: Any
    pipe: multiprocessing.connection.Connection
    busy: deque[Task] = field(default_factory=deque)
    since: float = 0.0


def _child(pipe: multiprocessing.connection.Connection, make: Callable[[], Handler], seconds: int, memory: int, parent: int) -> None:
    """The child's life: never returns, prints nothing."""
    try:
        # a forked child holds the other ends of pipes too, so that it would not see its parent die
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(70)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _keep_memory()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        handle = make()
        while True:
            for path, thoroughly in pipe.recv():
                _allow(seconds)
                pipe.send(_answer(handle, path, thoroughly))
    finally:
        os._exit(70)


def _answer(handle: Handler, path: bytes, thoroughly: bool) -> Outcome | DataError:
    """An outcome, or why there can be none for any file."""
    try:
        return handle(path, thoroughly)
    except DataError as error:
        return error


def _keep_memory() -> None:
    """What a file needed is kept for the next one (glibc): given back and asked for again, page by page, it costs a
    tenth of the time."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(M_TRIM_THRESHOLD, 64 << 20)


def _allow(seconds: int) -> None:
    """From now on the process may use `seconds` of CPU time, then SIGXCPU ends it."""
    used = math.ceil(time.process_time())  # the limit counts whole seconds: rounded up, a file may have one more, never less
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.RLIM_INFINITY))


def _answering(children: list[_Child], seconds: float = 0.0) -> list[_Child]:
    """Those of the children whose pipes hold an answer, or were closed, within so many seconds.

    `Connection.poll` and `connection.wait` do the same, and take ten times as long."""
    poll = select.poll()
    for child in children:
        poll.register(child.pipe.fileno(), select.POLLIN)
    answered = {descriptor for descriptor, _ in poll.poll(math.ceil(1000 * seconds))}
    return [child for child in children if child.pipe.fileno() in answered]


class Pool:
    """`count` children.  `outcomes(tasks)` takes ((path, thoroughly), extra) and gives (extra, outcome) in their
    order.

    seconds: of CPU time that one file may take; it may take PATIENCE times as long by the clock.
    """

    def __init__(self, make: Callable[[], Handler], count: int, seconds: int, memory_mib: int, patience: float = PATIENCE):
        self.make, self.count, self.seconds, self.memory = make, count, seconds, memory_mib << 20
        self.longest = patience * seconds  # by the clock
        self.context = multiprocessing.get_context("fork")
        self.children: list[_Child] = []
        self.waiting: deque[Task] = deque()
        self.ready: dict[int, tuple[Any, Outcome]] = {}

    def __enter__(self) -> "Pool":
        self.children = [self._start() for _ in range(self.count)]
        return self

    def __exit__(self, *error: object) -> None:
        for child in self.children:
            self._end(child)

    def _start(self) -> _Child:
        ours, theirs = self.context.Pipe()
        limits = (self.seconds, self.memory)
        process = self.context.Process(target=_child, args=(theirs, self.make, *limits, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        return _Child(process, ours)

    @staticmethod
    def _end(child: _Child) -> None:
        child.process.kill()
        child.process.join()
        child.pipe.close()

    def outcomes(self, tasks: Iterable[tuple[tuple[bytes, bool], Any]]) -> Iterator[tuple[Any, Outcome]]:
        """Each task's label and outcome, in the order of the tasks."""
        source = enumerate(tasks)
        following, issued, more = 0, 0, True
        while True:
            while more and issued - following < AHEAD * self.count:
                entry = next(source, None)
                if entry is None:
                    more = False
                    break
                self.waiting.append((entry[0], *entry[1]))
                issued += 1
            self._feed()
            while following in self.ready:
                yield self.ready.pop(following)
                following += 1
            if following == issued and not more:
                return
            if following < issued:
                self._receive()

    def _feed(self) -> None:
        """Give work to whoever has least of it, until each has enough."""
        while self.waiting:
            child = min(self.children, key=lambda child: len(child.busy))
            paths = sum(len(task[1][0]) for task in child.busy)
            if child.busy and (len(child.busy) > QUEUE - BATCH or paths > QUEUE_BYTES):
                return
            share = math.ceil(len(self.waiting) / (2 * self.count))  # less and less at the end, so that all end together
            tasks = [self.waiting.popleft() for _ in range(min(BATCH, share))]
            child.since = child.since if child.busy else time.monotonic()
            child.busy.extend(tasks)
            with contextlib.suppress(OSError):  # it died; `_receive` finds the pipe closed and replaces it
                child.pipe.send([task[1] for task in tasks])

    def _receive(self) -> None:
        busy = [child for child in self.children if child.busy]
        if all(len(child.busy) > QUEUE // 2 for child in self.children):
            time.sleep(GATHER)
        now = time.monotonic()
        left = min(child.since + self.longest - now for child in busy)
        for child in _answering(busy, max(0.0, left)):
            self._drain(child)
        now = time.monotonic()
        for child in busy:
            if child.busy and child in self.children and now - child.since > self.longest and not _answering([child]):
                self._replace(child, "TIMEOUT")

    def _drain(self, child: _Child) -> None:
        """Take all answers that lie in a child's pipe; it is replaced where it has died."""
        try:
            while child.busy and _answering([child]):
                self._answer(child, child.pipe.recv())
        except (EOFError, OSError):
            self._replace(child, "")

    def _answer(self, child: _Child, outcome: Outcome | DataError) -> None:
        if isinstance(outcome, DataError):
            raise outcome
        number, _, extra = child.busy.popleft()
        self.ready[number] = (extra, outcome)
        child.since = time.monotonic()

    def _replace(self, child: _Child, code: str) -> None:
        """The file at hand is quarantined, under what ended the child where no `code` says it; the others go back, and
        a new child takes the place."""
        self._end(child)
        code = code or ("TIMEOUT" if child.process.exitcode == -signal.SIGXCPU else "CRASHED")
        self._answer(child, Outcome(State.QUARANTINED, code))
        self.waiting.extendleft(reversed(child.busy))
        self.children[self.children.index(child)] = self._start()
