"""The coordinator's chain: sound by itself, and what it says of the sites' chains."""

from dataclasses import dataclass, field
from pathlib import Path

from privacy.ledger.keys import Roster
from privacy.ledger.merkle import Heads
from privacy.ledger.reading import Place, lines_of
from privacy.ledger.registered import Registered
from privacy.ledger.site import FILE


@dataclass(frozen=True)
class Sent:
    """A request in the coordinator's chain."""

    request: str
    model: str
    witness: str
    sites: frozenset[str] | None


@dataclass(frozen=True)
class Receipt:
    """The coordinator's word that an entry of a site's chain is there.  last: that it is the last one."""

    place: Place
    site: str
    number: int
    hash: str
    of: tuple[int, int] | None = None
    last: bool = False


@dataclass
class Coordinator:
    """The coordinator's chain, read and checked by itself."""

    terms: Registered
    sent: dict[tuple[int, int], Sent] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    heads: Heads = field(default_factory=Heads)
    head: str = ""
    count: int = 0
    closed: bool = False
    hashes: set[str] = field(default_factory=set)
    final: str = ""  # the witness before the end

    def witness(self) -> str:
        """What the sites were told last."""
        return self.final or self.heads.witness(self.count - 1, self.head)


def read_coordinator(run: Path, roster: Roster, asks_prv: bool = True) -> Coordinator:
    """The coordinator's chain; Fault where it is not sound by itself.  asks_prv: as in `verify`."""
    found: Coordinator | None = None
    for entry in lines_of(run, FILE, roster.key(None)):
        place = Place(FILE, entry)
        if found is None:
            place.want("run", roster.run, "the roster is of run")
            place.want("key", roster.coordinator, "the roster's is")
            place.want("sites", sorted(roster.sites), "the roster has")
            found = Coordinator(Registered.of(place, asks_prv))
        else:
            take = COORDINATOR_KINDS.get(str(entry.body.get("kind")))
            if take is None:
                raise place.fault(
                    f"its kind is {str(entry.body.get('kind'))[:40]!r}, and a coordinator writes {', '.join(COORDINATOR_KINDS)}"
                )
            if found.closed:
                raise place.fault("it follows the end of this ledger")
            take(found, place, roster)
        found.hashes.add(entry.hash)
        found.head, found.count, found.closed = entry.hash, entry.number + 1, entry.body.get("kind") == "end"
    assert found is not None
    return found


def _joined(c: Coordinator, place: Place, roster: Roster) -> None:
    if c.receipts:
        raise place.fault("the sites have joined before")
    if {site for site, _, _ in place.heads()} != set(roster.sites):
        raise place.fault("it does not name every site")
    _count(c, place, None)


def _request(c: Coordinator, place: Place, roster: Roster) -> None:
    key = (place.get("round", int), place.get("attempt", int))
    if key in c.sent:
        raise place.fault(f"the request of round {key[0]}, attempt {key[1]} is here a second time")
    if c.terms.body["whole_plan"]:
        if "sites" in place.entry.body:
            raise place.fault("it tells whom the secret draw chose")
        sites = None
    else:
        sites = frozenset(map(str, place.get("sites", list)))
        if not sites <= set(roster.sites):
            raise place.fault("it was sent to a site that is not in the roster")
    if place.get("witness", str) != c.witness():
        raise place.fault("its witness is not the root of the sites' heads as counted before it, and of this ledger's")
    c.sent[key] = Sent(place.get("request", str), place.get("model", str), place.get("witness", str), sites)


def _receipts(c: Coordinator, place: Place, roster: Roster) -> None:
    key = (place.get("round", int), place.get("attempt", int))
    if key not in c.sent:
        raise place.fault(f"receipts for round {key[0]}, attempt {key[1]}, which was never asked")
    asked = c.sent[key].sites
    if asked is None or not {site for site, _, _ in place.heads()} <= asked:
        raise place.fault("a receipt of a site that was not asked")
    _count(c, place, key)


def _end(c: Coordinator, place: Place, roster: Roster) -> None:
    if {site for site, _, _ in place.heads()} != set(roster.sites):
        raise place.fault("it does not name every site")
    c.final = c.witness()
    _count(c, place, None, last=True)


def _count(c: Coordinator, place: Place, key: tuple[int, int] | None, last: bool = False) -> None:
    for site, number, hash in place.heads():
        before = c.heads.newest.get(site, (-1, ""))[0]
        if number <= before and not (last and number == before):
            raise place.fault(f"entry {number} of site {site} is counted after entry {before}: the site's chain went back")
        c.heads.put(site, number, hash)
        c.receipts.append(Receipt(place, site, number, hash, key, last))
    if place.get("root", str) != c.heads.root():
        raise place.fault("its root is not that of the sites' heads")


COORDINATOR_KINDS = {"joined": _joined, "request": _request, "receipts": _receipts, "end": _end}
