"""The federated algorithms beside FedAvg, each on a small problem on which its paper claims a gain.

    python benchmarks/compare_algorithms.py [--out benchmarks/results/compare_algorithms.json] [--only shards fair …]

Each algorithm's learning rates and its own number are tuned by the problem's own figure on two seeds (100, 101), as many
combinations for each, and measured on ten others (0 to 9), which also draw other partitions.  A difference to FedAvg is
over the same seeds, with its 95 % interval (Student's t, 9 degrees of freedom).  Every run is kept, so that a second call
goes on where the first one stopped; the tables are printed at the end, as docs/algorithms.md has them.
"""

import argparse
import hashlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.tracking.folder import write_atomically
from simulations.run import simulate

ROOT = Path(__file__).resolve().parents[1]
TUNED_ON, MEASURED_ON = (100, 101), tuple(range(10))
T_95 = 2.262  # of Student's t with 9 degrees of freedom, two-sided
Settings = dict[str, Any]
RATES = [0.1, 0.3, 1.0]

COMMON: Settings = {
    "data": {"dataset": "digits"},
    "model": {"name": "mlp", "width": 64},
    "tracking": {"mlflow": None, "report": False, "checkpoints": 1},
}
SHARDS = {"scheme": "shards", "sites": 20, "shards_per_site": 2}
SERVER = {"sites": "none", "server": {"test": 0.2}}


@dataclass(frozen=True)
class Problem:
    """A setting, the algorithms in it (blocks that replace the setting's; lists are tuned), and what is read off a run.

    figures: name -> how it is read off the rounds' records; the first one is what is tuned for.
    """

    says: str
    setting: Settings
    algorithms: Mapping[str, Settings]
    figures: Mapping[str, Callable[[list[dict[str, Any]]], float]]
    also: Mapping[str, Settings] = field(default_factory=dict)  # further conditions, measured with what was tuned


def server(after: int) -> Callable[[list[dict[str, Any]]], float]:
    """Accuracy on the coordinator's test data after so many rounds."""
    return lambda records: float(records[after - 1]["evaluation"]["server"]["test"]["accuracy"])


def of_sites(kind: str, what: str = "sites") -> Callable[[list[dict[str, Any]]], float]:
    """Of the sites' accuracies on their own test data, at the end: mean, worst or spread."""
    return lambda records: float(records[-1]["evaluation"][what][kind]["accuracy"])


