"""What a site remembers of secure aggregation: written before each answer, read after a restart."""

from dataclasses import dataclass

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
    """How far a run has come at this site: the last attempt in which it sent a vector."""

    run: str
    round: int
    attempt: int


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

    def family(self, session: Session, model: bytes) -> list[Taken]:
        """Earlier vectors of this round of this run, or from this model in any round or run."""
        same_round = [t for t in self.taken if (t.session.run, t.session.round) == (session.run, session.round) or t.model == model]
        return [t for t in same_round if t.session != session]


def lists_of(history: tuple[Outcome, ...]) -> tuple[tuple[str, ...], ...]:
    """The lists whose sums may be known."""
    return tuple(outcome.alive for outcome in history if isinstance(outcome, Released))
