"""Sites that take their worker with them: whom to blame for a worker that died or hung, and when to stop asking.

A worker may die of anything, and the site that it worked for is asked again.  Where it worked for several, each of them is
asked alone from then on.  A site that was alone `MOST_TIMES` times in one round when its worker died or hung is lost in that
round, by name.  From the next round on it has one chance, and after `MOST_ROUNDS` rounds it is not asked again: each chance
costs a worker's start.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fedvision.types import SiteId
from simulations.ray_worker import Asked

MOST_TIMES, MOST_ROUNDS = 2, 3
WORDS = {"died": "its worker died each time", "hung": "it hung: no answer within engine.site_seconds"}


@dataclass
class Troublemakers:
    """The sites that were lost so, and in how many rounds; over the run."""

    rounds: Counter[SiteId] = field(default_factory=Counter)

    def begin(self) -> "Trouble":
        """For one round of requests."""
        return Trouble(self.rounds, set(self.rounds))


@dataclass
class Trouble:
    """One round of requests.  suspects: sites that are asked alone."""

    rounds: Counter[SiteId]
    suspects: set[SiteId]
    strikes: Counter[SiteId] = field(default_factory=Counter)

    def out(self, queue: deque[Asked]) -> Iterator[tuple[SiteId, str]]:
        """The sites that are not asked again, taken out of the queue, and why."""
        for entry in [entry for entry in queue if self.rounds[entry[0]] >= MOST_ROUNDS]:
            queue.remove(entry)
            yield entry[0], f"not asked: it took its worker with it in {MOST_ROUNDS} rounds"

    def known(self, asked: Sequence[Asked]) -> SiteId | None:
        """The site whose fault it must be, because it was alone and has done it in an earlier round."""
        return asked[0][0] if len(asked) == 1 and self.rounds[asked[0][0]] else None

    def blame(self, asked: Sequence[Asked], how: str, queue: deque[Asked]) -> Iterator[tuple[SiteId, str]]:
        """`asked` were with a worker that is gone, and stand in the queue again: those that are lost, taken out, and why."""
        self.suspects |= {site for site, _ in asked}
        if len(asked) > 1:
            return
        ((site, _),) = asked
        self.strikes[site] += 1
        if self.rounds[site] or self.strikes[site] >= MOST_TIMES:
            self.rounds[site] += 1
            queue.remove(asked[0])
            yield site, WORDS[how]
