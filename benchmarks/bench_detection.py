"""What a site's round of detection costs beside a bare torch loop over the same model, loss and images, round by round in turn.

Prints one JSON object and keeps it under benchmarks/results/, where the rows of models that are not named stay as they are; times are CPU
seconds of one thread, medians over rounds.

    python benchmarks/bench_detection.py [MODEL ...]
"""

import json
import sys
from pathlib import Path

import torch
from bare import ROUNDS, LossAt, measure, told
from torch import nn

from fedvision.data.site import Batch
from fedvision.detection.masks import drawn_out
from fedvision.experiment import Experiment, from_values
from fedvision.models import COUPLED

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rectangles import rectangles

MODELS = {
    "detection/fcos": {"channels": 64},
    "detection/retinanet": {"channels": 64},
    "detection/ssdlite": {},
    "detection/onestage": {"channels": 64},
    "detection/detr": {},
    "detection/deformable_detr": {},
    "detection/faster_rcnn": {},
    "detection/mask_rcnn": {},
}


def detector(name: str, options: dict) -> Experiment:
    """8 steps a round of 16 images of 96 × 96 pixels."""
    masks = name == "detection/mask_rcnn"
    return from_values({
        "task": "instances" if masks else "detection", "data": {"dataset": "brought", "source": f"{rectangles.__code__.co_filename}:rectangles",
        "test": 0.0, "options": {"n": 128, "height": 96, "width": 96, "masks": masks}}, "partition": {"scheme": "iid", "sites": 1},
        "federation": {"rounds": ROUNDS}, "model": {"name": name, "options": options},
        "training": {"optimizer": "adamw", "batch_size": 16, "learning_rate": 0.001}, "evaluation": {"sites": "none", "server": {"test": 0.01}},
    })  # fmt: skip


def torchvisions(model: nn.Module, everything: Batch) -> LossAt:
    """The loss of Faster and Mask R-CNN as one writes it with torchvision alone: a dictionary an image, made before."""
    targets = []
    for rows in everything.targets:
        own = rows[rows[:, 0] >= 0]
        targets.append({"boxes": own[:, 1:5], "labels": own[:, 0].long() + 1})
        if own.shape[1] > 5:
            targets[-1]["masks"] = drawn_out(own[:, 5:], *everything.inputs.shape[2:]).to(torch.uint8)

    def loss_at(at: torch.Tensor) -> torch.Tensor:
        losses = model.net(list(everything.inputs[at]), [targets[i] for i in at.tolist()])
        return sum(losses.values())

    return loss_at


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept = Path(__file__).parent / "results/bench_detection.json"
    rows = json.loads(kept.read_text())["rows"] if kept.exists() else {}
    for name in sys.argv[1:] or list(MODELS):
        rows[name] = measure(detector(name, MODELS[name]), torchvisions if name in COUPLED else None)
    sys.exit(told("detection", {name: rows[name] for name in MODELS if name in rows}))
