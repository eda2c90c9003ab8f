"""Whether a run folder's ledgers are what was written, and whether their figures follow from their events: offline.

Trusted are the roster's keys and nothing in the folder.  The first thing that is wrong is a `Fault`, by file, line and reason.
"""

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvision.errors import ConfigError
from fedvision.schema import read_yaml
from privacy.ledger.keys import Roster
from privacy.ledger.reading import Fault
from privacy.ledger.registered import Registered
from privacy.ledger.site import FILE
from privacy.ledger.terms import hash_of
from privacy.ledger.verify_coordinator import Coordinator, Receipt, read_coordinator
from privacy.ledger.verify_site import SiteRecord, read_site, site_file

CONFIG = "config.yaml"
LEDGERS = "*ledger*.jsonl"  # what is called so in a run folder is one
LONG = 4 << 20  # bytes of ledgers from which more than one process reads them


@dataclass(frozen=True)
class Verdict:
    """What a sound run folder amounts to.  notes: what it cannot show of itself.  crossed: count of charges -> why prv, the second
    estimate, was not asked about the PLD figure that is recorded for it; "" where it was."""

    run: str
    head: str
    closed: bool
    entries: int
    terms: Registered
    sites: Sequence[SiteRecord]
    notes: Sequence[str]
    crossed: Mapping[int, str]


def verify(run: Path, roster: Roster, outside: str | None = None, asks_prv: bool = True) -> Verdict:
    """The verdict on a run folder; Fault where it is not sound.  outside: a head of the coordinator's or a site's chain that was
    noted elsewhere, and must be in the folder.  asks_prv: whether the second estimate of the PLD figures is made too; rdp, a bound above
    them, is asked in any case."""
    coordinator = read_coordinator(run, roster, asks_prv)
    _check_config(run, coordinator.terms)
    known = {FILE, *(site_file(site) for site in roster.sites)}
    if strangers := {path.relative_to(run).as_posix() for path in run.rglob(LEDGERS)} - known:
        raise Fault(min(strangers), None, "a ledger of nobody who is in the roster")
    receipts: dict[str, list[Receipt]] = {site: [] for site in roster.sites}
    for receipt in coordinator.receipts:
        receipts[receipt.site].append(receipt)
    sites = []
    for site, record in zip(sorted(roster.sites), _records(run, roster, coordinator), strict=True):
        compare(record, receipts[site])
        if coordinator.closed and not record.ended:
            raise Fault(site_file(site), record.count, "the coordinator's ledger says that the run is over, and this one has no end")
        sites.append(record)
    if outside is not None and outside not in coordinator.hashes and not any(outside in record.hashes for record in sites):
        raise Fault(
            FILE, None, f"the head {outside[:64]} that was noted elsewhere is in no chain: entries were removed, or this is another history"
        )
    entries = coordinator.count + sum(record.count for record in sites)
    notes = list(_notes(coordinator, sites, outside))
    crossed = dict(coordinator.terms.crossed)
    for record in sites:
        crossed |= record.crossed
    return Verdict(roster.run, coordinator.head, coordinator.closed, entries, coordinator.terms, sites, notes, crossed)


def _check_config(run: Path, terms: Registered) -> None:
    """Fault where the folder has a config, and it is not the one that the plan was made under."""
    if not (run / CONFIG).exists():
        return
    try:
        found = hash_of(read_yaml(run / CONFIG))
    except (ConfigError, ValueError) as error:
        raise Fault(CONFIG, None, f"it cannot be read: {error}") from None
    if found != terms.body["config"]:
        raise Fault(CONFIG, None, "it is not the config that the ledgers were made under: it was changed, or is another run's")


def _records(run: Path, roster: Roster, coordinator: Coordinator) -> Iterator[SiteRecord]:
    """Each site's chain, in the order of the names; those of a long run in as many processes as there are cores, which begin with the
    figures that the coordinator's chain took to recompute."""
    sites = sorted(roster.sites)
    files = [run / site_file(site) for site in sites]
    workers = min(os.cpu_count() or 1, len(sites))
    if workers == 1 or sum(f.stat().st_size for f in files if f.is_file()) < LONG or "fork" not in multiprocessing.get_all_start_methods():
        yield from (read_site(run, site, roster, coordinator) for site in sites)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _given, (run, roster, coordinator)) as pool:
        yield from pool.map(_read, sites)


def _given(*what: Any) -> None:
    """What a process of `_records` reads by."""
    global _reading_by
    _reading_by = what


def _read(site: str) -> SiteRecord:
    run, roster, coordinator = _reading_by
    return read_site(run, site, roster, coordinator)


_reading_by: tuple[Any, ...] = ()


def _notes(coordinator: Coordinator, sites: Sequence[SiteRecord], outside: str | None) -> Iterator[str]:
    charges = 0 if coordinator.terms.body["whole_plan"] else sum(len(record.charges) for record in sites)
    missed = charges - sum(record.received for record in sites)
    if charges and missed:
        yield f"charged, not received: {missed} of {charges} charges have no receipt of the coordinator's; they count as spent"
    if not coordinator.closed:
        yield (
            "the run is not closed: whether it went on beyond these entries, and an older copy of the whole folder was put in its place, can be "
            "shown by a head that was noted elsewhere alone" + ("" if outside is None else " (the one given is here)")
        )


def compare(record: SiteRecord, receipts: Sequence[Receipt]) -> None:
    """What the coordinator says of a site's chain against the chain; Fault where it has what the site has not."""
    for receipt in receipts:
        place, number = receipt.place, receipt.number
        if number >= record.count:
            raise place.fault(
                f"entry {number} of site {record.site} is here, and that site's ledger ends before it: cut, or an older file was put back"
            )
        if receipt.last and number != record.count - 1:
            raise place.fault(f"the run ended at entry {number} of site {record.site}, and that site's ledger goes on")
        if receipt.of is not None:
            found = record.charges.get(number)
            if found is None or found[1:] != receipt.of:
                raise place.fault(
                    f"entry {number} of site {record.site} is no charge of round {receipt.of[0]}, attempt {receipt.of[1]} in its ledger"
                )
            record.received += 1
        hash = record.charges[number][0] if number in record.charges else record.head if receipt.last else record.first
        if hash != receipt.hash:
            raise place.fault(f"entry {number} of site {record.site} is another one in its ledger: forked, or begun again")
