"""Masked rounds at the coordinator: the protocol's messages over any Exchange, and one sum into the round's `Total`.

Three exchanges a round: Begin, Survivors, Proof.  The next round's keys ride on the first two and its shares on the third;
whoever is missing then is asked again before that round begins.  A first round, or a second attempt, takes five.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.errors import AggregationRefused, RoundFailed, UpdateRefused
from fedvision.experiment import Experiment
from fedvision.sums import Layout, Total
from fedvision.tracking.folder import write_atomically
from fedvision.types import Declined, Exchange, Lost, SecureReply, SecureRequest, SiteId, TrainRequest
from privacy.secure_aggregation import codec
from privacy.secure_aggregation.coordinator import Attempt as Protocol
from privacy.secure_aggregation.coordinator import voided
from privacy.secure_aggregation.messages import (
    Abandon,
    Abandoned,
    Begin,
    Masked,
    Message,
    Outcome,
    Released,
    Session,
    Voided,
    from_bytes,
    to_bytes,
)
from privacy.secure_aggregation.roster import Roster
from privacy.secure_aggregation.terms import terms_of
from privacy.secure_aggregation.thresholds import most_dropouts
from server.attempt import Attempt
from server.cohorts import cohort

log = logging.getLogger("fedvision.server")


@dataclass(frozen=True)
class Past:
    """How an earlier attempt ended, and from which model it started."""

    model: bytes
    outcome: Released | Voided


@dataclass(frozen=True)
class Charge:
    """A site's charge for a request of this attempt: entry `number` of its ledger, and that entry's hash."""

    site: str
    attempt: int
    number: int
    hash: str


@dataclass(frozen=True)
class Kept:
    """What the coordinator must not forget.  open: an attempt in which vectors may have been sent, its model and its cohort;
    pending: that attempt from the moment when its survivors were named; charges: what came beside its vectors in a private run."""

    past: tuple[Past, ...] = ()
    open: Session | None = None
    model: bytes = b""
    cohort: tuple[str, ...] = ()
    pending: bytes = b""
    charges: tuple["Charge", ...] = ()


@dataclass(frozen=True)
class _Ahead:
    """The next round's first attempt, while its keys come in."""

    protocol: Protocol | None = None
    sites: tuple[SiteId, ...] = ()

    @property
    def session(self) -> Session | None:
        """The next round's."""
        return None if self.protocol is None else self.protocol.session

    def take(self, message: Any) -> None:
        """Keys and shares that came early."""
        if self.protocol is not None:
            self.protocol.take(message)


