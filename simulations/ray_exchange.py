"""The exchange over Ray workers: each free worker gets the next sites, and replies come as they are made.

A request's model travels once: it is put into Ray's shared memory, and workers read it there.  Workers check updates and
add them up, exactly, and send one sum each when all is done; where somebody must see single updates, these lie in shared
memory until they are folded.  Each worker has at most two calls open, so that few replies wait, and no worker does.
"""

import logging
import math
import secrets
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError
from torch import Tensor

from fedvision.data.federation import Federated
from fedvision.errors import RunFolderError
from fedvision.types import Added, EvaluateRequest, Exchange, Lost, Request, SecureRequest, SiteId, State, Subtotal, TrainRequest
from simulations.ray_cluster import joined
from simulations.ray_crew import DEATHS, Crew, Hand, death, plain
from simulations.ray_trouble import Trouble, Troublemakers
from simulations.ray_worker import CRASHES, PROBE, Asked, Job, shared_part, states_of, with_states
from simulations.setting import Setting, added_at_once

log = logging.getLogger("fedvision.ray")
T = TypeVar("T")
OPEN_CALLS = 2  # of one worker: one that it works on, and one that it finds when that is done
CALL_SECONDS = 0.1  # worth of small sites in one call, so that Ray's own 3 ms a call (of all its processes) hardly show
CALL_BYTES = 24 << 20  # of replies in one call, so that few wait to be folded


def run_on_ray(setting: Setting, conduct: Callable[[Exchange], T]) -> T:
    """What `conduct` makes of an exchange with engine.workers Ray workers; they end with it.

    Raises EngineError where workers cannot be had or die too often, and whatever their data or model raises.
    """
    with on_ray(setting) as exchange:
        return conduct(exchange)


@contextmanager
def on_ray(setting: Setting) -> Iterator["OnRay"]:
    """An exchange with engine.workers Ray workers, which end with the block."""
    with joined(setting.experiment.engine) as cluster:
        job = Job(setting.experiment, setting.data.partition, setting.states.resolve(), secrets.token_hex(), _here())
        _write_probe(job)
        try:
            yield OnRay(setting.data, Crew(cluster, setting, job))
        finally:
            for file in job.states.glob(CRASHES):
                file.unlink(missing_ok=True)


@dataclass
class Call:
    """Sites that one worker was asked about in one call.  since: when it began to work on them; None: not yet.  sums: the call
    asks for the sum of their updates; tried: their work is done twice, first in a process of its own."""

    hand: Hand
    asked: Sequence[Asked]
    since: float | None = None
    sums: bool = False
    tried: bool = False


