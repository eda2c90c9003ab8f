"""A site's round beside a bare torch loop over the same model, loss and images, in turn; CPU seconds of one thread."""

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from clients.learn import learn
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.experiment import Experiment
from fedvision.models import build
from fedvision.tasks import task_of

MOST = 1.1  # of the bare loop's time
ROUNDS = 7


def measure(experiment: Experiment) -> dict[str, float]:
    """Medians over rounds of a run with one site and AdamW: ours, bare, and their ratio."""
    data, training = open_federated(experiment), experiment.training
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench.set_up(experiment, data.shape, data.classes, 1, Path(folder))
    examples = data.site(data.sites[0]).train
    everything = examples.batch(torch.arange(len(examples)))
    model, loss_of = build(experiment, data.shape, len(data.classes)), task_of(experiment, data.classes).loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate)
    ours, bare = [], []
    for number in range(ROUNDS):
        began = time.thread_time()
        learn(bench, examples, ("bench", number), number, None)
        ours.append(time.thread_time() - began)
        began = time.thread_time()
        for at in torch.randperm(len(examples)).split(training.batch_size):
            optimizer.zero_grad()
            loss_of(model(everything.inputs[at]), everything.targets[at]).mean().backward()
            optimizer.step()
        bare.append(time.thread_time() - began)
    medians = {"ours": statistics.median(ours[1:]), "bare": statistics.median(bare[1:])}
    return {**medians, "ratio": medians["ours"] / medians["bare"]}


def told(task: str, rows: dict[str, dict[str, float]]) -> int:
    """Print the rows and keep them; the exit code: 1 where one costs more than promised."""
    said = json.dumps({"bench": task, "torch": torch.__version__, "most": MOST, "rows": rows}, indent=1)
    print(said)
    (Path(__file__).parent / "results" / f"bench_{task}.json").write_text(said + "\n")
    return int(any(row["ratio"] > MOST for row in rows.values()))
