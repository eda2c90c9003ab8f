"""What is on its way between two steps of an asynchronous run, and what arrives (who trains when: server/asynchronous.py)."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fedvision.experiment import Experiment
from fedvision.pace import seconds
from fedvision.sums import COUNT, Layout, Total, check
from fedvision.types import ClientUpdate, SiteId, State


@dataclass(frozen=True)
class Buffered:
    """w: the model.  Of each site that is training: its update (the run's fixed-point vector), the round whose model it was
    sent, and the simulated second at which its reply comes.  clock: the simulated second of the last step."""

    w: State
    flight: State
    sent: State
    due: State
    clock: State


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

    def pass_time(self, state: Buffered, number: int, order: Sequence[SiteId], buffer: int, at_once: int) -> list[SiteId]:
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
