"""A round on Ray beside the same round in a loop: MNIST-5k, a CNN of 1.2 M parameters, 100 sites, 20 a round, 4 steps of 10.

Prints one JSON line: medians over rounds in seconds, the ratios, and the seconds from the start of the `fedvision`
command to the first request of a round.  `ceiling` is what this machine gives two loops that share nothing, side by side,
over one alone: two workers cannot do better.  Run it on a machine with nothing else to do:

    python benchmarks/bench_ray.py [--rounds 5]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

EXPERIMENT: dict[str, Any] = {
    "name": "bench-ray",
    "data": {"dataset": "mnist5k"},
    "partition": {"scheme": "iid", "sites": 100},
    "federation": {"rounds": 1, "sampling": "fixed", "cohort": 20},
    "model": {"name": "cnn", "width": 32, "hidden": 370},
    "training": {"batch_size": 10, "epochs": None, "steps": 4},
    "evaluation": {"every": 1000, "sites": "none", "server": {"validation": 0.0, "test": 0.02}},
    "tracking": {"mlflow": None, "report": False},
}
COMMAND = "import sys; from fedvision.cli import main; sys.exit(main())"


def rounds(config: Path, engine: str, workers: int, number: int, folder: Path) -> tuple[list[float], float]:
    """Seconds of each round but the first, and from the command's start to the first round's."""
    out = folder / f"{engine}-{workers}-{time.time_ns()}"
    settings = ["--set", f"federation.rounds={number + 1}", "--workers", str(workers)]
    began = time.time()
    subprocess.run(
        [sys.executable, "-c", COMMAND, "simulate", str(config), "--engine", engine, "--out", str(out), *settings],
        check=True, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    records = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    ended = (out / "rounds.jsonl").stat().st_mtime - sum(record["seconds"]["total"] for record in records)
    return [record["seconds"]["total"] - record["seconds"]["evaluate"] for record in records[1:]], ended - began


def main() -> None:
    """Loop, Ray with one worker and with two, twice each and in turns, so that a busy moment falls on all alike."""
    import yaml

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="rounds measured in each run")
    number = arguments.parse_args().rounds
    seconds: dict[str, list[float]] = {"inline": [], "ray 1": [], "ray 2": []}
    starts: dict[str, list[float]] = {name: [] for name in seconds}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "bench.yaml"
        config.write_text(yaml.safe_dump(EXPERIMENT))
        for engine, workers in [("inline", 1), ("ray", 1), ("ray", 2)] * 2:
            name = engine if engine == "inline" else f"ray {workers}"
            took, start = rounds(config, engine, workers, number, Path(folder))
            seconds[name] += took
            starts[name].append(start)
        with ThreadPoolExecutor(2) as pool:
            side_by_side = list(pool.map(lambda _: rounds(config, "inline", 1, number, Path(folder))[0], range(2)))
    medians = {name: statistics.median(took) for name, took in seconds.items()}
    result = {
        "benchmark": "ray",
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "seconds_a_round": medians,
        "ray_1_over_inline": medians["inline"] / medians["ray 1"],
        "ray_2_over_inline": medians["inline"] / medians["ray 2"],
        "ceiling": 2 * medians["inline"] / statistics.median(side_by_side[0] + side_by_side[1]),
        "seconds_to_first_round": {name: min(values) for name, values in starts.items()},
        "rounds": number * 2,
    }
    said = json.dumps(result)
    (Path(__file__).parent / "results" / "bench_ray.json").write_text(said + "\n")
    print(said)


if __name__ == "__main__":
    main()
