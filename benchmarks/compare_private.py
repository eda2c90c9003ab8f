"""What a promise costs in accuracy: private runs beside the same runs without privacy, with seeds and intervals.

    python benchmarks/compare_private.py [--out benchmarks/results/compare_private.json] [--only digits …] [--seeds 8]

digits   one site that holds all of the training digits; example-level DP-SGD at ε = 3, δ = 1e-4
mnist    MNIST-5k over 10 sites, each with its full noise; ε = 8, δ = 1e-4; views and an average of the noisy weights
subjects configs/subject_dp.yaml: solar cells of 44 modules, ε = 8, δ = 0.01 for a module with all of its cells

A seed draws the split into training and test data, the first weights and the partition; the noise is the operating system's, so no run
repeats.  Settings were tuned on seeds 100 and above, which draw other splits of the same public images: what that tuning saw is not
charged, as it would have to be with private ones.  Every run is kept, and a second call goes on where the first one stopped.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from fedvision.experiment import Experiment, load
from fedvision.schema import validate
from simulations.run import simulate

ROOT = Path(__file__).resolve().parents[1]
T_95 = {3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t, two-sided, by degrees of freedom
Settings = dict[str, Any]
CONFIG = load(ROOT / "configs" / "subject_dp.yaml").model_dump(mode="json")

DIGITS: Settings = {
    "data": {"dataset": "digits"},
    "partition": {"scheme": "iid", "sites": 1},
    "federation": {"rounds": 100},
    "model": {"name": "cnn", "norm": "group", "width": 16, "hidden": None},
    "training": {"steps": 1, "learning_rate": 3.0, "schedule": "cosine", "schedule_per": "round"},
    "privacy": {"mechanism": "dp_sgd", "epsilon": 3.0, "delta": 1e-4, "sampling_rate": 1.0, "divisor": 1437.0, "clip": 1.0, "ema": 0.9},
}
MNIST: Settings = {
    "data": {"dataset": "mnist5k"},
    "partition": {"scheme": "iid", "sites": 10},
    "federation": {"rounds": 80},
    "model": {"name": "cnn", "norm": "group", "width": 8, "hidden": None},
    "training": {"steps": 1, "learning_rate": 10.0, "schedule": "cosine", "schedule_per": "round"},
    "privacy": {
        "mechanism": "dp_sgd", "epsilon": 8.0, "delta": 1e-4, "sampling_rate": 0.25, "divisor": 100.0, "clip": 0.3, "ema": 0.9,
        "views": 2, "shift": 1,
    },
}  # fmt: skip
PLAIN: Settings = {  # the same run without privacy: as many steps, of a batch of the expected size
    **{key: block for key, block in MNIST.items() if key != "privacy"},
    "federation": {"rounds": 80, "weighting": "uniform"},
    "training": {
        "steps": 1, "epochs": None, "batch_size": 100, "learning_rate": 0.5, "gradient_clip": 1.0, "schedule": "cosine", "schedule_per": "round",
    },
    "evaluation": {"sites": "none"},
}  # fmt: skip
SUBJECTS: Settings = {key: block for key, block in CONFIG.items() if key not in ("name", "seed", "evaluation", "tracking")}
RUNS = {"digits": DIGITS, "mnist": MNIST, "mnist without privacy": PLAIN, "subjects": SUBJECTS}


def accuracy(setting: Settings, seed: int) -> dict[str, float]:
    """On the coordinator's test data, after the last round.  balanced: the mean over classes, which is 1/2 for guesses at two."""
    common: Settings = {
        "seed": seed, "evaluation": {"server": {"validation": 0.0, "test": 0.2}, "every": setting["federation"]["rounds"]},
        "tracking": {"mlflow": None, "report": False, "checkpoints": 1},
    }  # fmt: skip
    values = {**setting, **common, "evaluation": {**setting.get("evaluation", {}), **common["evaluation"]}}
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        _, summary = simulate(validate(Experiment, values, "compare_private"), Path(folder) / "run", None, quiet=True)
    found, seconds = summary["metrics"], round(time.process_time() - began, 1)
    return {
        "seed": seed,
        "accuracy": found["accuracy"],
        "balanced": found["balanced_accuracy"],
        "auc": found.get("auc"),
        "cpu_seconds": seconds,
    }


def told(figures: list[float]) -> dict[str, float]:
    """Mean, half the width of its 95 % interval, and the lowest."""
    n, mean = len(figures), sum(figures) / len(figures)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in figures) / (n - 1)) if n > 1 else float("nan")
    return {"runs": n, "mean": mean, "interval": T_95.get(n - 1, 2.0) * deviation / math.sqrt(n), "lowest": min(figures)}


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "compare_private.json")
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seeds", type=int, default=8)
    given = parser.parse_args()
    kept: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.only:
        mine = kept.get(name, {})
        if mine.get("setting") != RUNS[name]:
            mine = {"setting": RUNS[name], "runs": []}
        for seed in range(given.seeds):
            if all(run["seed"] != seed for run in mine["runs"]):
                mine["runs"].append(accuracy(RUNS[name], seed))
                mine["accuracy"] = told([run["accuracy"] for run in mine["runs"]])
                mine["balanced"] = told([run["balanced"] for run in mine["runs"]])
                kept = (json.loads(given.out.read_text()) if given.out.exists() else {}) | {name: mine}
                given.out.write_text(json.dumps(kept, indent=1) + "\n")
        for kind in ("accuracy", "balanced"):
            f = mine[kind]
            print(f"{name:24} {kind:9} {f['mean']:.3f} ± {f['interval']:.3f}  lowest {f['lowest']:.3f}  ({f['runs']} runs)")


if __name__ == "__main__":
    main()
