"""What goes wrong in a simulation: absent sites, lost replies, slow sites and a deadline, rubbish.

All of it is drawn by name, around any exchange, so that the same things go wrong on every engine.  Time is simulated
(`fedvision.pace`).
"""

import difflib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from clients.lies import LIES
from fedvision.errors import ConfigError
from fedvision.experiment import AT_WORKERS, Conditions
from fedvision.pace import seconds
from fedvision.seeds import stream
from fedvision.sums import Layout
from fedvision.types import ClientUpdate, Exchange, Lost, Reply, Request, SecureReply, SecureRequest, SiteId, TrainRequest


def check_names(conditions: Conditions, sites: Sequence[SiteId]) -> None:
    """ConfigError where the conditions are of a site that there is not, with the nearest that there is."""
    for key, named in (("misbehaving", conditions.misbehaving), ("budgets", conditions.budgets)):
        for site in sorted(set(named) - set(sites)):
            near = difflib.get_close_matches(site, sites, 1, 0.4)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"conditions.{key} names {site!r}, and the sites are {sites[0]} to {sites[-1]}{meant}")


class Troubled:
    """`exchange`, under `conditions`."""

    def __init__(self, exchange: Exchange, conditions: Conditions, layout: Layout, seed: int):
        self.exchange, self.conditions, self.layout, self.seed = exchange, conditions, layout, seed
        self._clock = 0.0
        self._asked: dict[SiteId, tuple[int, int, int]] = {}  # a site's last request, and how often it was repeated

    def sites(self) -> Sequence[SiteId]:
        """The exchange's."""
        return self.exchange.sites()

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
        """The exchange's replies, less those that are lost.  A site whose reply is lost has trained all the same."""
        training = {site: self._luck(site, r) for site, request in requests.items() if (r := _training(request)) is not None}
        absent = {site for site, r in training.items() if self._happens("absent", self.conditions.absent, site, r)}
        for site in absent:
            yield Lost(site, training[site].round, "absent")
        took = 0.0
        for reply in self.exchange.ask({site: r for site, r in requests.items() if site not in absent}):
            request = training.get(reply.site)
            if request is None or not isinstance(reply, ClientUpdate | SecureReply):
                yield reply
                continue
            seconds = self.seconds(reply)
            fate = self._fate(reply, request, seconds)
            if fate is None:
                took = max(took, seconds)
                yield self._misbehave(reply) if isinstance(reply, ClientUpdate) else reply
            else:
                absent.add(reply.site)
                yield Lost(reply.site, reply.round, fate)
        deadline = self.conditions.deadline
        self._clock += deadline if absent and deadline is not None else took

    def _luck(self, site: SiteId, request: TrainRequest) -> TrainRequest:
        """The request by which a site's luck is drawn: one that is repeated to the letter is as good as the next attempt's."""
        last = self._asked.get(site)
        times = last[2] + 1 if last is not None and last[:2] == (request.round, request.attempt) else 0
        self._asked[site] = (request.round, request.attempt, times)
        return replace(request, attempt=request.attempt + times)

    def seconds(self, update: ClientUpdate | SecureReply) -> float:
        """Simulated seconds that the site took."""
        return seconds(update, self.conditions, self.seed)

    def _fate(self, update: ClientUpdate | SecureReply, request: TrainRequest, seconds: float) -> str | None:
        if self._happens("dropout", self.conditions.dropout, update.site, request):
            return "dropout"
        return "late" if self.conditions.deadline is not None and seconds > self.conditions.deadline else None

    def _happens(self, what: str, chance: float, site: SiteId, request: TrainRequest) -> bool:
        return chance > 0 and stream(self.seed, what, site, "round", request.round, request.attempt).random() < chance

    def _misbehave(self, update: ClientUpdate) -> Reply:
        kind = self.conditions.misbehaving.get(update.site)
        return LIES[kind](update, self.layout) if kind in LIES else update

    def clock(self) -> float:
        """Simulated seconds since the run began."""
        return self._clock

    def busy(self) -> float:
        """The exchange's."""
        return self.exchange.busy()

    def close(self) -> None:
        """Let the exchange go."""
        self.exchange.close()


def suffer(conditions: Conditions, site: SiteId, request: Request, states: Path) -> None:
    """What a site that is to hang or to die does to the process that is about to train it; …_once: the first time only, which
    a file in `states` remembers."""
    kind = conditions.misbehaving.get(site, "")
    if kind not in AT_WORKERS or _training(request) is None:
        return
    if kind.endswith("_once"):
        mark = states / f".{kind}.{quote(site, safe='')}"
        if mark.exists():
            return
        mark.touch()
    if kind.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    while True:  # until engine.site_seconds have passed
        time.sleep(3600)


def _training(request: Request) -> TrainRequest | None:
    """What a request asks to train on, in the clear or masked; None where it does not."""
    if isinstance(request, SecureRequest):
        return request.train
    return request if isinstance(request, TrainRequest) else None
