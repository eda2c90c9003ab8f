"""How long `fedvision --help` takes: below 0.5 s, because torch is not imported for it.

python benchmarks/bench_cli.py
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
LIMIT = 0.5  # seconds
REPEATS = 15


def timed(command: list[str]) -> tuple[float, float]:
    """(wall, CPU) seconds of a command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure, keep, and say; 1 where it takes longer."""
    fedvision = Path(sys.executable).with_name("fedvision")
    times = [timed([str(fedvision), "--help"]) for _ in range(REPEATS)]
    bare = [timed([sys.executable, "-c", "pass"]) for _ in range(REPEATS)]
    said = {
        "wall_seconds_best": min(wall for wall, _ in times),
        "wall_seconds_median": sorted(wall for wall, _ in times)[REPEATS // 2],
        "cpu_seconds_median": sorted(cpu for _, cpu in times)[REPEATS // 2],
        "bare_python_wall_seconds_best": min(wall for wall, _ in bare),
        "limit_seconds": LIMIT,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench_cli.json").write_text(json.dumps(said, indent=1) + "\n")
    print(json.dumps(said))
    return 0 if said["wall_seconds_best"] < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
