"""The sums of `fedvision statistics` under masks: the protocol of a masked round, with the counts of each site for its vector.

A federation is founded for it alone, with keys that are forgotten afterwards, and all sites are asked.  What comes out is the
sum, of which the coordinator then withholds what is below the floor, as of one in the clear.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from fedvision.data.federation import Federated
from fedvision.data.statistics import BINS, FEWEST_SITES, counted
from fedvision.errors import AggregationRefused, DataError, RoundFailed
from fedvision.evaluation import Sums
from fedvision.experiment import Experiment
from fedvision.types import SiteId
from privacy.secure_aggregation import Attempt, Contribution, Identity, Member, Pinned, Ring, Roster, SecureSite, Session, Terms, endorse
from privacy.secure_aggregation.messages import ToSite, from_bytes, to_bytes
from privacy.secure_aggregation.store import Memory

BITS = 64  # squares of bytes are summed: 2⁶² hold 7·10¹³ white pixels


def masked_over(data: Federated, experiment: Experiment) -> tuple[Sums, int]:
    """The sums of all sites, and how many of them had something to add; RoundFailed where the protocol does not come to one."""
    shapes = _shapes(data)
    size = sum(map(_size, shapes.values()))
    total = masked_sum(data, experiment, data.sites, size, json.dumps(list(shapes.items())), partial(_vector, data, shapes))
    return _taken_apart(total, shapes)


def masked_sum(
    data: Federated, experiment: Experiment, sites: Sequence[SiteId], size: int, layout: str, vector: Callable[[SiteId], np.ndarray]
) -> np.ndarray:
    """int64 [size]: the sum of what `vector` makes at each of `sites`, once, and what leaves none of them but under masks.
    layout: what it holds, in words that all sites agree on.  RoundFailed where the protocol does not come to a sum."""
    terms, members = _terms(data, layout, size), _founded(sites, experiment)
    roster = next(iter(members.values())).pinned.roster
    attempt = Attempt(roster, Session("statistics", 0, 1, roster.fingerprint), experiment.secure_aggregation.planned_dropouts)

    def ask(messages: Mapping[str, ToSite]) -> None:
        for site, message in messages.items():
            contribution = Contribution(terms, partial(_alone, vector, SiteId(site)))
            reply = members[site].answer(from_bytes(to_bytes(message)), contribution)  # type: ignore[arg-type]
            attempt.take(from_bytes(to_bytes(reply)))

    try:
        ask(dict.fromkeys(members, attempt.open()))
        ask(dict.fromkeys(members, attempt.list_keys()))
        ask(attempt.begins(terms))
        ask(dict.fromkeys(attempt.survivors().alive, attempt.survivors()))
        ask(dict.fromkeys(attempt.survivors().alive, attempt.proof()))
        return attempt.total()[0]
    except AggregationRefused as refused:
        raise RoundFailed(f"the masked sum of the statistics: {refused}") from None


def _alone(vector: Callable[[SiteId], np.ndarray], site: SiteId) -> list[np.ndarray]:
    """A site's one vector: all of it is in one ring."""
    return [vector(site)]


def _shapes(data: Federated) -> dict[str, tuple[int, ...]]:
    """What a site's vector holds, in its order: public numbers, the same for all."""
    channels = data.shape[0]
    return {
        "sites": (1,),
        "images": (1,),
        "pixels": (1,),
        "sum": (channels,),
        "squares": (channels,),
        "intensity": (channels, BINS),
        "seen": (channels, BINS),
        "labels": (len(data.dataset.classes),),
    }


def _terms(data: Federated, layout: str, size: int) -> Terms:
    """What the sum is of: no model, but a data set and the kinds of counts."""
    about = hashlib.sha256(f"statistics\x1f{data.fingerprint}".encode()).digest()
    return Terms(about, hashlib.sha256(layout.encode()).hexdigest(), 0.0, 1.0, (Ring(BITS, size),))


def _founded(sites: Sequence[SiteId], experiment: Experiment) -> dict[str, SecureSite]:
    settings = experiment.secure_aggregation
    identities, authority = {str(site): Identity.fresh() for site in sorted(sites)}, Identity.fresh()
    roster = Roster("statistics", 1, tuple(Member(site, own.public) for site, own in identities.items()), (authority.public,), 1)
    signed, least = endorse(roster, [authority]), max(settings.min_cohort, FEWEST_SITES)
    return {
        site: SecureSite(site, own, Pinned.join(signed, roster.fingerprint, least), Memory(), settings.threshold or 0)
        for site, own in identities.items()
    }


def _vector(data: Federated, shapes: Mapping[str, tuple[int, ...]], site: SiteId) -> np.ndarray:
    """A site's counts as one vector; zeros where it holds nothing, which nobody can tell from counts under the masks."""
    own = counted(data.site(site).train, len(data.dataset.classes))
    own = {**own, "sites": np.array([1])} if own else {}
    vector = np.concatenate([np.asarray(own.get(name, np.zeros(shape)), np.int64).ravel() for name, shape in shapes.items()])
    if int(vector.max()) >= 1 << (BITS - 2) or int(vector.max()) * len(data.sites) >= 1 << (BITS - 1):
        raise DataError(
            f"site {site} holds too many pixels for {len(data.sites)} such sites' sum to stay within {BITS} bits: take fewer images"
        )
    return vector


def _taken_apart(total: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Sums, int]:
    ends = np.cumsum([_size(shape) for shape in shapes.values()])[:-1]
    parts = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), np.split(total, ends), strict=True)}
    taking_part = int(parts.pop("sites")[0])
    return parts, taking_part


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
