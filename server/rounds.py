"""The rounds of a run, over any Exchange.  McMahan et al. 2017, algorithm 1, with everything that goes wrong."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from fedvision.errors import RoundFailed
from fedvision.evaluation import criterion
from fedvision.experiment import Experiment, has_site_state, keeps_replies
from fedvision.sums import Layout, Total
from fedvision.types import Exchange, SiteId, TrainRequest
from privacy.amplification import Draws
from privacy.averaging import delivered
from privacy.ledger.coordinator import CoordinatorLedger
from server.acceptance import Judge
from server.aggregate import Aggregate, Updates
from server.arrivals import Arrivals
from server.asynchronous import collect
from server.attempt import Attempt
from server.checkpoints import Progress
from server.cohorts import cohort
from server.masked import MaskedSums
from server.memory import give_back
from server.releases import Release, Releases
from server.stopping import better, watched
from server.strategies import Strategy

log = logging.getLogger("fedvision.server")


class Recorder(Protocol):
    """Who keeps and shows the rounds."""

    def asked(self, round: int, sites: int) -> None:
        """A round's requests go out."""
        ...

    def replied(self) -> None:
        """One site has replied."""
        ...

    def done(self, state: Any, progress: Progress, record: dict[str, Any], best: bool) -> None:
        """A round is over: `state` is what a resume starts from."""
        ...


Evaluate = Callable[[Any, int, Mapping[SiteId, int]], dict[str, Any]]


