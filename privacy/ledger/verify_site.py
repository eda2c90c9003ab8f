"""A site's chain: sound by itself, within its plan, and answering to the coordinator's requests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from fedvision.errors import ConfigError
from privacy.ledger.entries import FIRST
from privacy.ledger.figures import rdp_epsilon
from privacy.ledger.keys import Roster
from privacy.ledger.reading import Place, lines_of
from privacy.ledger.registered import AGREED, EVENT, SAME, Registered
from privacy.ledger.site import FILE
from privacy.ledger.verify_coordinator import Coordinator
from privacy.limits import Stated


@dataclass
class SiteRecord:
    """What a site's chain adds up to.

    charges: (hash, round, attempt) by number of entry.  received: how many of them the coordinator countersigned.
    first: hash of the first entry.  hashes: of all.  pld: the newest figure that is recorded.
    crossed: as in `Registered`.
    """

    site: str
    rounds: int = 0
    epsilon: float = 0.0
    pld: float | None = None
    count: int = 0
    head: str = ""
    ended: bool = False
    charges: dict[int, tuple[str, int | None, int | None]] = field(default_factory=dict)
    first: str = ""
    hashes: list[str] = field(default_factory=list)
    received: int = 0
    crossed: dict[int, str] = field(default_factory=dict)


def site_file(site: str) -> str:
    """A site's ledger in the run folder."""
    return f"sites/{quote(site, safe='')}/{FILE}"


def read_site(run: Path, site: str, roster: Roster, coordinator: Coordinator) -> SiteRecord:
    """A site's chain; Fault where it is not sound, or does not agree with the coordinator's plan and requests."""
    check: SiteCheck | None = None
    for entry in lines_of(run, site_file(site), roster.key(site)):
        place = Place(site_file(site), entry)
        if check is None:
            place.want("run", roster.run, "the roster is of run")
            place.want("site", site, "this is the ledger of site")
            place.want("key", roster.sites[site], "the roster's is")
            terms = Registered.of(place, coordinator.terms.asks_prv)
            for name in AGREED:
                place.want(name, coordinator.terms.body[name], "the coordinator registered")
            check = SiteCheck(
                SiteRecord(site, first=entry.hash, crossed=terms.crossed), roster.run, terms, coordinator, _held(place, terms)
            )
        else:
            check.take(place)
        check.record.hashes.append(entry.hash)
        check.record.head, check.record.count = entry.hash, entry.number + 1
    assert check is not None
    return check.record


def _held(place: Place, terms: Registered) -> int:
    """How many charges the plan holds, and the limit that the site's first entry states; Fault where it is none."""
    said = place.entry.body.get("limit")
    if said is None:
        return terms.rounds
    try:
        return min(terms.rounds, Stated.of(said).charges(terms.event))
    except (ValueError, ConfigError) as error:
        raise place.fault(f"its limit cannot be read: {error}") from None


