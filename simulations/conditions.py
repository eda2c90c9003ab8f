"""What goes wrong in a simulation: absent sites, lost replies, slow sites and a deadline, rubbish.

All of it is drawn by name, around any exchange, so that the same things go wrong on every engine.  Time is simulated
(`fedvision.pace`).
"""

import difflib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from fedvision.errors import ConfigError
from fedvision.experiment import AT_WORKERS, Conditions
from fedvision.pace import seconds
from fedvision.seeds import stream
from fedvision.sums import COUNT, Layout
from fedvision.types import ClientUpdate, Declined, Exchange, Lost, Reply, Request, SecureReply, SecureRequest, SiteId, TrainRequest


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

    def sites(self) -> Sequence[SiteId]:
        """The exchange's."""
        return self.exchange.sites()

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
        """The exchange's replies, less those that are lost.  A site whose reply is lost has trained all the same."""
        training = {site: r for site, request in requests.items() if (r := _training(request)) is not None}
        absent = {site for site, r in training.items() if self._happens("absent", self.conditions.absent, site, r)}
        for site in absent:
            yield Lost(site, training[site].round, "absent")
        took = 0.0
        for reply in self.exchange.ask({site: r for site, r in requests.items() if site not in absent}):
            request = training.get(reply.site)
            if request is not None and isinstance(reply, SecureReply):
                lost = self._happens("dropout", self.conditions.dropout, reply.site, request)
                yield Lost(reply.site, reply.round, "dropout") if lost else reply
                continue
            if request is None or not isinstance(reply, ClientUpdate):
                yield reply
                continue
            seconds = self.seconds(reply)
            fate = self._fate(reply, request, seconds)
            if fate is None:
                took = max(took, seconds)
                yield self._misbehave(reply)
            else:
                absent.add(reply.site)
                yield Lost(reply.site, reply.round, fate)
        deadline = self.conditions.deadline
        self._clock += deadline if absent and deadline is not None else took

    def seconds(self, update: ClientUpdate) -> float:
        """Simulated seconds that the site took."""
        return seconds(update, self.conditions, self.seed)

    def _fate(self, update: ClientUpdate, request: TrainRequest, seconds: float) -> str | None:
        if self._happens("dropout", self.conditions.dropout, update.site, request):
            return "dropout"
        return "late" if self.conditions.deadline is not None and seconds > self.conditions.deadline else None

    def _happens(self, what: str, chance: float, site: SiteId, request: TrainRequest) -> bool:
        return chance > 0 and stream(self.seed, what, site, "round", request.round, request.attempt).random() < chance

    def _misbehave(self, update: ClientUpdate) -> Reply:
        kind = self.conditions.misbehaving.get(update.site)
        return MISBEHAVIOURS[kind](update, self.layout) if kind in MISBEHAVIOURS else update

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


def _filled(update: ClientUpdate, value: float) -> ClientUpdate:
    return replace(update, vector=np.full(update.vector.shape, value))


def _numbers(update: ClientUpdate, layout: Layout, field: str, change: Callable[[np.ndarray], np.ndarray]) -> ClientUpdate:
    vector = update.vector.copy()
    vector[layout.span(field)] = change(vector[layout.span(field)])
    return replace(update, vector=vector)


def _largest(numbers: np.ndarray) -> np.ndarray:
    return np.full_like(numbers, np.iinfo(numbers.dtype).max // 4)


MISBEHAVIOURS: dict[str, Callable[[ClientUpdate, Layout], Reply]] = {
    "nan": lambda u, layout: _filled(u, np.nan),
    "inf": lambda u, layout: _filled(u, np.inf),
    "huge": lambda u, layout: _numbers(u, layout, "weights", _largest),
    "wrong_shape": lambda u, layout: replace(u, vector=u.vector[:-1]),
    "wrong_names": lambda u, layout: replace(u, layout="0" * 64),
    "wrong_dtype": lambda u, layout: replace(u, vector=u.vector.astype(np.int16)),
    "negative_weight": lambda u, layout: _numbers(u, layout, COUNT, lambda n: -np.abs(n)),
    "huge_weight": lambda u, layout: _numbers(u, layout, COUNT, _largest),
    "opposite": lambda u, layout: _numbers(u, layout, "weights", lambda n: -4 * n),  # in range: no check can refuse it
    "raise": lambda u, layout: Declined(u.site, u.round, "error", "RuntimeError, as conditions.misbehaving asks"),
}
