"""The figures of accuracy that the project promises, over seeds, kept under benchmarks/results/ and gone on with when cut off.

ELPV: on modules that no site holds, the federated model's AUC above the mean of the models of each site alone.
MNIST-5k: the quickstart (20 sites, Dirichlet 0.5) at 0.96 or more after its 30 rounds, in the mean over seeds.

    python benchmarks/soak_figures.py [--seeds 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scipy.stats import t

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results" / "soak_figures.json"
COMMAND = "import sys; from fedvision.cli import main; sys.exit(main())"
RUNS = [("elpv_modules", "simulate", "auc"), ("elpv_modules", "local", "auc"), ("quickstart", "simulate", "accuracy")]


def figure(config: str, kind: str, metric: str, seed: int) -> float:
    """The metric of one run."""
    settings = [f"seed={seed}", "evaluation.every=1000", "tracking.mlflow=null", "tracking.report=false"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, kind, str(ROOT / "configs" / f"{config}.yaml"), "--out", f"{folder}/run", "--json",
             *(word for setting in settings for word in ("--set", setting))],
            check=True, capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
    return float(json.loads(done.stdout.splitlines()[-1])["metrics"][metric])


def interval(values: list[float]) -> list[float]:
    """Mean and the ends of its 95 % interval (Student)."""
    mean = statistics.mean(values)
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return [mean, mean - half, mean + half]


def main() -> None:
    """Whatever is not kept yet, then the summary; exit code 1 where a figure is not reached."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    seeds = range(arguments.parse_args().seeds)
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {"runs": {}}
    for seed in seeds:
        for config, kind, metric in RUNS:
            name = f"{config} {kind} {metric} seed {seed}"
            if name not in kept["runs"]:
                kept["runs"][name] = figure(config, kind, metric, seed)
                KEPT.write_text(json.dumps(kept, indent=1) + "\n")
                print(name, kept["runs"][name], flush=True)
    elpv = [kept["runs"][f"elpv_modules simulate auc seed {s}"] - kept["runs"][f"elpv_modules local auc seed {s}"] for s in seeds]
    mnist = [kept["runs"][f"quickstart simulate accuracy seed {s}"] for s in seeds]
    kept["summary"] = {"elpv_auc_federated_minus_local": interval(elpv), "mnist5k_accuracy": interval(mnist), "seeds": len(seeds)}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(kept["summary"]))
    sys.exit(not (interval(elpv)[1] > 0 and statistics.mean(mnist) >= 0.96))


if __name__ == "__main__":
    main()
