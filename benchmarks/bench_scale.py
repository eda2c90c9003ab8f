"""How a run's cost grows, what it costs beside Flower's runtime, and what the coordinator holds at large numbers of sites.

    python benchmarks/bench_scale.py [--only engines growth large many protected] [--draw docs/scale.png]

- engines: the same tiny run (digits, an MLP, 1,000 sites, 100 a round) by the `fedvision` command on each engine, from
  its start to its end, in wall seconds.
- growth: CPU seconds of a round, inline and vmap, where one of sites, cohort and model grows and the others stay.
- large: 1,000 sites of a model of 1.2 M parameters, all of them in each round; many: 100,000 tiny sites.  Wall seconds to
  the first round and of a round, and the peak of the coordinator's resident memory as Linux counts it (VmHWM), which has
  Python, torch and shared memory in it.
- protected: the tiny run under privacy and under masks, with 1,000 and 10,000 sites, 100 of them a round; wall seconds, most of
  which are the disk's: each charge is on it before the step that it pays for.

Figures are kept in benchmarks/results/bench_scale.json, part by part; --draw makes the picture of docs/scale.md of them.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEPT = HERE / "results" / "bench_scale.json"
COMMAND = "import sys; from fedvision.cli import main; sys.exit(main())"
Values = dict[str, Any]

TINY: Values = {
    "name": "bench-scale",
    "data": {"dataset": "digits", "test": 0.0},
    "partition": {"scheme": "iid", "sites": 1000, "min_examples": 1},
    "federation": {"rounds": 60, "sampling": "fixed", "cohort": 100},
    "model": {"name": "mlp", "width": 32},
    "training": {"epochs": None, "steps": 1, "batch_size": 10},
    "evaluation": {"every": 10_000, "sites": "none", "server": {"validation": 0.0, "test": 0.05}},
    "tracking": {"mlflow": None, "report": False, "checkpoints": 1},
}
LARGE = {
    "data": {"dataset": "mnist5k", "test": 0.0},
    "federation": {"rounds": 3, "sampling": "all"},
    "model": {"name": "cnn", "width": 32, "hidden": 370},
}


def of_noise(sites: int, cohort: int = 100, width: int = 32, rounds: int = 12) -> Values:
    """The tiny run on pictures of nothing, two and a half at each site."""
    return TINY | {
        "data": {
            "dataset": "brought",
            "source": f"{HERE / 'noise.py'}:noise",
            "options": {"images": max(1000, 5 * sites // 2)},
            "test": 0.0,
        },
        "partition": {"scheme": "iid", "sites": sites, "min_examples": 1},
        "federation": {"rounds": rounds, "sampling": "fixed", "cohort": cohort},
        "model": {"name": "mlp", "width": width},
    }


# ------------------------------------------------------------------------------------------------- whole runs


def command_run(values: Values, engine: str, workers: int = 1) -> dict[str, float]:
    """A run by the command: wall seconds in all, before the first round and of a round (median), and the peak of its memory."""
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "bench.yaml", Path(folder) / "run"
        config.write_text(json.dumps(values))  # JSON is YAML
        began = time.time()
        command = [sys.executable, "-c", COMMAND, "simulate", str(config), "--engine", engine, "--workers", str(workers), "--out", str(out)]
        with (Path(folder) / "said").open("w+") as said:
            process = subprocess.Popen(
                command,
                stdout=said,
                stderr=said,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "FEDVISION_STATE": folder},
            )
            peak = 0.0
            while process.poll() is None:
                peak = _high_water(process.pid) or peak
                time.sleep(0.02)
            took = time.time() - began
            if process.returncode:
                said.seek(0)
                raise SystemExit(f"{engine}: {said.read()[-2000:]}")
        records = [json.loads(line)["seconds"]["total"] for line in (out / "rounds.jsonl").read_text().splitlines()]
        first = (out / "rounds.jsonl").stat().st_mtime - sum(records) - began
    return {"seconds": took, "to_first_round_s": first, "round_s": statistics.median(records[1:]), "coordinator_mb": peak}


def _high_water(process: int) -> float | None:
    """MB (10^6 bytes) of resident memory at the process's peak; None once it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e6 if found else None


def engines() -> dict[str, Any]:
    """The tiny run end to end on each engine."""
    found = {name: command_run(TINY, name, workers) for name, workers in (("inline", 1), ("vmap", 1), ("ray", 2), ("flower", 2))}
    rounds, flower = TINY["federation"]["rounds"], found["flower"]
    faster = {name: {"whole": flower["seconds"] / f["seconds"], "a_round": flower["round_s"] / f["round_s"]} for name, f in found.items()}
    return {
        "rounds": rounds,
        "sites": 1000,
        "cohort": 100,
        "engines": found,
        "times_faster_than_flower": faster,
        "cores": len(os.sched_getaffinity(0)),
    }


def large() -> dict[str, Any]:
    """1,000 sites of 1.2 M parameters."""
    return {engine: command_run(TINY | LARGE, engine) for engine in ("inline", "ray")}


def many() -> dict[str, Any]:
    """100,000 tiny sites, and 1,000 of them."""
    return {f"{n:,} sites": {engine: command_run(of_noise(n), engine) for engine in ("inline", "vmap", "ray")} for n in (100_000, 1000)}


NOISE: Values = {"noise_multiplier": 1.0, "delta": 1e-5, "clip": 0.5}
PROTECTIONS: dict[str, Values] = {
    "example": {
        "privacy": {"mechanism": "dp_sgd", "sampling_rate": 0.5, "divisor": 2.0, **NOISE},
        "training": {"epochs": None, "steps": 1},
    },
    "site": {"privacy": {"mechanism": "central", **NOISE}},
    "masked": {"secure_aggregation": {"enabled": True}},
}


