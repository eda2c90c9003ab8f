"""What a site's round of segmentation costs beside a bare torch loop over the same model, loss and images, round by round in turn.

Prints one JSON object and keeps it under benchmarks/results/; times are CPU seconds of one thread, medians over rounds.

    python benchmarks/bench_segmentation.py
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from clients.recipe import learn
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.models import build
from fedvision.tasks import task_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from segments import experiment

MOST = 1.1  # of the bare loop's time
ROUNDS = 7
BATCH = 4
IMAGES = {"unet": {"height": 112, "width": 96}, "unet of volumes": {"height": 32, "width": 32, "depth": 8}}


def measure(options: dict) -> dict:
    """Seconds a round of 8 steps of 4 images, ours and bare."""
    squares = experiment(
        {"width": 8, "options": {"levels": 3}}, {"n": 8 * BATCH, **options}, partition={"sites": 1}, federation={"rounds": ROUNDS},
        training={"optimizer": "adamw", "batch_size": BATCH, "learning_rate": 0.01}, data={"test": 0.0},
        evaluation={"sites": "none", "server": {"test": 0.01}},
    )  # fmt: skip
    data = open_federated(squares)
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench.set_up(squares, data.shape, data.classes, 1, Path(folder))
    examples = data.site(data.sites[0]).train
    everything = examples.batch(torch.arange(len(examples)))
    model, loss_of = build(squares, data.shape, len(data.classes)), task_of(squares, data.classes).loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    ours, bare = [], []
    for number in range(ROUNDS):
        began = time.thread_time()
        learn(bench, examples, ("bench", number), number, None)
        ours.append(time.thread_time() - began)
        began = time.thread_time()
        for at in torch.randperm(len(examples)).split(BATCH):
            optimizer.zero_grad()
            loss_of(model(everything.inputs[at]), everything.targets[at]).mean().backward()
            optimizer.step()
        bare.append(time.thread_time() - began)
    return {"ours": statistics.median(ours[1:]), "bare": statistics.median(bare[1:])}


def main() -> None:
    """Measure in the plane and in space; exit 1 where a round costs more than promised."""
    torch.set_num_threads(1)
    rows = {name: measure(options) for name, options in IMAGES.items()}
    for row in rows.values():
        row["ratio"] = row["ours"] / row["bare"]
    said = json.dumps({"bench": "segmentation", "torch": torch.__version__, "most": MOST, "rows": rows}, indent=1)
    print(said)
    (Path(__file__).parent / "results" / "segmentation.json").write_text(said + "\n")
    if any(row["ratio"] > MOST for row in rows.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
