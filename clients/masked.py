"""A site's part in masked rounds: the protocol's messages in, its answers out; the update leaves under masks only."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import numpy as np

from clients.lies import LIES
from clients.private import charged
from clients.workbench import Workbench
from fedvision.data.site import Site
from fedvision.errors import AggregationRefused, OutOfRange, RunFolderError, UpdateRefused
from fedvision.sums import Layout, check
from fedvision.types import ClientUpdate, Declined, SecureReply, SecureRequest, SiteId, TrainRequest
from privacy.membership import membership_of
from privacy.secure_aggregation import codec
from privacy.secure_aggregation.messages import Begin, Refusal, Session, from_bytes, to_bytes
from privacy.secure_aggregation.primitives import Identity
from privacy.secure_aggregation.roster import Pinned, Roster
from privacy.secure_aggregation.site import Contribution, SecureSite
from privacy.secure_aggregation.store import Files
from privacy.secure_aggregation.terms import parted, terms_of

log = logging.getLogger("fedvision.site")
SIMULATED = "simulated"  # a file of this name in a site's folder: the site is simulated, and its disk need not be synced
Train = Callable[[TrainRequest, Site, Workbench], ClientUpdate | Declined]


class _Declined(Exception):
    """Carries a `Declined` out of the protocol, which has then changed nothing."""

    def __init__(self, reply: Declined):
        super().__init__(reply.reason)
        self.reply = reply


def masking_folder(states: Path, site: SiteId) -> Path:
    """Where a site keeps its identity, its pinned roster and what it must not forget."""
    return states / quote(site, safe="") / "masking"


def open_masking(states: Path, site: SiteId, bench: Workbench) -> SecureSite:
    """The site's half of the protocol, as its folder left it."""
    settings, folder = bench.experiment.secure_aggregation, masking_folder(states, site)
    member = membership_of(states, site)
    if member is not None:  # a real site goes by its own minima where they are the stricter
        pinned = replace(member.pinned, minimum_cohort=max(member.pinned.minimum_cohort, settings.min_cohort))
        return SecureSite(site, member.identity, pinned, Files(member.folder / "masking"), max(member.threshold, settings.threshold or 0))
    store = Files(folder, durable=not (folder / SIMULATED).exists())
    identity, roster = store.read("identity"), store.read("roster")
    if identity is None or roster is None:
        raise RunFolderError(f"site {site} has no identity or roster in {store.folder}: a site is given both when it joins")
    pinned = Pinned(_read(roster), settings.min_cohort)
    return SecureSite(site, Identity(identity), pinned, store, settings.threshold or 0)


@lru_cache(maxsize=2)
def _read(roster: bytes) -> Roster:
    """A roster, which a simulation's sites have in common: a thousand names are read once and not by each."""
    found: Roster = codec.decode(Roster, roster)
    return found


def answer_masked(request: SecureRequest, site: Site, bench: Workbench, train: Train) -> SecureReply | Declined:
    """The site's answers.  `Declined`, and nothing has changed, where it cannot give what a `Begin` asks for."""
    with _alone(bench.states.folder, site.id):
        return _answer(request, site, bench, train)


@contextmanager
def _alone(states: Path, site: SiteId) -> Iterator[None]:
    """A real site's folder serves all its runs: one request at a time, so that none is judged by a state that another is changing."""
    member = membership_of(states, site)
    if member is None:  # a simulated site has a folder in each run
        yield
        return
    with Files(member.folder / "masking").held():
        yield


def _answer(request: SecureRequest, site: Site, bench: Workbench, train: Train) -> SecureReply | Declined:
    secure = open_masking(bench.states.folder, site.id, bench)
    replies, entry, work = [], b"", [0]
    try:
        for content in request.messages:
            message = from_bytes(content)
            contribution = _contribution(message.session, request, site, bench, train, work) if isinstance(message, Begin) else None
            unasked = isinstance(message, Begin) and contribution is None
            replies.append(to_bytes(_unasked(message, site.id) if unasked else secure.answer(message, contribution)))
            if contribution is not None and bench.protection is not None and request.train is not None:
                entry = charged(request.train, site.id, bench)
    except _Declined as declined:
        return declined.reply
    except AggregationRefused as refused:  # bytes that are no message
        return Declined(site.id, request.round, refused.check, str(refused))
    return SecureReply(site.id, request.round, tuple(replies), entry, work[0])


def _unasked(message: Begin, site: SiteId) -> Refusal:
    return Refusal(message.session, site, "terms", "a vector asked for without the model of its round")


def _contribution(
    session: Session, request: SecureRequest, site: Site, bench: Workbench, train: Train, work: list[int]
) -> Contribution | None:
    """What the site gives for a `Begin`.  work: filled with what a simulated one has done."""
    wanted = request.train
    if wanted is None or (wanted.run, wanted.round) != (session.run, session.round):
        return None
    clip = bench.experiment.federation.max_update_norm

    def vectors() -> list[np.ndarray]:
        try:
            reply = train(wanted, site, bench)
        except OutOfRange as error:
            raise _beyond(site.id, wanted.round, "out_of_range", error) from None
        simulated = (masking_folder(bench.states.folder, site.id) / SIMULATED).exists()
        lie = bench.experiment.conditions.misbehaving.get(site.id, "") if simulated else ""
        if lie in LIES and isinstance(reply, ClientUpdate):
            reply = LIES[lie](reply, bench.layout)
        if isinstance(reply, Declined):
            raise _Declined(reply)
        if lie not in LIES:  # a liar does not look
            _check_own(reply, bench.layout, clip)
        work[0] = reply.work if simulated else 0
        return parted(reply.vector, bench.layout)

    return Contribution(terms_of(wanted, bench.layout, clip), vectors)


def _check_own(update: ClientUpdate, layout: Layout, clip: float) -> None:
    """What the coordinator checks of an update in the clear, the site checks of its own: nobody else can."""
    try:
        check(update.vector, layout, clip if clip else math.inf)
    except UpdateRefused as refused:
        raise _beyond(update.site, update.round, refused.code, refused) from None


def _beyond(site: SiteId, round: int, code: str, error: Exception) -> _Declined:
    """A site that may not send what it has: by how much is its own figure, and goes to its own log alone."""
    log.warning("site %s, round %d: %s", site, round, error)
    return _Declined(Declined(site, round, code, "its update is beyond what the run allows; the figure stands in the site's own log"))
