"""A site's round beside a bare torch loop over the same model, loss and images, in turn; CPU seconds of one thread."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from clients.learn import learn
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.data.site import Batch
from fedvision.experiment import Experiment
from fedvision.models import build
from fedvision.tasks import task_of

MOST = 1.1  # of the bare loop's time
ROUNDS = 7


LossAt = Callable[[torch.Tensor], torch.Tensor]  # of the examples at these positions, a number


def measure(experiment: Experiment, bare_loss: Callable[[nn.Module, Batch], LossAt] | None = None) -> dict[str, float]:
    """Medians over rounds of a run with one site and AdamW: ours, bare, and their ratio.

    bare_loss: the bare loop's, of a model and all examples; None = the mean of the task's losses.
    """
    data, training = open_federated(experiment), experiment.training
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench.set_up(experiment, data.shape, data.classes, 1, Path(folder))
    examples = data.site(data.sites[0]).train
    everything = examples.batch(torch.arange(len(examples)))
    model, task = build(experiment, data.shape, len(data.classes)), task_of(experiment, data.classes)
    loss_at = (
        bare_loss(model, everything) if bare_loss else lambda at: task.loss(model(everything.inputs[at]), everything.targets[at]).mean()
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate)
    ours, bare = [], []
    for number in range(ROUNDS):
        began = time.thread_time()
        learn(bench, examples, ("bench", number), number, None)
        ours.append(time.thread_time() - began)
        began = time.thread_time()
        for at in torch.randperm(len(examples)).split(training.batch_size):
            optimizer.zero_grad()
            loss_at(at).backward()
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