class SiteCheck:
    """What a site's chain adds up to so far."""

    def __init__(self, record: SiteRecord, run: str, terms: Registered, coordinator: Coordinator, most: int):
        self.record, self.run, self.terms, self.coordinator, self.most = record, run, terms, coordinator, most
        self.summed = np.zeros(len(self.terms.orders))
        self.paid: set[int] = set()
        self.settled: set[int] = set()
        free = {"clip"} if self.terms.body["once_a_round"] else set()  # the coordinator's may follow the norms
        self.fixed = [(name, self.terms.body[name]) for name in EVENT if name not in free]
        self.kinds: dict[str, Callable[[Place], None]] = {
            "charge": self._charge, "settle": self._settle, "checkpoint": self._checkpoint, "end": self._end,
        }  # fmt: skip

    def take(self, place: Place) -> None:
        """The next entry."""
        kind = str(place.entry.body.get("kind"))
        if kind not in self.kinds:
            raise place.fault(f"its kind is {kind[:40]!r}, and a site writes {', '.join(self.kinds)}")
        if self.record.ended:
            raise place.fault("it follows the end of this ledger")
        self.record.ended = kind == "end"
        self.kinds[kind](place)

    def _charge(self, place: Place) -> None:
        body, record, flags = place.entry.body, self.record, self.terms.body
        place.want("run", self.run, "this ledger is of run")
        for name, value in self.fixed:
            if body.get(name) != value or type(body[name]) is not type(value):
                place.want(name, value, "the plan has")
        place.want("config", flags["config"], "the plan has")
        if flags["whole_plan"]:
            new = self._whole(place)
        else:
            round = self._asked(place)
            new = 0 if flags["once_a_round"] and round in self.paid else 1
            self.paid.add(round)
        place.want("new", new, "it should charge")
        record.rounds += new
        place.want("rounds", record.rounds, "the charges so far are")
        if record.rounds > self.terms.rounds:
            raise place.fault(f"it is charge {record.rounds}, over the budget of the plan, which is {self.terms.rounds}")
        if record.rounds > self.most:
            raise place.fault(
                f"it is charge {record.rounds}, and the limit of the site's account, which its first entry states, holds {self.most}"
            )
        self.summed = self.summed + new * self.terms.rho
        self._figures(place)
        record.charges[place.entry.number] = (place.entry.hash, body.get("round"), body.get("attempt"))

    def _whole(self, place: Place) -> int:
        if self.record.charges:
            raise place.fault("the whole plan was charged at joining, and a later entry tells who was drawn")
        for name, value in (("round", None), ("attempt", None), ("request", ""), ("model", ""), ("witness", FIRST)):
            place.want(name, value, "the charge of a whole plan has")
        return self.terms.rounds

    def _asked(self, place: Place) -> int:
        """The round of a charge that the coordinator's chain has the request of."""
        key = (place.get("round", int), place.get("attempt", int))
        sent = self.coordinator.sent.get(key)
        if sent is None:
            raise place.fault(
                f"a charge for round {key[0]}, attempt {key[1]}, which the coordinator's ledger never asked for: it was cut, or changed"
            )
        if sent.sites is not None and self.record.site not in sent.sites:
            raise place.fault(f"a charge for round {key[0]}, attempt {key[1]}, which did not ask this site")
        for name, value in (("request", sent.request), ("model", sent.model), ("witness", sent.witness)):
            if place.entry.body.get(name) != value:
                raise place.fault(f"its {name} is not the one in the coordinator's ledger: the two sides do not agree")
        return key[0]

    def _figures(self, place: Place) -> None:
        rows = place.get("rdp", list)
        if not all(type(x) is float for x in rows) or len(rows) != len(self.summed):
            raise place.fault("its rdp is no list of figures at the orders of the plan")
        found = np.asarray(rows)
        if (np.abs(found - self.summed) > SAME * self.summed).any():
            raise place.fault("its cumulative rdp does not follow from the events so far")
        wanted = rdp_epsilon(self.terms.orders, self.summed, self.terms.event.delta)
        self.record.epsilon = place.get("epsilon", float)
        if abs(self.record.epsilon - wanted) > SAME * wanted:
            raise place.fault(f"its epsilon is {self.record.epsilon:.6g}, and its events come to {wanted:.6g} (rdp)")

    def _settle(self, place: Place) -> None:
        number = place.get("charge", int)
        if number not in self.record.charges or number in self.settled:
            raise place.fault(f"it settles entry {number}, which is no charge, or settled already")
        self.settled.add(number)

    def _checkpoint(self, place: Place) -> None:
        place.want("rounds", self.record.rounds, "the charges so far are")
        self.record.pld = place.get("pld", float)
        self.terms.check_pld(place, self.record.rounds, self.record.pld)

    def _end(self, place: Place) -> None:
        self._checkpoint(place)
        self.terms.check_epsilon(place, self.record.rounds)
        if place.get("witness", str) != self.coordinator.witness():
            raise place.fault("its witness is not the root at the end of the coordinator's ledger: that one was cut, or changed")
