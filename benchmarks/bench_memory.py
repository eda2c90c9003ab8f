"""What a run holds at the coordinator, in models: ResNet18 and ResNet50 (11 and 24 M parameters) on Ray, so that the sites are elsewhere.

A model is 4 bytes a parameter.  Counted is what is private to the coordinator's process (USS), at its peak.  Two sizes give
the line peak = base + models x size: `models` is its slope, `base_mib` what it holds whatever the model.  Beside it, for
each size, the peak above what the process held when the first round began (in which the heap's growth counts as model).
Prints one JSON object; exit 1 above the promise, which is four models for rules on sums.

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


def held(model: str) -> tuple[int, int, int]:
    """Of one run: bytes of the model, of the process when the first round began, and at the peak of the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "c.yaml", Path(folder) / "run"
        config.write_text(yaml.safe_dump(EXPERIMENT | {"model": {"name": model, "norm": "group"}}))
        command = [sys.executable, "-c", COMMAND, "simulate", str(config), "--engine", "ray", "--workers", "1", "--out", str(out)]
        samples: list[tuple[float, int]] = []
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        watcher = threading.Thread(target=watched, args=(process, samples))
        watcher.start()
        process.wait()
        watcher.join()
        records = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
        size = 4 * json.loads((out / "summary.json").read_text())["model_parameters"]
        ended = (out / "rounds.jsonl").stat().st_mtime
    first = ended - sum(record["seconds"]["total"] for record in records)
    before = [uss for at, uss in samples if at <= first][-1]
    return size, before, max(uss for at, uss in samples if first < at <= ended)


def main() -> int:
    """Two runs and the line through them."""
    sizes, befores, peaks = zip(*(held(model) for model in ("torchvision/resnet18", "torchvision/resnet50")), strict=True)
    slope = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    above = [(peak - before) / size + 1 for size, before, peak in zip(sizes, befores, peaks, strict=True)]  # one is there when it begins
    figures = {
        "parameters": [size // 4 for size in sizes], "models": slope, "base_mib": (peaks[0] - slope * sizes[0]) / 2**20, "models_above_start": above,
    }  # fmt: skip
    said = json.dumps({"bench": "memory", **figures})
    (Path(__file__).parent / "results" / "bench_memory.json").write_text(said + "\n")
    print(said)
    return int(slope > 4)


if __name__ == "__main__":
    sys.exit(main())
