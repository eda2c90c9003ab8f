"""`fedvision segment`: the model of a run over one image of any size, from a file to a file of labels."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvision.data.cache import written_whole
from fedvision.data.nifti import is_nifti
from fedvision.errors import ConfigError, CorruptImage, DataError, RunFolderError

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOGITS = 48 << 20  # bytes of one window's logits
_LEAST = 32  # pixels of a window's side that are never gone below
_ROWS = 256  # of an image that is copied at a time


def segment_file(run: Path, image: Path, out: Path, window: int | None = None, overlap: float = 0.25) -> dict[str, int]:
    """Label `image` with the final model of `run` into `out` (.npy, or .png of up to 256 classes); the pixels of each class.

    Large images: a .npy file uint8 [H,W], [H,W,C], or [D,H,W] for a model of volumes is read a window at a time; others are decoded once.
    """
    import torch

    from fedvision.experiment import load
    from fedvision.models import build
    from fedvision.models.weights import read_weights
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
    if out.suffix not in {".npy", ".png"}:
        raise ConfigError(f"{out}: labels are written as .npy or .png")
    if not 0 <= overlap < 1:
        raise ConfigError(f"--overlap {overlap:g}: a share of a window's side, from 0 to below 1")
    classes, shape = tuple(partition["classes"]), tuple(partition["shape"])
    if out.suffix == ".png" and (len(classes) > 256 or len(shape) == 4):
        raise ConfigError(f"{out}: a PNG holds one plane of up to 256 classes; write .npy")
    model = build(experiment, shape, task_of(experiment, classes).outputs).eval()
    read_weights(model, folder.path / "model.safetensors")
    channel = (-1, *[1] * (len(shape) - 1))
    mean, std = (torch.tensor(partition[key], dtype=torch.float32).reshape(channel) for key in ("mean", "std"))
    counts = np.zeros(len(classes), np.int64)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".segment-") as scratch, torch.inference_mode():
        pixels = opened(image, shape[0], len(shape) - 1, Path(scratch))
        labels = Path(scratch) / "labels.npy"
        dtype = np.uint8 if len(classes) <= 256 else np.uint16
        np.lib.format.open_memmap(labels, "w+", dtype, pixels.sides).flush()

        def read(where: tuple[slice, ...]) -> "Tensor":
            return torch.from_numpy(pixels.part(where)).float().div_(255).sub_(mean).div_(std)

        def write(where: tuple[slice, ...], part: np.ndarray) -> None:
            np.lib.format.open_memmap(labels, "r+")[where] = part  # opened for each part: pages of a closed file leave the process
            counts[:] += np.bincount(part.ravel(), minlength=len(classes))

        size = fitting(tuple(window or side for side in shape[1:]), len(classes))
        segment(lambda x: enlarged(model, x), pixels.sides, len(classes), Windows(size, overlap), read, write)
        _deliver(labels, out)
    return dict(zip(classes, counts.tolist(), strict=True))


def enlarged(model: "nn.Module", x: "Tensor") -> "Tensor":
    """The model's logits of a window; one that is smaller than a network halves is repeated at its border first."""
    from torch.nn import functional

    lacking = [max(0, _LEAST - side) for side in x.shape[2:]]
    if not any(lacking):
        return model(x)  # type: ignore[no-any-return]
    logits: Tensor = model(functional.pad(x, [n for side in reversed(lacking) for n in (0, side)], mode="replicate"))
    return logits[(slice(None), slice(None), *(slice(side) for side in x.shape[2:]))]


def fitting(size: tuple[int, ...], classes: int) -> tuple[int, ...]:
    """`size`, its sides halved until a window's logits of so many classes fit."""
    while np.prod(size, dtype=float) * classes * 4 > _LOGITS and max(size) > _LEAST:
        size = tuple(max(_LEAST, side // 2) for side in size)
    return size


def _deliver(labels: Path, out: Path) -> None:
    if out.suffix == ".npy":
        labels.replace(out)
        return
    from PIL import Image

    with written_whole(out) as file:
        Image.fromarray(np.load(labels, mmap_mode="r")).save(file, "PNG")


class Pixels:
    """An image on disk, read in parts.  sides: without channels."""

    def __init__(self, path: Path, sides: tuple[int, ...], channels_last: bool):
        self.path, self.sides, self.channels_last = path, sides, channels_last

    def part(self, where: tuple[slice, ...]) -> np.ndarray:
        """uint8 [C,...] of a part; the file is mapped for this part alone."""
        piece = np.array(np.load(self.path, mmap_mode="r")[where])
        return np.ascontiguousarray(np.moveaxis(piece, -1, 0)) if self.channels_last else piece[None]


def opened(path: Path, channels: int, axes: int, scratch: Path) -> Pixels:
    """An image file as pixels of so many channels; what is no .npy is decoded once, into `scratch`."""
    if not path.is_file():
        raise DataError(f"there is no image {path}")
    if path.suffix != ".npy":
        path = _decoded(path, channels, axes, scratch / "image.npy")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} does not read as an array: {error}") from None
    last = array.ndim == axes + 1
    own = array.shape[-1] if last else 1
    if array.dtype != np.uint8 or array.ndim not in {axes, axes + 1} or own != channels:
        wanted = ["H", "W"] if axes == 2 else ["D", "H", "W"]
        shape = f"[{', '.join(wanted if channels == 1 else [*wanted, str(channels)])}]"
        raise DataError(f"{path} holds {array.dtype} {list(array.shape)}, and the model takes uint8 {shape}")
    return Pixels(path, tuple(int(n) for n in array.shape[:axes]), last)


def _decoded(path: Path, channels: int, axes: int, target: Path) -> Path:
    if is_nifti(path):
        raise DataError(f"{path}: black and white of a volume are not known here: bring it to uint8 [D,H,W] in a .npy file")
    if axes == 3:
        raise DataError(f"{path} is a picture, and the model takes volumes: give uint8 [D,H,W] in a .npy file")
    with _picture(path, channels) as picture:
        width, height = picture.size
        array = np.lib.format.open_memmap(target, "w+", np.uint8, (height, width) if channels == 1 else (height, width, channels))
        for top in range(0, height, _ROWS):
            array[top : top + _ROWS] = np.asarray(picture.crop((0, top, width, min(top + _ROWS, height))))
        array.flush()
    return target


@contextmanager
def _picture(path: Path, channels: int) -> Iterator[Any]:
    """A picture of so many channels, decoded; CorruptImage where it does not."""
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
                if mode is None:
                    raise DataError(
                        f"{path} is a picture, and the model takes {channels} channels: give uint8 [H, W, {channels}] in a .npy file"
                    )
                yield file if file.mode == mode else file.convert(mode)
    except Image.DecompressionBombError:
        raise DataError(f"{path} has too many pixels to be decoded at once: give it as uint8 [H,W] or [H,W,C] in a .npy file") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptImage(f"{path} does not decode as an image: {error}") from None
