"""What a site's round of detection costs beside a bare torch loop over the same model, loss and images, round by round in turn.

Prints one JSON object and keeps it under benchmarks/results/; times are CPU seconds of one thread, medians over rounds.

    python benchmarks/bench_detection.py
"""

import sys
from pathlib import Path

import torch
from bare import ROUNDS, measure, told

from fedvision.experiment import Experiment, from_values

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rectangles import rectangles

MODELS = {
    "detection/fcos": {"channels": 64},
    "detection/retinanet": {"channels": 64},
    "detection/ssdlite": {},
    "detection/onestage": {"channels": 64},
    "detection/detr": {},
}


def detector(name: str, options: dict) -> Experiment:
    """8 steps a round of 16 images of 96 × 96 pixels."""
    return from_values({
        "task": "detection", "data": {"dataset": "brought", "source": f"{rectangles.__code__.co_filename}:rectangles", "test": 0.0,
        "options": {"n": 128, "height": 96, "width": 96}}, "partition": {"scheme": "iid", "sites": 1}, "federation": {"rounds": ROUNDS},
        "model": {"name": name, "options": options}, "training": {"optimizer": "adamw", "batch_size": 16, "learning_rate": 0.001},
        "evaluation": {"sites": "none", "server": {"test": 0.01}},
    })  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(told("detection", {name: measure(detector(name, options)) for name, options in MODELS.items()}))
