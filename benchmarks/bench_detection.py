"""What a site's round of detection costs beside a bare torch loop over the same model, loss and images, step by step in turn.

Prints one JSON object and keeps it under benchmarks/results/; times are CPU seconds of one thread, medians over rounds.

    python benchmarks/bench_detection.py
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
from fedvision.experiment import from_values
from fedvision.models import build
from fedvision.tasks import task_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rectangles import rectangles

MOST = 1.1  # of the bare loop's time
ROUNDS = 7
MODELS = {
    "detection/fcos": {"channels": 64},
    "detection/retinanet": {"channels": 64},
    "detection/ssdlite": {},
    "detection/onestage": {"channels": 64},
    "detection/detr": {},
}


def measure(name: str, options: dict) -> dict:
    """Seconds a round of 8 steps of 16 images of 96 × 96 pixels, ours and bare."""
    experiment = from_values({
        "task": "detection", "data": {"dataset": "brought", "source": f"{rectangles.__code__.co_filename}:rectangles", "test": 0.0,
        "options": {"n": 128, "height": 96, "width": 96}}, "partition": {"scheme": "iid", "sites": 1}, "federation": {"rounds": ROUNDS},
        "model": {"name": name, "options": options}, "training": {"optimizer": "adamw", "batch_size": 16, "learning_rate": 0.001},
        "evaluation": {"sites": "none", "server": {"test": 0.01}},
    })  # fmt: skip
    data = open_federated(experiment)
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench.set_up(experiment, data.shape, data.classes, 1, Path(folder))
    examples = data.site(data.sites[0]).train
    everything = examples.batch(torch.arange(len(examples)))
    model, loss_of = build(experiment, data.shape, len(data.classes)), task_of(experiment, data.classes).loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    ours, bare = [], []
    for number in range(ROUNDS):
        began = time.thread_time()
        learn(bench, examples, ("bench", number), number, None)
        ours.append(time.thread_time() - began)
        began = time.thread_time()
        for at in torch.randperm(len(examples)).split(16):
            optimizer.zero_grad()
            loss_of(model(everything.inputs[at]), everything.targets[at]).mean().backward()
            optimizer.step()
        bare.append(time.thread_time() - began)
    return {"ours": statistics.median(ours[1:]), "bare": statistics.median(bare[1:])}


def main() -> None:
    """Measure each detector; exit 1 where one costs more than promised."""
    torch.set_num_threads(1)
    rows = {name: measure(name, options) for name, options in MODELS.items()}
    for row in rows.values():
        row["ratio"] = row["ours"] / row["bare"]
    said = json.dumps({"bench": "detection", "torch": torch.__version__, "most": MOST, "rows": rows}, indent=1)
    print(said)
    (Path(__file__).parent / "results" / "detection.json").write_text(said + "\n")
    if any(row["ratio"] > MOST for row in rows.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
