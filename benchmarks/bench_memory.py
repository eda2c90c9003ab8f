"""What a run holds at the coordinator, in models: ResNet18 (11 M parameters) on Ray, so that the sites are elsewhere.

A model is 4 bytes a parameter.  Counted is what is private to the coordinator's process (USS), at its peak, above what it
held when the first round began.  Prints one JSON object; the promise is four models for rules on sums.

    python benchmarks/bench_memory.py
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml

EXPERIMENT = {
    "name": "bench-memory",
    "data": {"dataset": "digits", "image_size": 32},
    "partition": {"scheme": "iid", "sites": 8},
    "federation": {"rounds": 3},
    "model": {"name": "torchvision/resnet18", "norm": "group"},
    "training": {"epochs": None, "steps": 1, "batch_size": 4},
    "evaluation": {"every": 1000, "sites": "none", "server": {"test": 0.05}},
    "tracking": {"mlflow": None, "report": False},
}
COMMAND = "import sys; from fedvision.cli import main; sys.exit(main())"


def watched(process: subprocess.Popen, samples: list[tuple[float, int]]) -> None:
    """The process's private memory, every few milliseconds."""
    seen = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            samples.append((time.time(), seen.memory_full_info().uss))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return
        time.sleep(0.02)


def main() -> None:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "c.yaml", Path(folder) / "run"
        config.write_text(yaml.safe_dump(EXPERIMENT))
        command = [sys.executable, "-c", COMMAND, "simulate", str(config), "--engine", "ray", "--workers", "1", "--out", str(out)]
        samples: list[tuple[float, int]] = []
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        watcher = threading.Thread(target=watched, args=(process, samples))
        watcher.start()
        process.wait()
        watcher.join()
        records = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
        summary = json.loads((out / "summary.json").read_text())
        ended = (out / "rounds.jsonl").stat().st_mtime
    first = ended - sum(record["seconds"]["total"] for record in records)
    model = 4 * summary["model_parameters"]
    base = [uss for at, uss in samples if at <= first][-1] - model  # the model itself is there when the first round begins
    peak = max(uss for at, uss in samples if first < at <= ended)
    figures = {"parameters": summary["model_parameters"], "models_above_base": (peak - base) / model, "base_mib": base / 2**20}
    said = json.dumps({"bench": "memory", **figures})
    (Path(__file__).parent / "results" / "bench_memory.json").write_text(said + "\n")
    print(said)


if __name__ == "__main__":
    main()
