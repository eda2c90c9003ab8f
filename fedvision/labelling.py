"""`fedvision segment`: the model of a run over one image of any size, from a file to a file of labels."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision import label_files
from fedvision.data.parts import opened
from fedvision.errors import ConfigError, RunFolderError

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOGITS = 48 << 20  # bytes of one window's logits
_LEAST = 32  # pixels of a window's side that are not gone below, where what was trained on had as many


def segment_file(
    run: Path, image: Path, out: Path, window: int | None = None, overlap: float = 0.25, crf: bool | None = None
) -> dict[str, int]:
    """Label `image` with the final model of `run` into `out`; the pixels of each class.

    Read in parts, whatever their size: .npy, uint8 [H,W], [H,W,C] or [D,H,W]; TIFF; NIfTI, within the run's data.window.  Other
    pictures are decoded once.  crf: whether labels are refined; None = as the run's segmentation.crf says.
    """
    import torch

    from fedvision.experiment import load
    from fedvision.models import build
    from fedvision.models.weights import read_weights
    from fedvision.segmenting import Crf, Segmentation
    from fedvision.sliding import Windows, segment
    from fedvision.tasks import task_of
    from fedvision.tracking.folder import RunFolder

    folder = RunFolder.open(run)
    experiment, partition = load(folder.path / "config.yaml"), folder.partition()
    if experiment.task != "segmentation" or "mean" not in partition:
        raise RunFolderError(
            f"{run} is of task {experiment.task}: it takes a run of task segmentation, made by this version, whose model is whole"
        )
    if experiment.data.transforms:
        raise ConfigError(f"{run} reads its images through data.transforms, which look at the whole image, and here it is read in windows")
    if not 0 <= overlap < 1:
        raise ConfigError(f"--overlap {overlap:g}: a share of a window's side, from 0 to below 1")
    if window is not None and window < 1:
        raise ConfigError(f"--window {window}: a window's side has 1 pixel or more")
    if out.exists() and image.exists() and out.samefile(image):
        raise ConfigError(f"the labels would be written over the image {image}: give them a name of their own")
    classes, shape = tuple(partition["classes"]), tuple(partition["shape"])
    axes = len(shape) - 1
    label_files.check(out, axes)
    settings = experiment.segmentation or Segmentation()
    if crf is not None:
        settings = settings.model_copy(update={"crf": (settings.crf or Crf()) if crf else None})
    task = task_of(experiment.model_copy(update={"segmentation": settings}), classes)
    model = build(experiment, shape, task.outputs).eval()
    read_weights(model, folder.path / "model.safetensors")
    mean, std = (torch.tensor(partition[key], dtype=torch.float32).reshape(-1, *[1] * axes) for key in ("mean", "std"))
    counts = np.zeros(len(classes), np.int64)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".segment-") as scratch, torch.inference_mode():
        pixels = opened(image, shape[0], axes, getattr(experiment.data, "window", [0.0, 255.0]), Path(scratch))
        labels = Path(scratch) / "labels.npy"
        dtype = np.uint8 if len(classes) <= 256 else np.uint16
        np.lib.format.open_memmap(labels, "w+", dtype, pixels.sides).flush()

        def read(where: tuple[slice, ...]) -> "Tensor":
            return torch.from_numpy(pixels.part(where)).float().div_(255).sub_(mean).div_(std)

        def write(where: tuple[slice, ...], part: np.ndarray) -> None:
            np.lib.format.open_memmap(labels, "r+")[where] = part  # opened for each part: pages of a closed file leave the process
            counts[:] += np.bincount(part.ravel(), minlength=len(classes))

        size = fitting(tuple(window or side for side in shape[1:]), len(classes))
        least = tuple(min(side, _LEAST) for side in shape[1:])
        segment(lambda x: task.refine(enlarged(model, x, least), x), pixels.sides, len(classes), Windows(size, overlap), read, write)
        label_files.deliver(labels, out, image)
    return dict(zip(classes, counts.tolist(), strict=True))


def enlarged(model: "nn.Module", x: "Tensor", least: tuple[int, ...]) -> "Tensor":
    """The model's logits of a window; one that is smaller than `least`, which a network may halve away, is repeated at its border first."""
    from torch.nn import functional

    lacking = [max(0, own - side) for own, side in zip(least, x.shape[2:], strict=True)]
    if not any(lacking):
        return model(x)  # type: ignore[no-any-return]
    logits: Tensor = model(functional.pad(x, [n for side in reversed(lacking) for n in (0, side)], mode="replicate"))
    return logits[(slice(None), slice(None), *(slice(side) for side in x.shape[2:]))]


def fitting(size: tuple[int, ...], classes: int) -> tuple[int, ...]:
    """`size`, its sides halved until a window's logits of so many classes fit."""
    while np.prod(size, dtype=float) * classes * 4 > _LOGITS and max(size) > _LEAST:
        size = tuple(side // 2 if side // 2 >= _LEAST else min(side, _LEAST) for side in size)
    return size