class OnRay:
    """The sites of `data`, served by a crew."""

    def __init__(self, data: Federated, crew: Crew):
        self.data, self.crew = data, crew
        self._straight = added_at_once(crew.experiment)
        self._worked = 0.0
        self._pace: dict[str, float] = {}  # seconds a site, by the kind of request
        self._trouble = {kind: Troublemakers(crew.triable) for kind in KINDS}  # what a site cannot train on it may well measure
        self._said = 0  # requests so far, which are known to the workers by number
        self._states: dict[Any, tuple[list[weakref.ref[Tensor]], Any]] = {}

    def sites(self) -> Sequence[SiteId]:
        """Every site of the partition."""
        return self.data.sites

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Any]:
        """Replies in the order in which workers make them.  A worker that dies or hangs is replaced, and its sites asked
        again; a site that it happens to each time (`simulations.ray_trouble`) is `Lost`."""
        for base, asked in _by_message(requests):
            yield from self._ask(base, deque(asked))

    def _ask(self, base: Request, queue: deque[Asked]) -> Iterator[Any]:
        self._said += 1
        message, kind = self._message(base), _kind(base)
        calls: dict[Any, Call] = {}
        held: dict[Hand, list[Asked]] = {}  # whose updates a worker has added up, and not sent
        told: set[SiteId] = set()
        trouble = self._trouble[kind].begin()
        for site, why in trouble.out(queue):
            yield Lost(site, base.round, why)
        while queue or calls or held:
            self._hand_out(message, kind, queue, calls, trouble)
            if not queue:  # whoever is through sends its sum while the others still work
                for hand in held.keys() - {call.hand for call in calls.values()}:
                    calls[hand.actor.subtotal.remote(self._said)] = Call(hand, held.pop(hand), sums=True)
            done = self.crew.wait(calls, self._left(calls))
            trouble.unprovoked += self.crew.unprovoked()
            if done is None:
                for call in self._overdue(calls):
                    self.crew.hung(call.hand, [site for site, _ in call.asked])
                    yield from self._again(base, queue, calls, held, call, trouble, "hung")
                continue
            done, call = next((r, call) for r, call in calls.items() if call.hand is calls[done].hand)  # the oldest is the first to be done
            try:
                answers = ray.get(done)
            except RayTaskError as error:
                raise plain(error) from error
            except DEATHS as error:
                how = death(call.hand, error)
                self.crew.died(call.hand, error, None if call.sums else trouble.telling(call.asked, how))
                yield from self._again(base, queue, calls, held, call, trouble, how)
                continue
            del calls[done], done  # with the last reference goes the shared memory, as soon as nobody looks at the vectors
            if isinstance(answers, Subtotal):
                yield answers
                continue
            if isinstance(answers, str):
                log.warning("site %s, round %d: tried in a process of its own, it died of %s", call.asked[0][0], base.round, answers)
                queue.extendleft(call.asked)
                yield from self._lost(base, queue, call.asked, trouble, "fell")
                continue
            self.crew.count(trouble.answered([site for site, _ in call.asked]))
            added = {reply.site for reply in answers.replies if isinstance(reply, Added)}
            if added:
                held.setdefault(call.hand, []).extend(asked for asked in call.asked if asked[0] in added)
            self._hand_out(message, kind, queue, calls, trouble)
            self._worked += answers.seconds
            self._pace[kind] = answers.seconds / len(answers.replies)
            for name, level, text in answers.log:
                logging.getLogger(name).log(level, "%s", text)
            yield from (reply for reply in answers.replies if reply.site not in told)
            told |= added

    def _first(self, calls: Mapping[Any, Call], hand: Hand) -> Call:
        """The call that a hand is working on: the oldest of its open ones."""
        return next(call for call in calls.values() if call.hand is hand)

    def _again(
        self,
        base: Request,
        queue: deque[Asked],
        calls: dict[Any, Call],
        held: dict[Hand, list[Asked]],
        lost: Call,
        trouble: Trouble,
        how: str,
    ) -> Iterator[Lost]:
        """Ask again whoever was with a hand that is gone; but not for ever a site that takes its worker with it."""
        queue.extendleft(reversed(held.pop(lost.hand, [])))
        for reference in [reference for reference, call in calls.items() if call.hand is lost.hand]:
            call = calls.pop(reference)
            queue.extendleft(reversed(call.asked))
        trouble.unprovoked += lost.sums
        if not lost.sums:
            yield from self._lost(base, queue, lost.asked, trouble, how)

    def _lost(self, base: Request, queue: deque[Asked], asked: Sequence[Asked], trouble: Trouble, how: str) -> Iterator[Lost]:
        """The sites that are not asked again in this round."""
        for site, why in trouble.blame(asked, how, queue):
            log.warning("site %s, round %d: %s", site, base.round, why)
            yield Lost(site, base.round, why)

    def _left(self, calls: Mapping[Any, Call]) -> float | None:
        """Seconds until the first call is overdue; None where there is no limit."""
        if self.crew.experiment.engine.site_seconds is None or not calls:
            return None
        now = time.monotonic()
        for hand in {call.hand.number: call.hand for call in calls.values()}.values():
            first = self._first(calls, hand)
            first.since = first.since or now
        return max(0.0, min(self._until(call) for call in calls.values() if call.since is not None) - now)

    def _until(self, call: Call) -> float:
        assert call.since is not None and self.crew.experiment.engine.site_seconds is not None
        return call.since + self.crew.experiment.engine.site_seconds * len(call.asked) * (1 + call.tried)

    def _overdue(self, calls: Mapping[Any, Call]) -> list[Call]:
        """The calls that are worked on for too long."""
        if self.crew.experiment.engine.site_seconds is None:
            return []
        now = time.monotonic()
        late = {reference: call for reference, call in calls.items() if call.since is not None and now >= self._until(call)}
        there = set(ray.wait(list(late), num_returns=len(late), timeout=0)[0]) if late else set()
        return [call for reference, call in late.items() if reference not in there]

    def _hand_out(self, message: tuple[Any, ...], kind: str, queue: deque[Asked], calls: dict[Any, Call], trouble: Trouble) -> None:
        """Give every able hand its next sites, up to OPEN_CALLS calls; a site that must be alone gets a hand for itself."""
        for _ in range(OPEN_CALLS):
            for hand in self.crew.able():
                mine = [call for call in calls.values() if call.hand is hand]
                if len(mine) == OPEN_CALLS or any(trouble.alone(call.asked[0][0]) for call in mine):
                    continue
                if asked := self._next(queue, self._sites_a_call(kind, len(queue)), trouble, bool(mine)):
                    if hand.heard != self._said:
                        hand.actor.hear.remote(self._said, *message)
                        hand.heard = self._said
                    tried = trouble.tried(asked)
                    work = hand.actor.trial if tried else hand.actor.answer
                    calls[work.remote(self._said, asked)] = Call(hand, asked, tried=tried)

    def _next(self, queue: deque[Asked], most: int, trouble: Trouble, busy: bool) -> list[Asked]:
        """The next sites for a hand, taken out of the queue; none where each must wait for one that is not busy."""
        first = next((at for at, (site, _) in enumerate(queue) if not busy or not trouble.alone(site)), None)
        if first is None:
            return []
        asked = [queue[first]]
        del queue[first]
        while first == 0 and queue and len(asked) < most and not (trouble.alone(asked[0][0]) or trouble.alone(queue[0][0])):
            asked.append(queue.popleft())
        return asked

    def _sites_a_call(self, kind: str, left: int) -> int:
        """Many small sites, or one large one; fewer and fewer, so that all workers end together."""
        fair = math.ceil(left / (OPEN_CALLS * len(self.crew.hands)))
        quick = CALL_SECONDS / max(self._pace[kind], 1e-6) if kind in self._pace else 1
        room = CALL_BYTES // self.crew.vector_bytes if kind in VECTORS and not self._straight else left
        return max(1, int(min(fair, quick, room)))

    def _message(self, base: Request) -> tuple[Any, ...]:
        """What `Worker.hear` takes after the number: the request without its tensors, and those by name and reference."""
        states = states_of(base)
        return (with_states(base, {name: {} for name in states}), tuple(states), *(self._shared(state) for state in states.values()))

    def _shared(self, state: State) -> Any:
        """A reference to `state` in shared memory, where the same tensors are put once, and let go when they are."""
        for key in [key for key, (tensors, _) in self._states.items() if any(tensor() is None for tensor in tensors)]:
            del self._states[key]
        key = tuple((name, id(tensor)) for name, tensor in state.items())
        if key not in self._states:
            arrays = {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
            self._states[key] = ([weakref.ref(tensor) for tensor in state.values()], ray.put(arrays))
        return self._states[key][1]

    def clock(self) -> float:
        """The wall's."""
        return time.monotonic()

    def busy(self) -> float:
        """Seconds that the workers have worked, over their number."""
        return self._worked / len(self.crew.hands)

    def close(self) -> None:
        """Nothing to let go: the workers end with `run_on_ray`."""


KINDS = ("train", "evaluate", "masked train", "masked")
VECTORS = ("train", "masked train")  # kinds of requests whose replies hold a vector


def _kind(request: Request) -> str:
    """Of how long it takes and what comes back: a masked step with training is another thing than one without."""
    if isinstance(request, SecureRequest):
        return "masked" if request.train is None else "masked train"
    return "train" if isinstance(request, TrainRequest) else "evaluate"


def _by_message(requests: Mapping[SiteId, Request]) -> Iterator[tuple[Request, list[Asked]]]:
    """The sites that are sent the same but for what is their own, and the message without that."""
    groups: dict[Any, tuple[Request, list[Asked]]] = {}
    for site, request in requests.items():
        base, own = shared_part(request)
        key = (_kind(base), base.run, base.round, *_what(base), *((name, id(state)) for name, state in states_of(base).items()))
        groups.setdefault(key, (base, []))[1].append((site, own))
    yield from groups.values()


def _what(request: Request) -> tuple[Any, ...]:
    if isinstance(request, SecureRequest):
        return () if request.train is None else (request.train.run, request.train.round, request.train.attempt)
    return (request.part,) if isinstance(request, EvaluateRequest) else (request.attempt,)


def _here() -> str:
    node: str = ray.get_runtime_context().get_node_id()
    return node


def _write_probe(job: Job) -> None:
    try:
        job.states.mkdir(parents=True, exist_ok=True)
        (job.states / PROBE).write_text(job.probe)
    except OSError as error:
        raise RunFolderError(f"{job.states} cannot be written: {error.strerror}; give --out a folder that can") from None
