"""What the conditional random field gains a run of task segmentation: its settings chosen on training images, measured on the sites' test images.

python benchmarks/compare_crf.py RUN [--images 24] [--out benchmarks/results/compare_crf.json]
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from fedvision.data.federation import open_federated
from fedvision.data.site import Examples
from fedvision.experiment import load
from fedvision.models import build
from fedvision.segmenting import Crf, Segmentation
from fedvision.tasks import task_of

RESULT = Path(__file__).parent / "results" / "compare_crf.json"
FIGURES = ("dice", "boundary_f", "hd95")
GRID = {"similar": (1.0, 2.0, 4.0), "similar_space": (1.5, 3.0), "similar_colour": (0.1, 0.3), "near": (0.0, 0.3)}


def figures(task: Any, logits: torch.Tensor, batch: Any) -> dict[str, float]:
    """Of the refined logits."""
    with torch.inference_mode():
        sums = task.sums(task.refine(logits, batch.inputs), batch.targets)
    return {name: round(value, 4) for name, value in task.metrics(sums).items() if name in FIGURES}


def main() -> None:
    """Choose, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    experiment = load(given.run / "config.yaml")
    data = open_federated(experiment)
    model = build(experiment, data.shape, len(data.classes)).eval()
    model.load_state_dict(load_file(given.run / "model.safetensors"))

    def said(examples: Examples, most: int) -> tuple[torch.Tensor, Any]:
        batch = examples.batch(np.unique(np.linspace(0, len(examples) - 1, min(most, len(examples))).astype(int)))
        with torch.inference_mode():
            return model(batch.inputs), batch

    def task(crf: Crf | None) -> Any:
        settings = (experiment.segmentation or Segmentation()).model_copy(update={"crf": crf})
        return task_of(experiment.model_copy(update={"segmentation": settings}), data.classes)

    on_training = said(data.pooled("train"), given.images)
    tried = [Crf(**dict(zip(GRID, values, strict=True))) for values in product(*GRID.values())]
    best = max(tried, key=lambda crf: figures(task(crf), *on_training)["dice"])
    rows, began = {}, time.thread_time()
    for id in data.sites:
        logits, batch = said(data.site(id).test, 1 << 30)
        rows[id] = {"plain": figures(task(None), logits, batch), "refined": figures(task(best), logits, batch)}
    seconds = time.thread_time() - began
    mean = {kind: {f: round(float(np.mean([row[kind][f] for row in rows.values()])), 4) for f in FIGURES} for kind in ("plain", "refined")}
    chosen = best.model_dump()
    said_of = {
        "run": experiment.name,
        "seed": experiment.seed,
        "chosen": chosen,
        "mean": mean,
        "sites": rows,
        "cpu_seconds": round(seconds, 1),
    }
    print(text := json.dumps(said_of, indent=1))
    given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