def protected() -> dict[str, Any]:
    """Example-level and site-level privacy, and masks."""
    found: dict[str, Any] = {}
    for sites in (1000, 10_000):
        for name, blocks in PROTECTIONS.items():
            values = of_noise(sites, rounds=5) | blocks
            values["federation"] = values["federation"] | {"weighting": "uniform", "min_replies": 67}
            found.setdefault(f"{sites:,} sites", {})[name] = command_run(values, "inline")
            print(f"protected, {sites:,} sites, {name}: {found[f'{sites:,} sites'][name]}", file=sys.stderr, flush=True)
    return found


# ------------------------------------------------------------------------------------------------- growth


def growth() -> dict[str, Any]:
    """Curves: a dimension -> an engine -> [size, CPU seconds of a round]."""
    dimensions: dict[str, tuple[tuple[int, ...], Callable[[int], Values]]] = {
        "sites": ((100, 1000, 10_000, 100_000), lambda n: of_noise(n)),
        "cohort": ((10, 30, 100, 300, 1000), lambda n: of_noise(1000, cohort=n)),
        "parameters": ((8, 32, 128, 512, 2048, 8192), lambda n: of_noise(1000, cohort=20, width=n, rounds=7)),
    }
    return {
        dimension: {engine: [a_round(values(size), engine) for size in sizes] for engine in ("inline", "vmap")}
        for dimension, (sizes, values) in dimensions.items()
    }


class Clock:
    """A recorder that takes the CPU time of each round."""

    def __init__(self) -> None:
        self.rounds: list[float] = []
        self._began = time.process_time()

    def asked(self, round: int, sites: int) -> None:
        """Nothing to show."""

    def replied(self) -> None:
        """Nothing to show."""

    def done(self, *_: object) -> None:
        """A round is over."""
        now = time.process_time()
        self.rounds.append(now - self._began)
        self._began = now


def a_round(values: Values, engine: str) -> dict[str, float]:
    """One point of a curve: the median over rounds, the first left out."""
    import torch

    from clients.workbench import Workbench
    from fedvision.data.federation import open_federated
    from fedvision.experiment import Experiment
    from fedvision.models import build
    from fedvision.schema import validate
    from server.checkpoints import Progress
    from server.rounds import Rounds
    from server.strategies import make_strategy
    from simulations.inline import Inline
    from simulations.vmapped import Vmapped

    torch.set_num_threads(1)
    experiment = validate(Experiment, values, "bench")
    data = open_federated(experiment)
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench.set_up(experiment, data.shape, data.classes, len(data.sites), Path(folder))
        exchange = {"inline": Inline, "vmap": Vmapped}[engine](data, bench, True)
        model = {n: t.clone() for n, t in build(experiment, data.shape, len(data.classes)).state_dict().items()}
        clock, strategy = Clock(), make_strategy(experiment.strategy)
        Rounds(experiment, "bench", exchange, strategy, bench.layout, lambda *_: {}, clock).run(strategy.init(model), Progress())
    found = {
        "sites": len(data.sites), "cohort": experiment.federation.cohort or 0, "parameters": sum(t.numel() for t in model.values()),
        "round_s": statistics.median(clock.rounds[1:]),
    }  # fmt: skip
    print(f"growth, {engine}: {found}", file=sys.stderr, flush=True)
    return found


# ------------------------------------------------------------------------------------------------- the picture


def draw(kept: dict[str, Any], out: Path) -> None:
    """A round's cost along each dimension, and the whole runs beside Flower's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.9), layout="constrained")
    panels = figure.subplots(1, 4)
    colours = {"inline": "tab:blue", "vmap": "tab:orange", "ray": "tab:green", "flower": "0.45"}
    titles = {
        "sites": "sites\n(100 of them a round)",
        "cohort": "sites asked a round\n(of 1,000)",
        "parameters": "model's parameters\n(20 of 1,000 sites a round)",
    }
    for axes, (dimension, curves) in zip(panels, kept["growth"].items(), strict=False):
        for engine, points in curves.items():
            axes.plot([p[dimension] for p in points], [1e3 * p["round_s"] for p in points], "o-", color=colours[engine], label=engine)
        axes.set(xscale="log", yscale="log", xlabel=titles[dimension], ylim=(1, 1000))
        axes.grid(alpha=0.25, which="major")
    panels[0].set_ylabel("a round, CPU milliseconds")
    panels[0].legend(frameon=False)
    whole = kept["engines"]
    names = list(whole["engines"])
    bars = panels[3].barh(names, [whole["engines"][n]["seconds"] for n in names], color=[colours[n] for n in names])
    panels[3].bar_label(bars, [f" {whole['engines'][n]['seconds']:.0f} s" for n in names])
    panels[3].invert_yaxis()
    panels[3].set_xlim(0, 1.25 * whole["engines"]["flower"]["seconds"])
    panels[3].set_xlabel(f"a whole run of {whole['rounds']} rounds, wall seconds\n(1,000 sites, 100 a round, {whole['cores']} cores)")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "engines": engines,
    "growth": growth,
    "large": large,
    "many": many,
    "protected": protected,
}


def main() -> None:
    """Measure the parts that are asked for, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS), help="parts to measure; none = measure nothing")
    parser.add_argument("--draw", type=Path, help="file for the picture")
    given = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for part in given.only:
        kept[part] = PARTS[part]()
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        print(json.dumps({part: kept[part]}))
    if given.draw is not None:
        draw(kept, given.draw)


if __name__ == "__main__":
    main()
