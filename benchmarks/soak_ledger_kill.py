"""kill -9 at random moments while two processes charge one site's ledger: no entry lost, none torn, spent never below what was released.

    python benchmarks/soak_ledger_kill.py [--kills 200] [--seed 0] [--out benchmarks/results/soak_ledger_kill.json]

Each process charges, then releases (a line in a file of its own), then settles, over and over, until both are killed some
milliseconds later.  After every kill the ledger is read again: what it held before is still its beginning, every release has its charge,
every entry that was said to be written is there, and a third process can go on.  Exit code 1 where one is not so.
"""

import argparse
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LOCAL = {"mechanism": "local", "noise_multiplier": 300.0, "delta": 1e-2, "clip": 0.5}


def spend(ledger: Any, folder: Path, trial: int, worker: int) -> None:
    """Charge, release, settle, until killed."""
    released = os.open(folder / f"released-{trial}-{worker}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while True:
        request = f"{trial}-{worker}-{number}"
        ledger.charge(request, number, 1, "model", "0" * 64, 0.5)
        os.write(released, f"{request} {json.loads(ledger.entry(request))['body']['seq']}\n".encode())
        ledger.settle(request)
        number += 1


def forked(work: Any) -> int:
    """A process that does `work`; its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(1)


def soak(kills: int, seed: int) -> dict[str, Any]:
    """The kills, what stood in the ledger at the end, and what was wrong."""
    from privacy.ledger.keys import Keyring
    from privacy.ledger.site import SiteLedger, site_ledger_path
    from privacy.ledger.terms import Terms
    from privacy.plan import plan_of
    from simulations.rehearsal import planned

    draw, wrong, torn = np.random.default_rng(seed), [], 0
    experiment = planned(1, 10**6, pld_every=10**7, privacy=LOCAL)
    terms = Terms.of(experiment, plan_of(experiment))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["FEDVISION_STATE"] = f"{place}/state"
        key = Keyring.here().key("run", "a")
        SiteLedger(folder, key, "run", "a", terms).join()
        path, before = site_ledger_path(folder, "a"), b""
        for trial in range(kills):
            children = [
                forked(lambda n=number, t=trial: spend(SiteLedger(folder, key, "run", "a", terms), folder, t, n)) for number in range(2)
            ]
            time.sleep(float(draw.uniform(0.0, 0.15)))
            for child in children:
                os.kill(child, signal.SIGKILL)
            for child in children:
                os.waitpid(child, 0)
            content = path.read_bytes()
            torn += not content.endswith(b"\n")
            wrong += [f"trial {trial}: {said}" for said in faults(content, before, folder, trial)]
            before = content[: content.rfind(b"\n") + 1]
            ledger = SiteLedger(folder, key, "run", "a", terms)
            ledger.charge(f"after-{trial}", trial, 2, "model", "0" * 64, 0.5)  # raises LedgerDamaged where it cannot go on
        entries, charges = ledger.chain.count, ledger.rounds
        released = sum(len(p.read_text().splitlines()) for p in folder.glob("released-*"))
    return {"kills": kills, "seed": seed, "entries": entries, "charges": charges, "released": released, "torn_tails": torn, "wrong": wrong}


def faults(content: bytes, before: bytes, folder: Path, trial: int) -> list[str]:
    """What one kill did that it must not."""
    if not content.startswith(before):
        return ["what was written before is not there any more"]
    bodies = [json.loads(line)["body"] for line in content.split(b"\n")[:-1]]
    said = [f"line {n + 1} is entry {body['seq']}" for n, body in enumerate(bodies) if body["seq"] != n]
    for file in folder.glob(f"released-{trial}-*"):
        for line in file.read_text().splitlines():
            request, number = line.split()
            body = bodies[int(number)] if int(number) < len(bodies) else {}
            if body.get("request") != request:
                said.append(f"{request} was released, and its charge, entry {number}, is lost")
    return said


def main() -> int:
    """Soak, print, keep; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "soak_ledger_kill.json")
    given = parser.parse_args()
    found = soak(given.kills, given.seed)
    print(json.dumps(found, indent=1))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    return bool(found["wrong"])


if __name__ == "__main__":
    raise SystemExit(main())
