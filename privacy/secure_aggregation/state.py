"""What a site remembers of secure aggregation: written before each answer, read after a restart."""

from dataclasses import dataclass, replace

from privacy.secure_aggregation.messages import (
    Abandoned,
    Consent,
    Keys,
    Outcome,
    Released,
    Session,
    Shares,
    Unmasking,
)

KEPT = 128  # attempts whose record is kept whole; of older ones, their model's mark


@dataclass(frozen=True)
class Held:
    """The two shares of a dealer's secrets that this site holds."""

    dealer: str
    seed: bytes
    key: bytes


@dataclass(frozen=True)
class Attempt:
    """One attempt that is not erased.  mask, box, seed: secrets, b"" once they have done their work.

    listed: transcript of the keys, whose list lies beside the state, as the masked body does.
    begun: digest of the Begin that was acted on; signature: of the masked vector.
    """

    session: Session
    mask: bytes
    box: bytes
    seed: bytes
    keys: Keys
    listed: bytes = b""
    shares: Shares | None = None
    held: tuple[Held, ...] = ()
    begun: bytes = b""
    transcript: bytes = b""
    cohort: tuple[str, ...] = ()
    history: tuple[tuple[str, ...], ...] = ()
    signature: bytes = b""
    alive: tuple[str, ...] = ()
    list: bytes = b""
    consent: Consent | None = None
    unmasking: Unmasking | None = None


@dataclass(frozen=True)
class Taken:
    """An attempt in which this site sent a vector: kept when the attempt is erased.  alive: the list that it signed."""

    session: Session
    model: bytes
    transcript: bytes
    threshold: int
    members: tuple[str, ...]
    alive: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reached:
    """How far a run has come at this site: the last attempt in which it sent a vector.  forgotten: the last round of which records
    were let go."""

    run: str
    round: int
    attempt: int
    forgotten: int = -1


@dataclass(frozen=True)
class SiteState:
    """Everything."""

    attempts: tuple[Attempt, ...] = ()
    taken: tuple[Taken, ...] = ()
    reached: tuple[Reached, ...] = ()
    abandoned: tuple[Abandoned, ...] = ()

    def attempt(self, session: Session) -> Attempt | None:
        """The attempt of a session, None where it was not opened or is erased."""
        return next((a for a in self.attempts if a.session == session), None)

    def was_taken(self, session: Session) -> Taken | None:
        """The record of a session in which this site sent a vector."""
        return next((t for t in self.taken if t.session == session), None)

    def was_abandoned(self, session: Session) -> Abandoned | None:
        """This site's word on a session."""
        return next((a for a in self.abandoned if a.session == session), None)

    def last(self, run: str) -> tuple[int, int]:
        """(round, attempt) of the last vector sent in a run; (−1, 0) where there was none."""
        return next(((r.round, r.attempt) for r in self.reached if r.run == run), (-1, 0))

    def forgotten(self, run: str) -> int:
        """The last round of a run of which records were let go; −1 where none were."""
        return next((r.forgotten for r in self.reached if r.run == run), -1)

    def pruned(self) -> tuple["SiteState", tuple[bytes, ...]]:
        """The state without the oldest records that only the rule on models still needs, and their models: a vector for one of these
        is never given again, which is stricter than any judgement of lists.

        Such a record is of a round that its run has left behind, and of a model that neither the newest vector nor any open attempt
        started from."""
        if len(self.taken) < 2 * KEPT:
            return self, ()
        busy = {t.model for t in self.taken if self.attempt(t.session) is not None} | {self.taken[-1].model}
        old = [t for t in self.taken[:-KEPT] if t.session.round < self.last(t.session.run)[0] and t.model not in busy]
        upto: dict[str, int] = {}
        for t in old:
            upto[t.session.run] = max(upto.get(t.session.run, -1), t.session.round)
        gone = {t.session for t in old}
        reached = tuple(replace(r, forgotten=max(r.forgotten, upto.get(r.run, -1))) for r in self.reached)
        return replace(
            self, taken=tuple(t for t in self.taken if t.session not in gone), reached=reached,
            abandoned=tuple(a for a in self.abandoned if a.session.round > upto.get(a.session.run, -1)),
        ), tuple(sorted({t.model for t in old}))  # fmt: skip

    def family(self, session: Session, model: bytes) -> list[Taken]:
        """Earlier vectors of this round of this run, or from this model in any round or run."""
        same_round = [t for t in self.taken if (t.session.run, t.session.round) == (session.run, session.round) or t.model == model]
        return [t for t in same_round if t.session != session]


def lists_of(history: tuple[Outcome, ...]) -> tuple[tuple[str, ...], ...]:
    """The lists whose sums may be known."""
    return tuple(outcome.alive for outcome in history if isinstance(outcome, Released))
