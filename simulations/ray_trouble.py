"""Sites that take their worker with them: whom to blame for a worker that died or hung, and when to stop asking.

A worker may die of anything: of its site, of the machine, of whoever kills processes there.  What it worked for is asked
again, each site alone.  Where a worker has died alone with a site, the next one tries that site's work in a process of its
own first (`simulations.ray_trial`): what dies in there is the site's doing, and a worker that is killed from outside
meanwhile is not.  What counts against a site, in one round:

- `MOST_OWN` faults of its own: trials that died, hangs, and crashes (the worker wrote down a segmentation fault or the like);
- where nothing can be tried, on GPUs and in private or masked runs, `MOST_TIMES` deaths of workers alone with it, and one more
  for each death in this round that no site can have caused: of a worker that served nobody, or of one that was alone with a
  site that has answered since.

The site is lost in that round, by name.  In the next rounds it has one chance each, and after `MOST_ROUNDS` of them it is not
asked again.  An answer takes one such round away.  Deaths alone with one site use up engine.max_restarts where it can be
tried, and else only where it answers after all.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fedvision.types import SiteId
from simulations.ray_worker import Asked

MOST_OWN, MOST_TIMES, MOST_ROUNDS = 2, 3, 3
OWN, DEATHS = ("fell", "crashed", "hung"), ("died", "crashed", "memory")
WORDS = {
    "died": "its worker died each time",
    "fell": "its process died each time",
    "crashed": "its worker crashed each time",
    "memory": "its worker was ended each time, for the memory that it took",
    "hung": "it hung: no answer within engine.site_seconds",
}


@dataclass
class Troublemakers:
    """The sites that were lost so, and how, a word a round; over the run, for one kind of request.  triable: whether a site's
    work can be tried."""

    triable: bool
    lost: dict[SiteId, list[str]] = field(default_factory=dict)

    def begin(self) -> "Trouble":
        """For one round of requests."""
        return Trouble(self.triable, self.lost, {site: [] for site in self.lost})


@dataclass
class Trouble:
    """One round of requests.  cases: what became of workers that were alone with a site; suspects: of those that were with
    several, which are asked alone; unprovoked: deaths of workers that no site can have caused."""

    triable: bool
    lost: dict[SiteId, list[str]]
    cases: dict[SiteId, list[str]]
    suspects: set[SiteId] = field(default_factory=set)
    unprovoked: int = 0

    def out(self, queue: deque[Asked]) -> Iterator[tuple[SiteId, str]]:
        """The sites that are not asked again, taken out of the queue, and why."""
        for entry in [entry for entry in queue if len(self.lost.get(entry[0], ())) >= MOST_ROUNDS]:
            queue.remove(entry)
            yield entry[0], f"not asked: it took its worker with it in {MOST_ROUNDS} rounds"

    def alone(self, site: SiteId) -> bool:
        """Whether the site is asked with nothing else at its worker."""
        return site in self.suspects or site in self.cases

    def tried(self, asked: Sequence[Asked]) -> bool:
        """Whether what is asked is tried first: a worker, or such a trial, has died alone with it."""
        site = asked[0][0]
        return self.triable and any(how != "hung" for how in (*self.cases.get(site, ()), *self.lost.get(site, ())))

    def telling(self, asked: Sequence[Asked], how: str) -> SiteId | None:
        """The site that a worker's end speaks against, if any."""
        return asked[0][0] if len(asked) == 1 and not (self.triable and how == "died") else None

    def blame(self, asked: Sequence[Asked], how: str, queue: deque[Asked]) -> Iterator[tuple[SiteId, str]]:
        """`asked` were with a worker that is gone, and stand in the queue again: those that are lost, taken out, and why."""
        if len(asked) > 1:
            self.suspects |= {site for site, _ in asked}
            return
        site = asked[0][0]
        self.cases.setdefault(site, []).append(how)
        if self.telling(asked, how) is not None and self._guilty(site):
            self.lost.setdefault(site, []).append(how)
            queue.remove(asked[0])
            del self.cases[site]
            yield site, WORDS[how]

    def _guilty(self, site: SiteId) -> bool:
        case = self.cases[site]
        own, deaths = (sum(how in kinds for how in case) for kinds in (OWN, ("memory",) if self.triable else DEATHS))
        return site in self.lost or own >= MOST_OWN or deaths >= MOST_TIMES + self.unprovoked

    def answered(self, sites: Sequence[SiteId]) -> int:
        """`sites` have answered: how many workers died alone with them, of something else then, and were not counted yet."""
        for site in self.lost.keys() & set(sites):
            self.lost[site].pop()
            if not self.lost[site]:
                del self.lost[site]
        ended = [how for site in sites for how in self.cases.pop(site, ())]
        self.unprovoked += sum(how in DEATHS for how in ended)
        return sum(how in DEATHS and not (self.triable and how == "died") for how in ended)
