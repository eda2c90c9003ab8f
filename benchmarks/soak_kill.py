"""kill -9 at random moments, then --resume: every run must end at the bytes of an undisturbed one.

    python benchmarks/soak_kill.py [--kills 20] [--seed 0] [--out benchmarks/results/soak_kill.json]

Each trial starts a run in a process of its own, kills it some moments after a round that is drawn by chance (or before the
first one), resumes it (every other trial kills the resumed run once more), and compares the SHA-256 of the final weights and
the rounds on record.  Seeded; the file is written after every trial, and a second call goes on where the first one stopped.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.seeds import stream

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "federation.rounds=12", "federation.sampling=fixed", "federation.cohort=6", "conditions.absent=0.1", "conditions.dropout=0.1",
    "training.batch_size=16", "training.momentum=0", "tracking.mlflow=null",
]  # fmt: skip
CASES: dict[str, list[str]] = {
    "fedavg": [*SMALL, "strategy.name=fedavg"],
    "fedadam": [*SMALL, "strategy.name=fedadam", "tracking.report=false"],
    "scaffold": [*SMALL, "strategy.name=scaffold", "tracking.report=false"],
    "fedbn": [*SMALL, "strategy.name=fedbn", "model.name=cnn", "model.width=4", "model.hidden=16", "model.norm=batch", "evaluation.server=null",
              "tracking.report=false"],
    "feddyn": [*SMALL, "strategy.name=feddyn", "federation.weighting=uniform", "tracking.report=false"],
    "fedrep": [*SMALL, "strategy.name=fedrep", "evaluation.server=null", "tracking.report=false"],
    "ditto": [*SMALL, "strategy.name=ditto", "tracking.report=false"],
    "fedbuff": [*SMALL[3:], "federation.rounds=24", "federation.sampling=all", "federation.cohort=null", "federation.weighting=uniform",
                "conditions.speed_sigma=1.0", "strategy.name=fedbuff", "strategy.buffer=2", "strategy.concurrency=4", "tracking.report=false"],
}  # fmt: skip


def start(arguments: list[str], log: Path) -> int:
    """The command in a forked process, which need not import torch again; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        from fedvision.cli import main

        sys.argv = ["fedvision", *arguments]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        os._exit(code)


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds after so many rounds are on record; rounds = -1: after the start of the process."""

    rounds: int
    seconds: float


def lines(run: Path) -> int:
    """Rounds on record in a run's folder; -1 where there is no record yet."""
    record = run / "rounds.jsonl"
    return record.read_bytes().count(b"\n") if record.exists() else -1


def finish(child: int, run: Path, moment: Moment | None = None) -> int | None:
    """Wait for `child`: its exit code, or None where it was killed at `moment`."""
    ends = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if ends is None and moment is not None and lines(run) >= moment.rounds:
            ends = time.monotonic() + moment.seconds
        if ends is not None and time.monotonic() >= ends:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.001)


def fresh(case: str, folder: Path) -> list[str]:
    """The command that begins a run of the case in `folder`."""
    settings = [part for setting in CASES[case] for part in ("--set", setting)]
    return ["simulate", str(ROOT / "configs" / "digits_iid.yaml"), *settings, "--out", str(folder)]


def outcome(folder: Path) -> dict[str, Any]:
    """What must not differ: the weights' hash, and which rounds are on record."""
    summary = json.loads((folder / "summary.json").read_text())
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    kept = [{key: r[key] for key in ("round", "answered", "missing", "train", "evaluation")} for r in rounds]
    return {"status": summary["status"], "model_sha256": summary["model_sha256"], "metrics": summary["metrics"], "rounds": kept}


def undisturbed(case: str, folder: Path) -> tuple[dict[str, Any], float]:
    """What a run ends at when nobody disturbs it, and the seconds that a round takes."""
    code = finish(start(fresh(case, folder / "undisturbed"), folder / "undisturbed.log"), folder / "undisturbed")
    if code != 0:
        raise RuntimeError(f"{case}: the undisturbed run ended with {code}: {(folder / 'undisturbed.log').read_text()[-2000:]}")
    record = (folder / "undisturbed" / "rounds.jsonl").read_text().splitlines()
    return outcome(folder / "undisturbed"), sum(json.loads(line)["seconds"]["total"] for line in record) / len(record)


def drawn(rng: np.random.Generator, rounds: int, round_seconds: float) -> Moment:
    """A moment: one in ten before the first round, else within two rounds' time of any round."""
    if rng.random() < 0.1:
        return Moment(-1, float(rng.random()))
    return Moment(int(rng.integers(rounds)), float(rng.random() * 2 * round_seconds))


def trial(case: str, folder: Path, moments: list[Moment], expected: dict[str, Any]) -> dict[str, Any]:
    """Begin a run, kill it at each of `moments`, let it end, and compare."""
    run, log, killed = folder / "run", folder / "trial.log", []
    for moment in [*moments, None]:
        resumable = (run / "config.yaml").exists() and (run / "summary.json").exists()
        if not resumable:
            shutil.rmtree(run, ignore_errors=True)  # killed before there was anything to go on from: begun again
        arguments = ["simulate", "--resume", str(run)] if resumable else fresh(case, run)
        code = finish(start(arguments, log), run, moment)
        if code is None:
            killed.append({"rounds_on_record": lines(run), "checkpoints": sorted(p.name for p in run.glob("checkpoints/*"))})
        elif code != 0:
            return {"same": False, "killed": killed, "error": f"exit code {code}: {log.read_text()[-600:]}"}
    ended = outcome(run)
    other = [key for key in expected if ended[key] != expected[key]]
    return {"same": not other, "killed": killed, "error": f"differs: {', '.join(other)}" if other else None}


def soak(kills: int, seed: int, out: Path, cases: list[str]) -> dict[str, Any]:
    """All trials that `out` does not hold yet; what it holds at the end."""
    plan = {"kills": kills, "seed": seed}
    kept = json.loads(out.read_text()) if out.exists() else {}
    results: dict[str, Any] = kept if kept.get("plan") == plan else {"plan": plan, "cases": {}}
    for heavy in ("simulations.baselines", "simulations.inline", "fedvision.tracking.report", "sklearn.datasets"):
        importlib.import_module(heavy)  # once, before the first fork

    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            folder = Path(scratch) / case
            folder.mkdir()
            expected, seconds = undisturbed(case, folder)
            said = results["cases"].setdefault(case, {"model_sha256": expected["model_sha256"], "trials": []})
            for number in range(len(said["trials"]), kills):
                draw = stream(seed, "kill", case, number)
                moments = [drawn(draw, len(expected["rounds"]), seconds) for _ in range(1 + number % 2)]
                place = folder / str(number)
                place.mkdir()
                said["trials"].append(trial(case, place, moments, expected))
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(results, indent=1) + "\n")
                print(f"{case} {number + 1}/{kills}: {said['trials'][-1]}", file=sys.stderr)
                shutil.rmtree(place)
    return results


def main() -> int:
    """Run the soak; 1 where any run ended elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="trials a case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak_kill.json")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    given = parser.parse_args()
    results = soak(given.kills, given.seed, given.out, given.cases)
    for case, said in results["cases"].items():
        same, killed = sum(t["same"] for t in said["trials"]), sum(len(t["killed"]) for t in said["trials"])
        print(f"{case}: {same} of {len(said['trials'])} runs ended at the undisturbed run's bytes, after {killed} kills")
    return 0 if all(t["same"] for said in results["cases"].values() for t in said["trials"]) else 1


if __name__ == "__main__":
    sys.exit(main())
