"""kill -9 at random moments while an account is charged: no entry lost, none torn, never less spent than was released.

    python benchmarks/soak_account.py              200 kills
    python benchmarks/soak_account.py --kills 20

A child charges, "releases" (a byte, written before it goes on), settles, and starts again; it is killed after a random time, two
children at once in every third trial.  Also times the charge itself, one fsync on this disk.  Kept in results/soak_account.json.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from privacy.budget import Budget
from privacy.ledger.figures import Event, rho
from privacy.limits import Limit, Limits

RESULT = Path(__file__).parent / "results" / "soak_account.json"
EVENT = Event("dp_sgd", 900.0, 1.0, 1.0, 1, 10.0, "all", "subject", "add_remove", 1e-5)
MOST_MS = 5.0  # beyond the sync itself, which is the disk's


def opened(folder: Path) -> Budget:
    """The account of the soak, as a new process finds it."""
    limits = Limits(1e-5, "subject", "add_remove", Limit.of(500.0, 1e-5))
    return Budget(folder / "account", folder / "apart" / "head").open("soak", limits)


def release_for_ever(folder: Path, name: str) -> None:
    """Charge, release, settle, until killed."""
    budget = opened(folder)
    budget.join(name, "soak")
    with (folder / name).open("ab", buffering=0) as released:
        while True:
            number = len(budget.runs[name].charges)
            charge = budget.charge(name, EVENT, number, 1)
            released.write(b".")
            budget.settle(charge)


def trial(folder: Path, number: int, after: float) -> dict:
    """One kill; what was spent and released by then."""
    context = multiprocessing.get_context("fork")
    names = ["run a", "run b"] if number % 3 == 0 else ["run a"]
    children = [context.Process(target=release_for_ever, args=(folder, name)) for name in names]
    for child in children:
        child.start()
    time.sleep(after)
    for child in children:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    for child in children:
        child.join()
    budget = opened(folder)  # reads and checks every entry, and the head kept apart
    spent = {name: len(use.charges) for name, use in budget.runs.items()}
    released = {name: (folder / name).stat().st_size for name in spent if (folder / name).exists()}
    return {"after_s": after, "spent": sum(spent.values()), "released": sum(released.values()), "sound": all(spent[n] >= r for n, r in released.items())}  # fmt: skip


def synced(times: int = 200) -> float:
    """Milliseconds of one line appended and synced on this disk, the median."""
    with (Path(tempfile.mkdtemp()) / "line").open("ab", buffering=0) as file:
        spent = []
        for _ in range(times):
            began = time.perf_counter()
            file.write(b"x" * 500)
            os.fsync(file.fileno())
            spent.append(time.perf_counter() - began)
    return 1000 * sorted(spent)[times // 2]


def timed(charges: int = 200) -> float:
    """Milliseconds of a charge with its settling, the median."""
    budget = opened(Path(tempfile.mkdtemp()))
    budget.join("run", "soak")
    spent = []
    for number in range(charges):
        began = time.perf_counter()
        budget.settle(budget.charge("run", EVENT, number, 1))
        spent.append(time.perf_counter() - began)
    return 1000 * sorted(spent)[charges // 2]


def main() -> None:
    """Kill, count, keep, and exit 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    kills = parser.parse_args().kills
    rho(EVENT, [2.0])  # its accountant is imported before any child is forked
    folder, rng = Path(tempfile.mkdtemp()), random.Random(0)
    trials = [trial(folder, number, 0.02 + 0.2 * rng.random()) for number in range(kills)]
    over = max(t["spent"] - t["released"] for t in trials)
    ms, bare = timed(), synced()
    sound = all(t["sound"] for t in trials)
    print(
        f"{kills} kills: {trials[-1]['spent']:,} charges, {trials[-1]['released']:,} releases, sound {sound}; at most {over} charged in vain"
    )
    print(f"a charge with its settling: {ms:.2f} ms, where one line synced takes {bare:.2f} ms")
    kept = {"soak": "account", "kills": kills, "sound": sound, "charge_ms": ms, "one_sync_ms": bare, "trials": trials}
    RESULT.write_text(json.dumps(kept, indent=1) + "\n")
    if not sound or ms - bare > MOST_MS or not trials[-1]["released"]:
        raise SystemExit("not as promised")


if __name__ == "__main__":
    main()
