"""The audit of one run: what it finds on mechanisms whose ε is known, and what its canaries cost a private run.

    python benchmarks/bench_audit.py            100 runs a mechanism and number of canaries
    python benchmarks/bench_audit.py --runs 30

`reaches` are the figures that each mean bound has to come to, `holds` the share of runs whose bound is at or below the true ε.
Cost: CPU seconds of a site's round of five private steps with canaries over one without, in turn, the medians.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from clients.answer import answer
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.types import ClientUpdate, TrainRequest
from privacy.attacks.one_run import Traces, judged, planned_guesses

DELTA = 1e-5
MECHANISMS = {  # true ε at δ = 1e-5 -> noise multiplier, steps, and the figures to reach with 100, 1,000 and 10,000 canaries
    4.38: (1.0, 1, (0.74, 1.57, 2.04)),
    8.60: (4.0, 50, (1.31, 2.86, 3.58)),
    11.48: (2.0, 20, (1.88, 3.47, 4.31)),
    37.6: (1.0, 30, (2.32, 4.57, 5.69)),
}
COUNTS = (100, 1000, 10_000)
MOST_COST = 1.25
PROMISE = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-5, "sampling_rate": 0.1, "divisor": 50.0}
SITES = {
    "cnn of 0.45 M on mnist5k": {"data": {"dataset": "mnist5k"}, "model": {"name": "cnn", "width": 32, "hidden": 128, "norm": "group"}},
    "mlp of 9,610 on digits": {"data": {"dataset": "digits"}, "model": {"name": "mlp", "width": 128}},
}
SHAPE = {
    "partition": {"scheme": "iid", "sites": 2}, "federation": {"rounds": 60}, "training": {"steps": 5},
    "evaluation": {"server": {"test": 0.2}},
}  # fmt: skip


def found(truth: float, runs: int) -> list[dict]:
    """The bounds of `runs` audits of one mechanism, a row a number of canaries."""
    sigma, steps, reaches = MECHANISMS[truth]
    rng, traces, rows = np.random.default_rng(0), Traces(sigma, 1.0), []
    for m, least in zip(COUNTS, reaches, strict=True):
        guesses, bounds = planned_guesses(traces, steps, m, DELTA), []
        for _ in range(runs):
            took_part = rng.random(m) < 0.5
            bounds.append(judged(traces.drawn(took_part, steps, rng), took_part, guesses, DELTA).epsilon)
        holds = float(np.mean(np.array(bounds) <= truth))
        mean = float(np.mean(bounds))
        rows.append({"epsilon": truth, "canaries": m, "guesses": guesses, "mean": mean, "reaches": least, "holds": holds, "runs": runs})
        print(f"ε = {truth:5.2f}, {m:6,} canaries: mean bound {mean:.2f} (to reach {least:.2f}), holds in {holds:.0%} of {runs}")
    return rows


def cost(values: dict, times: int) -> float:
    """A site's round with 1,000 canaries over one without, charged, trained, encoded and kept as in any private run."""
    sites = {}
    for which, audit in (("without", None), ("with", {"canaries": 1000})):
        experiment = validate(Experiment, {**values, "privacy": {**PROMISE, "audit": audit}}, "bench")
        data = open_federated(experiment)
        bench = Workbench.set_up(experiment, data.shape, data.classes, len(data.sites), Path(tempfile.mkdtemp()))
        sites[which] = bench, data.site(data.sites[0]), {n: t.clone() for n, t in bench.model.state_dict().items()}
    spent: dict[str, list[float]] = {which: [] for which in sites}
    for number in range(times):
        for which, (bench, site, model) in sites.items():
            began = time.process_time()
            reply = answer(TrainRequest("bench", number, 1, model, counted=number - 1 if number else None), site, bench)
            spent[which].append(time.process_time() - began)
            assert isinstance(reply, ClientUpdate), reply
    return float(np.median(spent["with"][2:]) / np.median(spent["without"][2:]))


def main() -> None:
    """Print, keep, and exit 1 where a figure is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [row for truth in MECHANISMS for row in found(truth, runs)]
    costs = {name: cost({**SHAPE, **values}, times=40) for name, values in SITES.items()}
    for name, ratio in costs.items():
        print(f"{name}: a site's round with 1,000 canaries costs {ratio:.3f} × one without")
    kept = {"bench": "audit", "delta": DELTA, "bounds": rows, "cost": costs}
    (Path(__file__).parent / "results" / "bench_audit.json").write_text(json.dumps(kept, indent=1) + "\n")
    if any(row["mean"] < row["reaches"] or row["holds"] < 0.95 for row in rows) or max(costs.values()) > MOST_COST:
        raise SystemExit("not as promised")


if __name__ == "__main__":
    main()
