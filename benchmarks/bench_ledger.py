"""What the record of a private run costs: charging beside a site's training, and checking it all afterwards.

    python benchmarks/bench_ledger.py [--entries 100000] [--out benchmarks/results/bench_ledger.json]

Limits: a run of 100,000 entries (10 sites, 20 PLD checkpoints each) verifies in under 60 s; charging takes under 5 ms a site and round,
the coordinator's share included, on the disk of the machine.  Exit code 1 where one is not kept.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

LIMITS = {"verify_seconds": 60.0, "charge_ms_a_site_and_round": 5.0}
SITES, MARKS = 10, 20
OVERHEAD = 2  # entries of the coordinator a round


def verified(entries: int) -> dict[str, Any]:
    """Seconds to verify a run of about `entries` entries, in a process that has recomputed none of its figures."""
    from privacy.accountants import _pld
    from privacy.ledger.figures import _rho, prv_epsilon
    from privacy.ledger.keys import Roster, roster_path
    from privacy.ledger.verify import verify
    from simulations.rehearsal import begin, planned, play

    rounds = entries // (2 * SITES + OVERHEAD)
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # where syncing is free: what is measured is the reading
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        ledgers = begin(planned(SITES, rounds, pld_every=-(-rounds // MARKS)), Path(folder) / "run")
        began = time.perf_counter()
        play(ledgers, range(rounds))
        written = time.perf_counter() - began
        ledgers.close()
        for cached in (_pld, _rho, prv_epsilon):
            cached.cache_clear()
        roster = Roster.read(roster_path(ledgers.coordinator.run))
        began, busy = time.perf_counter(), time.process_time()
        found = verify(Path(folder) / "run", roster)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        size = sum(path.stat().st_size for path in Path(folder).rglob("ledger.jsonl"))
    assert found.closed and not found.notes
    return {
        "entries": found.entries, "verify_seconds": seconds, "verify_cpu_seconds": busy, "megabytes": size / 1e6,
        "write_us_an_entry": 1e6 * written / found.entries,
    }  # fmt: skip


def charged(rounds: int = 60) -> dict[str, Any]:
    """Milliseconds that a round's record takes a site, and the coordinator for a site; and what one sync of this disk takes."""
    from privacy.account import request_hash, state_hash
    from simulations.rehearsal import asked, begin, planned

    site_ms, coordinator_ms, sync_ms = [], [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, (Path(folder) / "raw").open("wb", buffering=0) as raw:
        ledgers = begin(planned(SITES, rounds), Path(folder) / "run")
        opened = {site: ledgers.of(site) for site in ledgers.sites}
        busy = time.process_time()
        for number in range(rounds):
            request = asked(ledgers, number)
            began = time.perf_counter()
            witness = ledgers.coordinator.request(request, ledgers.sites)
            coordinator = time.perf_counter() - began
            of, model = request_hash(request), state_hash(request.model)
            sent = type(request)(request.run, number, 1, request.model, witness=witness)
            charges = {}
            for site, ledger in opened.items():
                began = time.perf_counter()
                ledger.charge(of, number, 1, model, witness, 1.0)
                line = ledger.entry(of)
                ledger.settle(of)
                middle = time.perf_counter()
                charges[str(site)] = ledgers.coordinator.checked(site, line, sent)
                coordinator += time.perf_counter() - middle
                site_ms.append(1e3 * (middle - began))
            began = time.perf_counter()
            ledgers.coordinator.receive(number, 1, charges)
            coordinator_ms.append(1e3 * (coordinator + time.perf_counter() - began) / SITES)
            began = time.perf_counter()
            raw.write(bytes(1500))
            os.fsync(raw.fileno())
            sync_ms.append(1e3 * (time.perf_counter() - began))
    busy = 1e3 * (time.process_time() - busy) / (rounds * SITES)
    total = statistics.median(site_ms) + statistics.median(coordinator_ms)
    return {
        "charge_ms_a_site_and_round": total, "site_ms": statistics.median(site_ms), "coordinator_ms_a_site": statistics.median(coordinator_ms),
        "charge_cpu_ms": busy, "one_sync_ms": statistics.median(sync_ms),
    }  # fmt: skip


def main() -> int:
    """Measure, print, keep; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bench_ledger.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        os.environ["FEDVISION_STATE"] = state
        found = {**charged(), **verified(given.entries), "limits": LIMITS, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps(found, indent=1))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    broken = [name for name, limit in LIMITS.items() if found[name] >= limit]
    for name in broken:
        print(f"{name} = {found[name]:.3g}, and the limit is {LIMITS[name]:g}")
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main())
