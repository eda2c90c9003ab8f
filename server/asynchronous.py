"""Asynchronous rounds on the simulated clock, for FedBuff: a number of sites train at any time, each from the model that
there was when it began, and whoever comes back is followed by another site at once.

A round is what passes between two steps of the model.  In it, `buffer` updates arrive, and as many sites begin, one at the
last step and one at each arrival but the last, which makes the next step.  All of them are sent the same model, so they are
asked together, and work side by side on any engine; when each arrives is told by the simulated clock alone.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedvision.algorithms import FedBuff
from fedvision.compatible import too_busy
from fedvision.errors import ConfigError, RoundFailed
from fedvision.experiment import Experiment
from fedvision.pace import seconds
from fedvision.seeds import stream
from fedvision.sums import COUNT, Layout, Total, check
from fedvision.types import ClientUpdate, Exchange, SiteId, State, TrainRequest

if TYPE_CHECKING:
    from server.rounds import Attempt
    from server.strategies.fedbuff import Buffered


@dataclass
class Arrivals:
    """One round.  began: the updates of those that were asked in it, and what they take; totals: the sums over the updates
    that arrived, by how many steps late; the rest is the next round's state."""

    layout: Layout
    experiment: Experiment
    began: dict[SiteId, tuple[np.ndarray, float]] = field(default_factory=dict)
    totals: dict[int, Total] = field(default_factory=dict)
    flight: State = field(default_factory=dict)
    sent: State = field(default_factory=dict)
    due: State = field(default_factory=dict)
    now: float = 0.0

    def take(self, reply: ClientUpdate) -> float:
        """Keep an update until its time; its L2 norm, or UpdateRefused."""
        norm = check(reply.vector, self.layout, self.experiment.federation.max_update_norm)
        self.began[reply.site] = (reply.vector.copy(), seconds(reply, self.experiment.conditions, self.experiment.seed))
        return norm

    def pass_time(self, state: "Buffered", number: int, order: Sequence[SiteId], buffer: int, at_once: int) -> list[SiteId]:
        """Let `buffer` updates arrive, or all that there are; the sites, as they came.

        order: who begins, the first `at_once` now, the others as replies come.
        """
        self.now = float(state.clock["now"])
        flight = {site: (state.flight[site].numpy(), int(state.sent[site])) for site in state.flight}
        waiting = [(float(due), site) for site, due in state.due.items()]
        heapq.heapify(waiting)
        queue = list(order)
        came: list[SiteId] = []

        def begin() -> None:
            site = queue.pop(0)
            vector, took = self.began.pop(site)
            flight[site] = (vector, number)
            heapq.heappush(waiting, (self.now + took, site))

        for _ in range(min(at_once, len(queue))):
            begin()
        while waiting and len(came) < buffer:
            self.now, site = heapq.heappop(waiting)
            vector, version = flight.pop(site)
            self.totals.setdefault(number - version, Total(self.layout)).add(vector)
            came.append(SiteId(site))
            if queue:
                begin()
        self.flight = {site: torch.from_numpy(vector) for site, (vector, _) in sorted(flight.items())}
        self.sent = {site: torch.tensor(version) for site, (_, version) in sorted(flight.items())}
        self.due = {site: torch.tensor(due, dtype=torch.float64) for due, site in sorted(waiting, key=lambda pair: pair[1])}
        return came

    def trained(self) -> dict[str, Any]:
        """The mean training loss and the examples of those that arrived."""
        totals = [total for _, total in sorted(self.totals.items())]
        weight = sum(total.whole(COUNT) for total in totals)
        return {"loss": sum(float(t.tensor("loss", "")) for t in totals) / weight, "examples": sum(t.whole("examples") for t in totals)}

    def staleness(self) -> dict[str, int]:
        """How many updates came how many steps late."""
        return {str(tau): total.count for tau, total in sorted(self.totals.items())}


def collect(
    attempt: "Attempt",
    number: int,
    state: "Buffered",
    experiment: Experiment,
    exchange: Exchange,
    requests: Callable[[int, Sequence[SiteId]], Mapping[SiteId, TrainRequest]],
    asked: Callable[[int, int], None],
    replied: Callable[[], None],
) -> int:
    """One round into `attempt`, whose sink is an `Arrivals`; how many times it asked.  RoundFailed where too few arrive.

    Whoever is asked and does not reply is followed by another site, up to federation.max_attempts times.
    """
    assert isinstance(experiment.strategy, FedBuff)
    buffer, concurrency = experiment.strategy.buffer, experiment.strategy.concurrency
    sites, arrivals = exchange.sites(), attempt.sink
    assert isinstance(arrivals, Arrivals)
    if concurrency + buffer - 1 > len(sites):
        raise ConfigError(too_busy(experiment.strategy, len(sites)))
    order: list[SiteId] = []
    tried, wanted, count = set(state.flight), concurrency + buffer - 1 - len(state.flight), 0
    while len(order) < wanted and count < experiment.federation.max_attempts:
        count += 1
        free = [site for site in sites if site not in tried]
        drawn = stream(experiment.seed, "fedbuff", "round", number, "attempt", count).permutation(len(free))[: wanted - len(order)]
        chosen = [free[i] for i in drawn]
        tried.update(chosen)
        asked(number, len(chosen))
        attempt.collect(exchange, requests(count, chosen), arrivals.layout, replied)
        order += [site for site in chosen if site in arrivals.began]
    attempt.answered = arrivals.pass_time(state, number, order, buffer, concurrency - len(state.flight))
    if len(attempt.answered) < buffer:
        raise RoundFailed(
            f"round {number}: {len(attempt.answered)} updates arrived, and strategy.buffer is {buffer}; nobody else is training, after "
            f"attempt {count} of at most {experiment.federation.max_attempts}"
        )
    attempt.simulated = arrivals.now - float(state.clock["now"])
    return count
