"""What a site's round of segmentation costs beside a bare torch loop over the same model, loss and images, round by round in turn.

Prints one JSON object and keeps it under benchmarks/results/; times are CPU seconds of one thread, medians over rounds.

    python benchmarks/bench_segmentation.py
"""

import sys
from pathlib import Path

import torch
from bare import ROUNDS, measure, told

from fedvision.experiment import Experiment

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from segments import experiment

BATCH = 4
IMAGES = {"unet": {"height": 112, "width": 96}, "unet of volumes": {"height": 32, "width": 32, "depth": 8}}


def unet(options: dict) -> Experiment:
    """8 steps a round of 4 images."""
    return experiment(
        {"width": 8, "options": {"levels": 3}}, {"n": 8 * BATCH, **options}, partition={"sites": 1}, federation={"rounds": ROUNDS},
        training={"optimizer": "adamw", "batch_size": BATCH, "learning_rate": 0.01}, data={"test": 0.0},
        evaluation={"sites": "none", "server": {"test": 0.01}},
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(told("segmentation", {name: measure(unet(options)) for name, options in IMAGES.items()}))
