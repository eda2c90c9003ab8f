"""Pictures of a run for its report: samples as they are trained on, predictions, and the worst of them.

A task that has something to look at says so by `panels`.  What is shown is the coordinator's own public test data; where it has
none, the sites' test data, which in a simulation lie here anyway, unless the run protects them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedvision.algorithms import AT_HOME
from fedvision.augment import changes
from fedvision.data.federation import Federated
from fedvision.data.site import Examples
from fedvision.evaluation import predicted
from fedvision.experiment import Experiment
from fedvision.models import build
from fedvision.seeds import seed_torch
from fedvision.tasks import task_of
from fedvision.tracking.folder import RunFolder, write_atomically

_LOOKED_AT = 200  # test examples among which typical and bad ones are chosen
_AT_ONCE = 8
Row = tuple[str, Mapping[str, np.ndarray]]  # what is said beside it; uint8 [H,W,3] by name


def illustrate(experiment: Experiment, folder: RunFolder, data: Federated) -> None:
    """Write pictures/*.png and pictures/about.json into the run's folder, where there is something that may be shown."""
    task, wanted = task_of(experiment, data.classes), experiment.tracking.pictures
    examples = shown(experiment, data)
    model_file = folder.path / "model.safetensors"
    if not wanted or not hasattr(task, "panels") or examples is None or not model_file.exists() or experiment.strategy.name in AT_HOME:
        return
    kinds = _predictions(experiment, data, task, examples, model_file)
    if (samples := _samples(experiment, data, task, examples, wanted)) is not None:
        kinds = {"augmentations": samples, **kinds}
    place = folder.path / "pictures"
    place.mkdir(exist_ok=True)
    about = {}
    for name, (said, rows) in kinds.items():
        named = name == "augmentations" and getattr(task, "geometry", "") == "boxes"  # whose names stand beside them
        write_atomically(place / f"{name}.png", sheet(rows, {} if named else task.legend()))
        about[name] = said
    write_atomically(place / "about.json", json.dumps(about).encode())


def shown(experiment: Experiment, data: Federated) -> Examples | None:
    """The test examples that may be shown; None where none may."""
    own = data.server("test")
    if len(own):
        return own
    protected = experiment.privacy is not None or experiment.secure_aggregation.enabled
    pooled = data.pooled("test")
    return None if protected or not len(pooled) else pooled


def _predictions(
    experiment: Experiment, data: Federated, task: Any, examples: Examples, model_file: Path
) -> dict[str, tuple[str, list[Row]]]:
    """Examples from the best to the worst, and the worst ones, each with what the final model says."""
    from safetensors.torch import load_file

    model = build(experiment, data.shape, task.outputs)
    model.load_state_dict(load_file(model_file))
    model.eval()
    at = np.unique(np.linspace(0, len(examples) - 1, min(_LOOKED_AT, len(examples))).astype(int))
    losses = []
    with torch.inference_mode():
        for start in range(0, len(at), _AT_ONCE):
            batch = examples.batch(at[start : start + _AT_ONCE])
            losses += task.loss(predicted(model, task, batch.inputs), batch.targets).tolist()
    order = at[np.argsort(losses, kind="stable")]
    sorted_losses, measure = np.sort(losses), getattr(task, "sorted_by", "loss")
    n = experiment.tracking.pictures
    even = np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).astype(int))
    worst = np.arange(len(order))[::-1][:n]
    where = "the coordinator's own test data" if len(data.server("test")) else "the sites' test data"

    def rows(which: np.ndarray) -> list[Row]:
        with torch.inference_mode():
            outputs = predicted(model, task, examples.batch(order[which]).inputs)
        return [
            _row(data, task, examples, int(order[i]), out, f"{measure} {sorted_losses[i]:.3g}")
            for i, out in zip(which, outputs, strict=True)
        ]

    return {
        "predictions": (f"From the smallest {measure} to the largest, of {len(at)} images of {where}.", rows(even)),
        "failures": (f"The largest {measure} first, of {len(at)} images of {where}.", rows(worst)),
    }


def _row(data: Federated, task: Any, examples: Examples, position: int, output: Tensor, said: str) -> Row:
    at = np.array([position])
    panels = task.panels(examples.images(at)[0], examples.batch(at).targets[0].numpy(), output)
    return f"{_holder(data, int(examples.rows[position]))}\n{said}", panels


def _holder(data: Federated, row: int) -> str:
    number = int(data.partition.site_of[row])
    return data.sites[number] if number >= 0 else "the coordinator"


def _samples(experiment: Experiment, data: Federated, task: Any, examples: Examples, wanted: int) -> tuple[str, list[Row]] | None:
    """Images as training changes them; None where it does not."""
    change = changes(experiment.training.transforms, data.shape, "training.transforms", getattr(task, "geometry", ""))
    if change is None or not hasattr(task, "laid_over"):
        return None
    seed_torch(experiment.seed, "pictures")
    rows: list[Row] = []
    for position in np.unique(np.linspace(0, len(examples) - 1, wanted).astype(int)):
        at = np.array([position])
        images, targets = torch.from_numpy(examples.images(at)), examples.batch(at).targets
        panels = {"as it is": task.laid_over(images[0].numpy(), targets[0].numpy())}
        for number in range(1, 4):
            image, target = change(images.clone(), targets.clone())
            pixels = image if image.dtype == torch.uint8 else (image * 255).clamp(0, 255).to(torch.uint8)
            panels[f"changed, draw {number}"] = task.laid_over(pixels[0].numpy(), target[0].numpy())
        rows.append((_holder(data, int(examples.rows[position])), panels))
    return "Images with their targets, as they are and as training.transforms change them.", rows


def sheet(rows: Sequence[Row], legend: Mapping[str, str]) -> bytes:
    """A PNG with a row of panels an example.  legend: what each colour is, as matplotlib writes colours."""
    import io

    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = list(rows[0][1])
    height, width = next(iter(rows[0][1].values())).shape[:2]
    figure = Figure(figsize=(2.2 * len(columns) + 0.9, 2.2 * len(rows) * height / width + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for number, (line, (said, panels)) in enumerate(zip(grid, rows, strict=True)):
        for axes, (name, picture) in zip(line, panels.items(), strict=True):
            axes.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) < 200 else None)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if number == 0:
                axes.set_title(name, fontsize=9)
        line[0].set_ylabel(said, fontsize=8, rotation=0, ha="right", va="center")
    patches = [Patch(color=colour, label=name) for name, colour in legend.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