@dataclass(frozen=True)
class Rounds:
    """A federated run over `exchange`: who is asked, what they are sent, and what becomes of their replies.
    scratch: folder for a round's updates where they are kept one by one; None = the system's.  judge: of what comes out.
    draws: who is in each round's sum, where that is a secret; all sites are asked then, once a round.  releases: where a round's
    result is made durable before anything follows from it, because the noise in it must not be drawn again.
    counted: site -> last round that its reply entered, where sites are told of it; grows as rounds are counted."""

    experiment: Experiment
    run_id: str
    exchange: Exchange
    strategy: Strategy
    layout: Layout
    evaluate: Evaluate
    recorder: Recorder
    masked: MaskedSums | None = None
    scratch: Path | None = None
    ledger: CoordinatorLedger | None = None
    judge: Judge = field(default_factory=Judge.of_nothing)
    draws: Draws | None = None
    releases: Releases | None = None
    counted: dict[SiteId, int] = field(default_factory=dict)

    def run(self, state: Any, progress: Progress) -> Any:
        """The strategy's state after the last round, from `state` at `progress`."""
        federation, sites = self.experiment.federation, self.exchange.sites()
        progress = self.judge.begun(progress, delivered(self.strategy, state))
        for number in range(progress.next_round, progress.next_round if progress.stopped else federation.rounds):
            began, clock, busy = time.perf_counter(), self.exchange.clock(), self.exchange.busy()
            outcome = self._outcome(number, state, progress, sites)
            attempt, state, progress, asked = outcome.attempt, outcome.state, outcome.progress, outcome.asked
            record: dict[str, Any] = {
                "round": number, "attempt": outcome.attempts, "status": outcome.status, **attempt.record(), "train": outcome.train,
            }  # fmt: skip
            if outcome.status == "counted":
                tells = self.experiment.privacy is None or self.experiment.privacy.mechanism != "central"
                record["update_norm"] = _mean(sorted(attempt.norms)) if tells else None
                if has_site_state(self.experiment) or keeps_replies(self.experiment):
                    self.counted.update(dict.fromkeys(attempt.answered, number))  # in place: a copy would name every site each round
            if outcome.rejected is not None:
                record["rejected"] = outcome.rejected
            if isinstance(attempt.sink, Arrivals):
                record["staleness"] = attempt.sink.staleness()
            folding, timed = attempt.fold_seconds, attempt.simulated
            attempt.let_go()
            del attempt, outcome  # with its sum: two models' worth that the next round will want
            give_back(self.layout.size)
            summed = time.perf_counter()
            simulated, working = self.exchange.clock() - clock if timed is None else timed, self.exchange.busy() - busy
            last = number + 1 == federation.rounds
            due = (number + 1) % self.experiment.evaluation.every == 0 or last
            record["evaluation"] = self.evaluate(delivered(self.strategy, state), number, self.counted) if due else None
            evaluated = time.perf_counter()
            waited = asked - began - folding
            record["seconds"] = {
                "train": min(working, waited),
                "send": max(waited - working, 0.0),
                "sum": folding + summed - asked,
                "evaluate": evaluated - summed,
                "total": evaluated - began,
            }
            # a difference of sums, cut where it is exact: a resumed clock starts from zero
            record["simulated_seconds"] = round(simulated, 6) if self.experiment.conditions.any or timed is not None else None
            value = criterion(record["evaluation"], self.experiment.evaluation.best)
            best = value is not None and better(self.experiment.evaluation.best, value, progress.best)
            progress = replace(progress, next_round=number + 1, best=value if best else progress.best)
            progress, stopped = watched(self.experiment.evaluation, progress, value)
            if stopped is not None:
                record["stopped"] = stopped
            self.recorder.done(state, progress, record, best)
            if stopped is not None:
                break
        return state

    def _outcome(self, number: int, state: Any, progress: Progress, sites: Sequence[SiteId]) -> "_Outcome":
        """A round's replies and what becomes of the state; one that is rejected is asked again where acceptance.on_rejected says so."""
        begun, federation, how = 1, self.experiment.federation, self.experiment.acceptance.on_rejected
        clock, kept = self.exchange.clock(), self._kept(number, state)
        while True:
            attempt, count = self._attempts(number, state, sites, begun) if kept is None else self._tried(kept, sites)
            asked = time.perf_counter()
            if len(attempt.answered) < federation.min_replies:
                return _Outcome(attempt, count, "skipped", state, progress, asked)
            why, after, train = self.judge.size(attempt.sink), state, None
            if why is None:
                after, train = self._apply(state, attempt, len(sites)) if kept is None else (kept.state, None)
                if self.releases is not None and kept is None:
                    simulated = self.exchange.clock() - clock if self.experiment.conditions.any else None
                    self.releases.keep(Release(number, count, attempt.record(), simulated, after))
                progress, why = self.judge.quality(progress, delivered(self.strategy, after))
            if why is None:
                return _Outcome(attempt, count, "counted", after, progress, asked, train)
            log.warning("round %d, attempt %d is rejected: %s", number, count, why)
            if how == "skip":
                return _Outcome(attempt, count, "rejected", state, progress, asked, train, why)
            if how == "stop" or count == federation.max_attempts:
                raise RoundFailed(
                    f"round {number} is rejected: {why}; after attempt {count} of at most {federation.max_attempts} the run stops "
                    f"(acceptance.on_rejected = {how})"
                )
            attempt.let_go()
            begun = count + 1

    def _attempts(self, number: int, state: Any, sites: Sequence[SiteId], begun: int) -> tuple[Attempt, int]:
        """Ask until there are enough replies, as federation.on_missing says, from attempt `begun` on; the attempt, and its number."""
        federation = self.experiment.federation
        attempt = self._attempt(number, sites)
        if isinstance(attempt.sink, Arrivals):

            def requests(count: int, chosen: Sequence[SiteId]) -> Mapping[SiteId, TrainRequest]:
                return self._requests(number, count, state, chosen)

            recorder = self.recorder
            return attempt, collect(attempt, number, state, self.experiment, self.exchange, requests, recorder.asked, recorder.replied)
        for count in range(begun, federation.max_attempts + 1):
            waiting = federation.on_missing == "wait" and count > begun
            chosen = list(attempt.missing) if waiting else self._chosen(sites, number, count)
            if not waiting and count > begun:
                attempt.let_go()
                attempt = self._attempt(number, sites)
            asked = self._requests(number, count, state, chosen)
            self.recorder.asked(number, len(asked))
            if self.masked is None:
                attempt.collect(self.exchange, asked, self.layout, self.recorder.replied)
            else:
                self.masked.collect(attempt, self.exchange, asked, self.recorder.replied)
            if self.ledger is not None:
                self.ledger.receive(number, count, attempt.charges)
                attempt.charges.clear()
            if len(attempt.answered) >= federation.min_replies or federation.on_missing == "skip":
                return attempt, count
            if federation.on_missing == "stop" or (self.masked is not None and federation.on_missing == "wait"):
                break  # a masked attempt has waited for itself: its list is one
        raise RoundFailed(
            f"round {number}: {len(attempt.answered)} sites' updates were counted, and federation.min_replies is {federation.min_replies}"
            f"{_why(attempt)}; after attempt {count} of at most {federation.max_attempts} the run stops (federation.on_missing = {federation.on_missing})"
        )

    def _kept(self, number: int, state: Any) -> Release | None:
        """What was drawn in this round by a process that was killed before the round was over."""
        return None if self.releases is None else self.releases.of(number, state)

    def _tried(self, kept: Release, sites: Sequence[SiteId]) -> tuple[Attempt, int]:
        """How a round was tried whose sum is released already: nobody is asked again."""
        return replace(self._attempt(kept.round, sites), **kept.told, simulated=kept.simulated), kept.attempts

    def _attempt(self, number: int, sites: Sequence[SiteId]) -> Attempt:
        """An attempt that nothing came back in yet."""
        if self.draws is None:
            return Attempt(self._sink(), ledger=self.ledger)
        aside = Total(self.layout, self.experiment.federation.max_update_norm)
        return Attempt(self._sink(), ledger=self.ledger, drawn=self.draws.of(number, sites), aside=aside)

    def _chosen(self, sites: Sequence[SiteId], number: int, attempt: int) -> list[SiteId]:
        """Who is asked."""
        return list(sites) if self.draws is not None else cohort(self.experiment.federation, sites, self.experiment.seed, number, attempt)

    def _requests(self, number: int, attempt: int, state: Any, chosen: Sequence[SiteId]) -> dict[SiteId, TrainRequest]:
        request = TrainRequest(self.run_id, number, attempt, self.strategy.weights(state), self.strategy.extras(state))
        if self.ledger is not None:  # on disk before it is first sent
            request = replace(request, witness=self.ledger.request(request, chosen))
        own = {site: (self.counted.get(site), "" if self.ledger is None else self.ledger.seen(site)) for site in chosen}
        return {site: request if it == (None, "") else replace(request, counted=it[0], seen=it[1]) for site, it in own.items()}

    def _sink(self) -> Total | Updates | Arrivals:
        most = self.experiment.federation.max_update_norm
        if self.strategy.kind == "buffer":
            return Arrivals(self.layout, self.experiment)
        return Total(self.layout, most) if self.strategy.kind == "sum" else Updates(self.layout, self.layout.most, most, self.scratch)

    def _apply(self, state: Any, attempt: Attempt, sites: int) -> tuple[Any, dict[str, Any] | None]:
        if isinstance(attempt.sink, Arrivals):
            return self.strategy.apply(state, attempt.sink, sites), attempt.sink.trained()
        if isinstance(attempt.sink, Updates):
            record = None
            if self.experiment.privacy is None:
                record = {"loss": attempt.sink.mean_loss(), "examples": attempt.sink.whole("examples")}
            return self.strategy.apply(state, attempt.sink, sites), record
        aggregate = Aggregate.of(attempt.sink)
        told = {"loss": aggregate.mean_loss, "examples": aggregate.examples} if aggregate.mean_loss is not None else None
        return self.strategy.apply(state, aggregate, sites), told


@dataclass(frozen=True)
class _Outcome:
    """What a round came to.  state, progress: with which the run goes on; asked: when the last reply was in; rejected: why."""

    attempt: Attempt
    attempts: int
    status: str
    state: Any
    progress: Progress
    asked: float
    train: dict[str, Any] | None = None
    rejected: str | None = None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _why(attempt: Attempt) -> str:
    """The first few reasons, so that a message says what to mend."""
    said = [f"{site} {what}" for group in (attempt.declined, attempt.refused, attempt.missing) for site, what in sorted(group.items())]
    return f" ({'; '.join(said[:3])}{f'; and {len(said) - 3} more' if len(said) > 3 else ''})" if said else ""