@dataclass
class MaskedSums:
    """Collects rounds under masks.  path: where it keeps what a restart needs."""

    experiment: Experiment
    roster: Roster
    layout: Layout
    path: Path
    _kept: Kept = field(init=False)
    _ahead: _Ahead = field(default_factory=_Ahead)
    _used: tuple[int, int] = (-1, 0)  # round and attempt of the last session

    def __post_init__(self) -> None:
        self._kept = codec.decode(Kept, self.path.read_bytes()) if self.path.exists() else Kept()

    def collect(self, attempt: Attempt, exchange: Exchange, requests: Mapping[SiteId, TrainRequest], replied: Callable[[], None]) -> None:
        """One attempt at a round: its one sum in `attempt`'s total, or no answer at all and the reason in the log."""
        attempt.asked += list(requests)
        attempt.missing |= dict.fromkeys(requests, "no reply")
        if not requests:
            return
        first = next(iter(requests.values()))
        try:
            protocol = self._resumed(first, attempt) or self._sent(attempt, exchange, requests, replied)
            self._sum(attempt, exchange, protocol, first.attempt)
        except (RoundFailed, AggregationRefused, UpdateRefused) as error:
            log.warning("masked round %d: %s", first.round, error)
            for site in [site for site in requests if attempt.missing.get(site) == "no reply"]:
                del attempt.missing[site]
                attempt.refused[site] = f"aggregation: {error}"
            self._close(exchange)

    # -------------------------------------------------------------------------------------------- from keys to vectors

    def _sent(self, attempt: Attempt, exchange: Exchange, requests: Mapping[SiteId, TrainRequest], replied: Callable[[], None]) -> Protocol:
        """The protocol's attempt with all vectors that came."""
        first = next(iter(requests.values()))
        self._close(exchange)  # one that a crash left open
        protocol = self._with_shares(exchange, first, list(requests))
        terms = terms_of(first, self.layout, self.experiment.federation.max_update_norm)
        history = [p.outcome for p in self._kept.past if p.model == terms.model or p.outcome.session.round == first.round]
        begins = protocol.begins(terms, history)
        self._keep(Kept(self._relevant(terms.model, first.round), protocol.session, terms.model, tuple(begins)))
        self._open_ahead(exchange, first)
        messages: dict[str, list[Message]] = {site: [begin] for site, begin in begins.items()}
        self._ask_ahead(messages)
        federation = self.experiment.federation
        for _ in range(federation.max_attempts if federation.on_missing == "wait" else 1):  # the same request again: the same bytes
            self._exchange(exchange, first, messages, [protocol, self._ahead], requests, attempt, replied)
            messages = {s: m for s, m in messages.items() if s not in protocol.sent and s in attempt.missing and s not in protocol.excluded}
            if len(protocol.sent) >= federation.min_replies:
                break
        for site, why in protocol.excluded.items():
            attempt.missing.pop(SiteId(site), None)
            attempt.refused[SiteId(site)] = why
        if len(protocol.sent) < federation.min_replies:  # no list is signed of what would not count: another attempt is free
            raise RoundFailed(f"{len(protocol.sent)} masked vectors came, and federation.min_replies is {federation.min_replies}")
        return protocol

    def _with_shares(self, exchange: Exchange, first: TrainRequest, sites: Sequence[SiteId]) -> Protocol:
        """The round's next attempt with keys and shares: those that came ahead, and the rest now."""
        session = self._session(first)
        if self._ahead.session == session and set(self._ahead.sites) == set(sites) and self._ahead.protocol is not None:
            protocol, self._ahead = self._ahead.protocol, _Ahead()
        else:
            protocol = Protocol(self.roster, session, self.experiment.secure_aggregation.planned_dropouts)
        if protocol.listed is None:
            opening = protocol.open()
            self._exchange(exchange, first, {site: [opening] for site in sites if site not in protocol.keys}, [protocol])
        listed = protocol.list_keys()
        self._exchange(exchange, first, {k.site: [listed] for k in listed.keys if k.site not in protocol.shares}, [protocol])
        return protocol

    def _session(self, first: TrainRequest) -> Session:
        """The next attempt at the round, counted on over restarts: keys serve one attempt."""
        numbers = [p.outcome.session.attempt for p in self._kept.past if p.outcome.session.round == first.round]
        used = self._used[1] if self._used[0] == first.round else 0
        number = 1 + max([*numbers, used])
        self._used = (first.round, number)
        return Session(first.run, first.round, number, self.roster.fingerprint)

    def _relevant(self, model: bytes, round: int) -> tuple[Past, ...]:
        return tuple(p for p in self._kept.past if p.model == model or p.outcome.session.round == round)

    # ---------------------------------------------------------------------------------------- the next round's keys

    def _open_ahead(self, exchange: Exchange, first: TrainRequest) -> None:
        """Begin the next round's first attempt, unless this round is the last or it has begun."""
        number = first.round + 1
        session = Session(first.run, number, 1, self.roster.fingerprint)
        if number >= self.experiment.federation.rounds or self._ahead.session == session:
            return
        s, sites = self.experiment.secure_aggregation, cohort(self.experiment.federation, exchange.sites(), self.experiment.seed, number, 1)
        enough = most_dropouts(len(sites), s.threshold or 0, s.min_cohort) >= s.planned_dropouts  # else its own time will tell
        self._ahead = _Ahead(Protocol(self.roster, session, s.planned_dropouts), tuple(sites)) if enough else _Ahead()

    def _ask_ahead(self, messages: dict[str, list[Message]]) -> None:
        """Put what the next round lacks into the messages that go out anyway: keys, and shares once all keys are there."""
        protocol, sites = self._ahead.protocol, self._ahead.sites
        if protocol is None:
            return
        lacking = [site for site in sites if site not in protocol.keys]
        opening = protocol.open()
        for site in lacking:
            messages.setdefault(site, []).append(opening)
        if not lacking:
            listed = protocol.list_keys()
            for keys in listed.keys:
                if keys.site not in protocol.shares:
                    messages.setdefault(keys.site, []).append(listed)

    # -------------------------------------------------------------------------------------------- from list to sum

    def _sum(self, attempt: Attempt, exchange: Exchange, protocol: Protocol, number: int) -> None:
        """The survivors' list, their signatures, their shares, and the one sum."""
        survivors = protocol.survivors()
        if not self._kept.pending:
            charges = tuple(Charge(site, number, *attempt.charges[site]) for site in sorted(attempt.charges))
            self._keep(replace(self._kept, pending=protocol.save(), charges=charges))
        messages: dict[str, list[Message]] = {site: [survivors] for site in survivors.alive}
        self._ask_ahead(messages)
        self._exchange(exchange, protocol.session, messages, [protocol, self._ahead])
        proof = protocol.proof()
        messages = {site: [proof] for site in survivors.alive}
        self._ask_ahead(messages)
        self._exchange(exchange, protocol.session, messages, [protocol, self._ahead])
        parts = protocol.total()
        assert isinstance(attempt.sink, Total)
        attempt.sink.put(parts[0] if len(parts) == 1 else np.concatenate(parts), len(survivors.alive))
        attempt.answered = [SiteId(site) for site in survivors.alive]
        for site in attempt.answered:
            attempt.missing.pop(site, None)
        self._ended(protocol.outcome())

    def _resumed(self, first: TrainRequest, attempt: Attempt) -> Protocol | None:
        """The attempt that a restart found with its survivors named: its sum is this round's, and what was charged for it is
        countersigned, unless it was before."""
        kept = self._kept
        if not kept.pending or kept.open is None or kept.open.round != first.round:
            return None
        terms = terms_of(first, self.layout, self.experiment.federation.max_update_norm)
        protocol = Protocol.load(self.roster, kept.pending)
        if protocol.begin is None or protocol.begin.terms != terms:
            return None
        for number in sorted({charge.attempt for charge in kept.charges}):
            assert attempt.ledger is not None
            attempt.ledger.receive(first.round, number, {c.site: (c.number, c.hash) for c in kept.charges if c.attempt == number})
        return protocol

    def _close(self, exchange: Exchange) -> None:
        """Settle how the attempt that is open has ended: signed, abandoned by enough sites, or still nobody knows."""
        kept = self._kept
        if kept.open is None:
            return
        if kept.pending:
            protocol = Protocol.load(self.roster, kept.pending)
            survivors = protocol.survivors()
            self._exchange(exchange, kept.open, {site: [survivors] for site in survivors.alive}, [protocol])
            try:
                return self._ended(protocol.outcome())
            except RoundFailed as error:
                log.warning("masked round %d: %s", kept.open.round, error)
        words: list[Any] = []
        leave = Abandon(kept.open)
        self._exchange(exchange, kept.open, {site: [leave] for site in kept.cohort}, [_Words(kept.open, words)])
        self._ended(voided(kept.open, words))

    def _ended(self, outcome: Outcome) -> None:
        self._keep(Kept((*self._kept.past, Past(self._kept.model, outcome))))

    def _keep(self, kept: Kept) -> None:
        write_atomically(self.path, codec.encode(kept))
        self._kept = kept

    # ------------------------------------------------------------------------------------------------ one exchange

    def _exchange(
        self,
        exchange: Exchange,
        now: TrainRequest | Session,
        messages: Mapping[str, Sequence[Message]],
        takers: Sequence[Any],
        training: Mapping[SiteId, TrainRequest] | None = None,
        attempt: "Attempt | None" = None,
        replied: Callable[[], None] = lambda: None,
    ) -> None:
        """Send each site its messages, and hand each answer to the attempt that it is of."""
        if not messages:
            return
        training = training or {}
        requests: dict[SiteId, SecureRequest] = {}
        encoded: dict[int, bytes] = {}  # the same message goes to many
        for site, some in messages.items():
            content = tuple(encoded.setdefault(id(m), to_bytes(m)) for m in some)
            begins = any(isinstance(m, Begin) for m in some)
            requests[SiteId(site)] = SecureRequest(now.run, now.round, content, training.get(SiteId(site)) if begins else None)
        for reply in exchange.ask(requests):
            if isinstance(reply, SecureReply):
                self._hand_out(reply, takers, attempt, requests[reply.site].train)
            elif attempt is not None and requests[reply.site].train is not None:
                _record(attempt, reply)
            if requests[reply.site].train is not None:
                replied()

    def _hand_out(self, reply: SecureReply, takers: Sequence[Any], attempt: "Attempt | None", train: TrainRequest | None) -> None:
        for content in reply.messages:
            try:
                message = from_bytes(content)
            except AggregationRefused as refused:
                log.warning("site %s: %s", reply.site, refused)
                continue
            if isinstance(message, Masked) and attempt is not None and train is not None:
                try:
                    attempt.note_charge(reply.site, reply.entry, train)
                except UpdateRefused as error:
                    attempt.missing.pop(reply.site, None)
                    attempt.refused[reply.site] = f"{error.code}: {error}"
                    continue
            for taker in takers:
                if taker.session == message.session and message.site == reply.site:
                    taker.take(message)


def _record(attempt: Attempt, reply: Any) -> None:
    """A site that gave no vector: what it said, or what became of it."""
    if isinstance(reply, Declined):
        attempt.missing.pop(reply.site, None)
        attempt.declined[reply.site] = f"{reply.code}: {reply.reason}"
    elif isinstance(reply, Lost):
        attempt.missing[reply.site] = reply.kind


@dataclass(frozen=True)
class _Words:
    """What sites say to an `Abandon`."""

    session: Session
    said: list[Any]

    def take(self, message: Any) -> None:
        """One site's word."""
        if isinstance(message, Abandoned):
            self.said.append(message)
