"""One attempt at a round: whom it asked, and what each of them sent, folded as it comes."""

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedvision.errors import EngineError, OutOfRange, UpdateRefused
from fedvision.sums import Layout, Total
from fedvision.types import Added, ClientUpdate, Declined, Exchange, Lost, SiteId, Subtotal, TrainRequest
from privacy.ledger.coordinator import CoordinatorLedger
from server.aggregate import Updates
from server.arrivals import Arrivals


@dataclass
class Attempt:
    """What came back in one round: the updates, and who did what.  simulated: seconds that it took, where the rounds themselves
    keep the simulated clock."""

    sink: Total | Updates | Arrivals
    asked: list[SiteId] = field(default_factory=list)
    answered: list[SiteId] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    missing: dict[SiteId, str] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)
    fold_seconds: float = 0.0
    simulated: float | None = None
    ledger: CoordinatorLedger | None = None
    charges: dict[str, tuple[int, str]] = field(default_factory=dict)  # beside the replies to the last requests
    drawn: Container[SiteId] | None = None  # whose updates are in the sum; None = all that come
    aside: Total | None = None  # where the others' go, so that what is done with them is the same
    _heard: set[SiteId] = field(default_factory=set)  # those that answered, to look up one among thousands

    def collect(self, exchange: Exchange, requests: Mapping[SiteId, TrainRequest], layout: Layout, replied: Callable[[], None]) -> None:
        """Ask, and fold each sound update as it comes; whoever sends nothing is missing."""
        self.asked += [site for site in requests if site not in self.missing]
        self.missing |= {site: "no reply" for site in requests}
        reply: Any  # a Reply, or a Subtotal
        for reply in exchange.ask(requests):
            began = time.perf_counter()
            if isinstance(reply, Subtotal):
                self._include(reply, requests, layout)
            elif not isinstance(reply, Added):
                self._take(reply, requests, layout)
            self.fold_seconds += time.perf_counter() - began
            if not isinstance(reply, Subtotal):
                replied()

    def _include(self, part: Subtotal, requests: Mapping[SiteId, TrainRequest], layout: Layout) -> None:
        """A worker's sum, of sites that were asked and have not answered."""
        assert isinstance(self.sink, Total)
        fits = all(site in requests and (part.round, part.attempt) == (requests[site].round, requests[site].attempt) for site in part.norms)
        if not fits or part.layout != layout.digest or not part.norms.keys().isdisjoint(self._heard):
            raise EngineError(
                f"round {part.round}: a worker's sum is not over the sites that it was given; start the run again with --resume"
            )
        self.sink.include(part.sum, len(part.norms))
        self.norms += part.norms.values()
        self.answered += part.norms
        self._heard.update(part.norms)
        for site in part.norms:
            del self.missing[site]

    def _take(self, reply: Any, requests: Mapping[SiteId, TrainRequest], layout: Layout) -> None:
        site = reply.site
        if site not in requests or site in self._heard:
            self.refused[site] = "not_asked: a reply that nobody asked for, or a second one"
            return
        if isinstance(reply, Lost):
            self.missing[site] = reply.kind
            return
        self.missing.pop(site, None)
        if isinstance(reply, Declined):
            self.declined[site] = f"{reply.code}: {reply.reason}"
            return
        try:
            self.norms.append(self._add(reply, requests[site], layout))
            self.answered.append(site)
            self._heard.add(site)
        except OutOfRange as error:
            self.declined[site] = f"out_of_range: {error}"
        except UpdateRefused as error:
            self.refused[site] = f"{error.code}: {error}"

    def _add(self, reply: Any, request: TrainRequest, layout: Layout) -> float:
        if not isinstance(reply, ClientUpdate):
            raise UpdateRefused("wrong_kind", f"a {type(reply).__name__} where an update was asked for")
        if (reply.round, reply.attempt) != (request.round, request.attempt):
            raise UpdateRefused("stale", f"an update of round {reply.round}.{reply.attempt}, and this is {request.round}.{request.attempt}")
        if reply.layout != layout.digest:
            raise UpdateRefused("wrong_names", "its numbers have other names, shapes or scales than this run's")
        if isinstance(self.sink, Arrivals):
            return self.sink.take(reply)
        self.note_charge(reply.site, reply.entry, request)
        if isinstance(self.sink, Updates):
            return self.sink.add(reply.site, reply.vector)
        if self.aside is not None and self.drawn is not None and reply.site not in self.drawn:
            return self.aside.add(reply.vector)
        return self.sink.add(reply.vector)

    def let_go(self) -> None:
        """Give back what the updates take."""
        if isinstance(self.sink, Updates):
            self.sink.close()

    def note_charge(self, site: SiteId, entry: bytes, request: TrainRequest) -> None:
        """A private run's reply comes with the charge that pays for it; UpdateRefused where it does not."""
        if self.ledger is not None and not self.ledger.terms.whole_plan:
            self.charges[site] = self.ledger.checked(site, entry, request)

    def record(self) -> dict[str, Any]:
        """Who did what, in the order of the names: arrival must not show."""
        return {
            "asked": sorted(self.asked),
            "answered": sorted(self.answered),
            "declined": dict(sorted(self.declined.items())),
            "refused": dict(sorted(self.refused.items())),
            "missing": dict(sorted(self.missing.items())),
        }
