"""What the inline engine costs beside a bare torch loop that does the same work, in one process, round by round in turn.

The bare loop trains the same sites on the same number of batches, from preloaded tensors, and averages their weights in
place; it has no encoding, no checks, no names, no records.  Prints one JSON object; times are CPU seconds of one thread.

    python benchmarks/bench_inline.py
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from clients.workbench import Workbench
from fedvision.data.federation import Federated, open_federated
from fedvision.experiment import Experiment
from fedvision.models import build
from fedvision.schema import validate
from server.checkpoints import Progress
from server.cohorts import cohort
from server.rounds import Rounds
from server.strategies import make_strategy
from simulations.inline import Inline

CNN = {
    "data": {"dataset": "mnist5k", "test": 0.0},
    "partition": {"scheme": "iid", "sites": 100},
    "federation": {"rounds": 12, "sampling": "fixed", "cohort": 20},
    "model": {"name": "cnn", "width": 32, "hidden": 370},
    "training": {"epochs": None, "steps": 4, "batch_size": 10},
}
TINY = {
    "data": {"dataset": "digits", "test": 0.0},
    "partition": {"scheme": "iid", "sites": 1000, "min_examples": 1},
    "federation": {"rounds": 60, "sampling": "fixed", "cohort": 100},
    "model": {"name": "mlp", "width": 32},
    "training": {"epochs": None, "steps": 1, "batch_size": 10},
}
EVALUATION = {"every": 10_000, "sites": "none", "server": {"test": 0.05}}


class Bare:
    """FedAvg as one would write it in a notebook."""

    def __init__(self, experiment: Experiment, data: Federated):
        self.experiment, self.data = experiment, data
        self.model = build(experiment, data.shape, len(data.classes))
        self.parameters = list(self.model.parameters())
        self.weights = [p.detach().clone() for p in self.parameters]
        self.held = {}
        for site in data.sites:
            batch = data.site(site).train.batch(np.arange(len(data.site(site).train)))
            self.held[site] = (batch.inputs, batch.targets)

    def round(self, number: int) -> None:
        """One round."""
        training = self.experiment.training
        total, n = [torch.zeros_like(w) for w in self.weights], 0
        for site in cohort(self.experiment.federation, self.data.sites, self.experiment.seed, number, 1):
            x, y = self.held[site]
            with torch.no_grad():
                for p, w in zip(self.parameters, self.weights, strict=True):
                    p.copy_(w)
            optimizer = torch.optim.SGD(self.parameters, lr=training.learning_rate)
            order, size = torch.randperm(len(y)), training.batch_size
            for step in range(training.steps or 0):
                at = order[torch.arange(step * size, (step + 1) * size) % len(y)] if len(y) >= size else order
                loss = torch.nn.functional.cross_entropy(self.model(x[at]), y[at])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                for t, p in zip(total, self.parameters, strict=True):
                    t.add_(p, alpha=len(y))
            n += len(y)
        self.weights = [t.div_(n) for t in total]


class Turns:
    """A recorder that, after each of our rounds, lets the bare loop do one, and times both."""

    def __init__(self, bare: Bare):
        self.bare, self.ours, self.theirs = bare, [], []
        self.began = time.thread_time()

    def asked(self, round: int, sites: int) -> None:
        """Nothing to show."""

    def replied(self) -> None:
        """Nothing to show."""

    def done(self, state: object, progress: Progress, record: dict, best: bool) -> None:
        """Take the time."""
        self.ours.append(time.thread_time() - self.began)
        began = time.thread_time()
        self.bare.round(record["round"])
        self.theirs.append(time.thread_time() - began)
        self.began = time.thread_time()


def measure(values: dict) -> dict:
    """One workload: medians over rounds, the first left out."""
    experiment = validate(Experiment, {**values, "evaluation": EVALUATION}, "bench")
    data = open_federated(experiment)
    bench = Workbench.set_up(experiment, data.shape, data.classes, len(data.sites), Path(tempfile.mkdtemp()))
    turns, strategy = Turns(Bare(experiment, data)), make_strategy(experiment.strategy)
    model = {n: t.clone() for n, t in build(experiment, data.shape, len(data.classes)).state_dict().items()}
    rounds = Rounds(experiment, "bench", Inline(data, bench, straight=True), strategy, bench.layout, lambda *_: {}, turns)
    rounds.run(strategy.init(model), Progress())
    ours, bare, asked = np.median(turns.ours[1:]), np.median(turns.theirs[1:]), experiment.federation.cohort or 1
    ratios = np.array(turns.ours[1:]) / np.array(turns.theirs[1:])
    return {
        "parameters": bench.layout.size - 3, "sites": len(data.sites), "cohort": asked, "round_s": float(ours), "bare_round_s": float(bare),
        "ratio": float(np.median(ratios)), "ratio_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "beyond_us_a_site": float((ours - bare) / asked * 1e6),
    }  # fmt: skip


def main() -> None:
    """Both workloads."""
    torch.set_num_threads(1)
    said = json.dumps({"bench": "inline", "cnn": measure(CNN), "tiny": measure(TINY)})
    (Path(__file__).parent / "results" / "bench_inline.json").write_text(said + "\n")
    print(said)


if __name__ == "__main__":
    main()