def tenth(records: list[dict[str, Any]]) -> float:
    """Mean accuracy of the worst tenth of the sites."""
    accuracies = sorted(site["accuracy"] for site in records[-1]["evaluation"]["sites"]["per_site"].values())
    return float(np.mean(accuracies[: max(1, len(accuracies) // 10)]))


def within(seconds: float) -> Callable[[list[dict[str, Any]]], float]:
    """Accuracy on the coordinator's test data at the last evaluation within so many simulated seconds."""

    def read(records: list[dict[str, Any]]) -> float:
        passed, found = 0.0, 0.1  # nothing learned: ten classes
        for record in records:
            passed += record["simulated_seconds"]
            if passed <= seconds and record["evaluation"]:
                found = float(record["evaluation"]["server"]["test"]["accuracy"])
        return found

    return read


def strategy(name: str, **options: Any) -> Settings:
    """A block of the algorithm's own; a list is a grid."""
    return {"name": name, **options}


UNIFORM = {"weighting": "uniform"}
PROBLEMS: dict[str, Problem] = {
    "shards": Problem(
        "two digits a site, 10 of 20 sites a round, three passes: accuracy on the coordinator's test data",
        {
            "partition": SHARDS,
            "federation": {"rounds": 30, "sampling": "fixed", "cohort": 10, "weighting": "uniform"},
            "training": {"batch_size": 16, "epochs": 3, "learning_rate": RATES},
            "evaluation": {**SERVER, "every": 10},
        },
        {
            "fedavg": {"strategy": strategy("fedavg", server_learning_rate=[1.0, 1.5, 2.0])},
            "fedavgm": {"strategy": strategy("fedavgm", momentum=[0.5, 0.7, 0.9])},
            "fedprox": {"strategy": strategy("fedprox", mu=[0.01, 0.1, 1.0])},
            "scaffold": {"strategy": strategy("scaffold", server_learning_rate=[1.0, 1.5, 2.0])},
            "feddyn": {"strategy": strategy("feddyn", alpha=[0.01, 0.1, 1.0])},
            "fedadam": {"strategy": strategy("fedadam", server_learning_rate=[0.01, 0.03, 0.1])},
            "fedyogi": {"strategy": strategy("fedyogi", server_learning_rate=[0.01, 0.03, 0.1])},
            "fedadagrad": {"strategy": strategy("fedadagrad", server_learning_rate=[0.03, 0.1, 0.3])},
        },
        {"after 30 rounds": server(30), "after 10 rounds": server(10)},
    ),
    "unequal": Problem(
        "Dirichlet 0.1 over 10 sites of very unequal size (log-normal, σ = 1.5), five of them a round, eight passes: accuracy on the coordinator's test data",
        {
            "partition": {"scheme": "dirichlet", "sites": 10, "alpha": 0.1, "sizes": "lognormal", "sizes_sigma": 1.5},
            "federation": {"rounds": 20, "sampling": "fixed", "cohort": 5},
            "training": {"batch_size": 8, "epochs": 8, "learning_rate": RATES},
            "evaluation": {**SERVER, "every": 10},
        },
        {
            "fedavg": {"strategy": strategy("fedavg", server_learning_rate=[1.0, 1.5, 2.0])},
            "fednova": {"strategy": strategy("fednova", server_learning_rate=[1.0, 1.5, 2.0])},
        },
        {"after 20 rounds": server(20), "after 10 rounds": server(10)},
    ),
    "personal": Problem(
        "two digits a site, 10 of 20 sites a round, 20 rounds of two passes: accuracy of the model that each site uses, on its own test data",
        {
            "partition": SHARDS,
            "federation": {"rounds": 20, "sampling": "fixed", "cohort": 10},
            "training": {"batch_size": 16, "epochs": 2, "learning_rate": RATES},
            "evaluation": {"sites": "all", "every": 20},
        },
        {
            "fedavg": {"strategy": strategy("fedavg", server_learning_rate=[1.0, 1.5, 2.0])},
            "fedrep": {"strategy": strategy("fedrep", head_epochs=[1, 2, 4])},
            "ditto": {"strategy": strategy("ditto", mu=[0.01, 0.1, 1.0])},
        },
        {"mean of the sites": of_sites("mean"), "worst site": of_sites("worst")},
    ),
    "fair": Problem(
        "Dirichlet 0.3 over 20 sites, all of them in each of 30 rounds: accuracy of the shared model on the sites' own test data",
        {
            "partition": {"scheme": "dirichlet", "sites": 20, "alpha": 0.3, "min_examples": 10},
            "federation": {"rounds": 30, "weighting": "uniform"},
            "training": {"batch_size": 16, "epochs": 1, "learning_rate": RATES},
            "evaluation": {"sites": "all", "every": 30},
        },
        {
            "fedavg": {"strategy": strategy("fedavg", server_learning_rate=[0.7, 1.0, 1.5, 2.0])},
            "qfedavg": {"strategy": strategy("qfedavg", q=[0.1, 1.0], server_learning_rate=[1.0, 2.0])},
            "afl": {"strategy": strategy("afl", mixture_learning_rate=[0.01, 0.1], server_learning_rate=[1.0, 1.5])},
        },
        {"worst tenth of the sites": tenth, "mean of the sites": of_sites("mean"), "spread over the sites": of_sites("spread")},
    ),
    "small": Problem(
        "the same, but the model's hidden layer has 4 units, too few for all sites at once: accuracy on the sites' own test data",
        {
            "partition": {"scheme": "dirichlet", "sites": 20, "alpha": 0.3, "min_examples": 10},
            "model": {"name": "mlp", "width": 4},
            "federation": {"rounds": 30, "weighting": "uniform"},
            "training": {"batch_size": 16, "epochs": 1, "learning_rate": RATES},
            "evaluation": {"sites": "all", "every": 30},
        },
        {
            "fedavg": {"strategy": strategy("fedavg", server_learning_rate=[0.7, 1.0, 1.5, 2.0])},
            "qfedavg": {"strategy": strategy("qfedavg", q=[1.0, 3.0], server_learning_rate=[1.0, 3.0])},
            "afl": {"strategy": strategy("afl", mixture_learning_rate=[0.03, 0.1], server_learning_rate=[1.0, 1.5])},
        },
        {"worst tenth of the sites": tenth, "mean of the sites": of_sites("mean"), "spread over the sites": of_sites("spread")},
    ),
    "attack": Problem(
        "Dirichlet 1 over 15 sites, three of which send four times their update the wrong way: accuracy on the coordinator's test data",
        {
            "partition": {"scheme": "dirichlet", "sites": 15, "alpha": 1.0},
            "federation": {"rounds": 20, "weighting": "uniform", "min_replies": 9},
            "conditions": {"misbehaving": {"site-003": "opposite", "site-007": "opposite", "site-011": "opposite"}},
            "training": {"batch_size": 16, "epochs": 2, "learning_rate": RATES},
            "evaluation": {**SERVER, "every": 20},
        },
        {
            "fedavg": {"strategy": strategy("fedavg")},
            "median": {"strategy": strategy("median")},
            "trimmed_mean": {"strategy": strategy("trimmed_mean", trim=0.2)},
            "krum": {"strategy": strategy("krum", byzantine=3)},
            "multi_krum": {"strategy": strategy("multi_krum", byzantine=3)},
        },
        {"after 20 rounds": server(20)},
        {"nobody attacks": {"conditions": {"misbehaving": {}}}},
    ),
    "slow": Problem(
        "Dirichlet 0.5 over 40 sites whose slowness is log-normal with σ = 1.5, ten at work at once: accuracy on the coordinator's test data",
        {
            "partition": {"scheme": "dirichlet", "sites": 40, "alpha": 0.5},
            "federation": {"rounds": 20, "weighting": "uniform"},
            "conditions": {"speed_sigma": 1.5},
            "training": {"batch_size": 16, "epochs": 2, "learning_rate": RATES},
            "evaluation": {**SERVER, "every": 1},
        },
        {
            "fedavg": {"strategy": strategy("fedavg"), "federation": {"sampling": "fixed", "cohort": 10, "rounds": 20}},
            "fedbuff": {"strategy": strategy("fedbuff", buffer=5, concurrency=10), "federation": {"rounds": 130}},
        },
        {"within 4 simulated seconds": within(4.0), "within 12": within(12.0)},
    ),
}


def grid(block: Settings) -> Iterator[Settings]:
    """Every combination of the lists in the block's sections."""
    places = [(section, key) for section, values in block.items() for key, value in values.items() if isinstance(value, list)]
    for chosen in itertools.product(*(block[section][key] for section, key in places)):
        picked = {section: dict(values) for section, values in block.items()}
        for (section, key), value in zip(places, chosen, strict=True):
            picked[section][key] = value
        yield picked


def merged(*blocks: Settings) -> Settings:
    """Sections of the later blocks over those of the earlier ones."""
    whole: Settings = {}
    for block in blocks:
        for section, values in block.items():
            whole[section] = {**whole.get(section, {}), **values}
    return whole


def chosen(problem: str, settings: Settings) -> Settings:
    """What of the settings was tuned."""
    spec = PROBLEMS[problem]
    grids = merged(spec.setting, spec.algorithms[settings["strategy"]["name"]])
    return {key: settings[s][key] for s, block in grids.items() for key, value in block.items() if isinstance(value, list)}


class Runs:
    """The figures of every run so far, by what was run; kept in a file as they come."""

    def __init__(self, out: Path):
        self.out = out
        found = json.loads(out.read_text()) if out.exists() else {"runs": {}, "tables": {}}
        self.kept: dict[str, dict[str, float]] = found["runs"]
        self.tables: dict[str, Any] = found["tables"]
        self.seconds = 0.0

    def figures(self, problem: str, settings: Settings, seed: int) -> dict[str, float]:
        """What a run ends at; from the file where it is there."""
        spelled = json.dumps(settings, sort_keys=True)
        key = f"{problem} {settings['strategy']['name']} {chosen(problem, settings)} seed {seed} #{hashlib.sha256(spelled.encode()).hexdigest()[:8]}"
        if key not in self.kept:
            began = time.process_time()
            wanted = validate(Experiment, {**merged(COMMON, settings), "seed": seed}, key)
            with tempfile.TemporaryDirectory() as folder:
                records = simulate(wanted, Path(folder) / "run", None, quiet=True)[0].rounds()
            self.kept[key] = {name: read(records) for name, read in PROBLEMS[problem].figures.items()}
            self.seconds += time.process_time() - began
            self.write()
        return self.kept[key]

    def write(self) -> None:
        """All runs, and the tables made of them; whole or not at all."""
        said = {"tuned_on": TUNED_ON, "measured_on": MEASURED_ON, "tables": self.tables, "runs": self.kept}
        write_atomically(self.out, (json.dumps(said, indent=1) + "\n").encode())


def tuned(runs: Runs, problem: str, algorithm: str) -> Settings:
    """The combination with the best first figure on the seeds for tuning; of equal ones, the first."""
    spec = PROBLEMS[problem]
    main = next(iter(spec.figures))
    block = merged(spec.setting, spec.algorithms[algorithm])
    return max(grid(block), key=lambda picked: np.mean([runs.figures(problem, picked, seed)[main] for seed in TUNED_ON]))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval."""
    return float(np.mean(values)), float(T_95 * np.std(values, ddof=1) / len(values) ** 0.5)


def table(runs: Runs, problem: str) -> dict[str, Any]:
    """For each algorithm what was tuned, and each figure's mean and interval, and those of its difference to FedAvg."""
    spec, rows, plain = PROBLEMS[problem], {}, {}
    for algorithm in spec.algorithms:
        settings = tuned(runs, problem, algorithm)
        row: dict[str, Any] = {"tuned": chosen(problem, settings), "figures": {}}
        for condition, change in {"": {}, **spec.also}.items():
            found = [runs.figures(problem, merged({**settings, **change}), seed) for seed in MEASURED_ON]
            for name in spec.figures:
                values, label = [f[name] for f in found], f"{name}, {condition}" if condition else name
                plain.setdefault(label, values)  # FedAvg is the first of each problem
                differences = [a - b for a, b in zip(values, plain[label], strict=True)]
                row["figures"][label] = {"mean": interval(values), "to fedavg": interval(differences) if algorithm != "fedavg" else None}
        rows[algorithm] = row
        print(f"{problem} {algorithm}: {row}", file=sys.stderr, flush=True)
    return {"says": spec.says, "rows": rows}


def markdown(made: dict[str, Any]) -> str:
    """A table as the docs have it."""
    names = list(next(iter(made["rows"].values()))["figures"])
    lines = ["| | tuned | " + " | ".join(f"{name} | to FedAvg" for name in names) + " |", "|---" * (2 + 2 * len(names)) + "|"]
    for algorithm, row in made["rows"].items():
        cells = [algorithm, ", ".join(f"{key} {value:g}" for key, value in row["tuned"].items())]
        for name in names:
            (mean, half), to = row["figures"][name]["mean"], row["figures"][name]["to fedavg"]
            cells += [f"{mean:.3f} ± {half:.3f}", "" if to is None else f"{to[0]:+.3f} ± {to[1]:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "compare_algorithms.json")
    parser.add_argument("--only", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    given = parser.parse_args()
    runs = Runs(given.out)
    for problem in given.only:
        runs.tables[problem] = made = table(runs, problem)
        runs.write()
        print(f"\n### {problem}: {made['says']}\n\n{markdown(made)}")
    print(f"\n{runs.seconds:.0f} s of processor time", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
