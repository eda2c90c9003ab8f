"""Brains of simulated subjects at four simulated scanners, from a real template: the MNI ICBM152 average T1 image with its maps
of grey and white matter (Fonov et al. 2011), as nilearn ships them.

A subject is the template bent by a smooth random field; a scanner has a contrast, a bias field, a noise and a sharpness of its own.
No real patient is shown.  Both are drawn by name.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision.data import sources
from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.made import made_once
from fedvision.data.masks import main_class
from fedvision.data.resize import resized, resized_masks
from fedvision.errors import DataError
from fedvision.seeds import stream

if TYPE_CHECKING:
    from fedvision.holdings import Brain

CLASSES = ("background", "other tissue", "grey matter", "white matter")
HEIGHT, WIDTH = 112, 96  # of a slice: the template at 2 mm a pixel, its empty margin cut off
LOWEST, HIGHEST = 30, 52  # slices that are taken, counted from the feet, 2 mm each
# The fourth scanner's other contrast, a curve over T1 alone: made from the labels, the image would hold the answer.
_T1, _T2 = (0.0, 0.15, 0.35, 0.66, 0.87, 1.0), (0.0, 0.95, 0.95, 0.55, 0.35, 0.3)


@dataclass(frozen=True)
class Scanner:
    """gamma: exponent of the contrast.  bias: size of the smooth gain error.  noise: σ of Rician noise, of the full scale.
    blur: σ, pixels.  other: share of another contrast, in which fluid is bright and white matter dark."""

    gamma: float = 1.0
    bias: float = 0.1
    noise: float = 0.01
    blur: float = 0.0
    other: float = 0.0


SCANNERS = {
    "scanner-a": Scanner(),
    "scanner-b": Scanner(gamma=0.75, bias=0.35, noise=0.03, blur=0.4),
    "scanner-c": Scanner(gamma=1.4, bias=0.2, noise=0.06, blur=0.2),
    "scanner-d": Scanner(bias=0.25, noise=0.03, blur=0.3, other=0.9),
}


def brain(data: "Brain") -> Dataset:
    """Slices, or volumes of `data.depth` slices, of `data.subjects` subjects at each scanner; column: scanner."""
    sources.fetched("brain")
    key = [3, sources.digest("brain"), data.subjects, data.slices, data.depth]
    ready = made_once("brain", key, lambda: _scanned(data.subjects, data.slices, data.depth))
    means, stds = normalisation(data.mean, data.std, 1, 0.3, 0.3)
    images, masks = ready.images, ready.known["masks"]
    if data.image_size is not None:
        images, masks = resized(images, data.image_size), resized_masks(masks, data.image_size)
    notes = (f"from {sources.versions('brain')}; simulated subjects and scanners of one real template: no patient is shown",)
    return Dataset(
        "brain", images, main_class(masks, len(CLASSES)), CLASSES, means, stds, subjects=ready.known["subject"],
        columns={"scanner": ready.known["scanner"]}, notes=notes, digest=ready.digest if data.image_size is None else None, targets=masks,
    )  # fmt: skip


def _scanned(subjects: int, slices: int, depth: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All images, and what is known of each: masks, subject, scanner."""
    t1, labels = template()
    images, masks, who, where = [], [], [], []
    for name, scanner in SCANNERS.items():
        for number in range(subjects):
            subject = f"{name}-{number:02}"
            chance = stream(0, "brain", subject)
            bend = _bend(chance)
            for levels in _levels(chance, slices, depth):
                shown, there = np.stack([t1[z] for z in levels]), np.stack([labels[z] for z in levels])
                images.append(_through(scanner, chance, _bent(shown, bend, 1)))
                masks.append(_bent(there, bend, 0))
                who.append(subject)
                where.append(name)
    taken, known = np.stack(images)[:, None], np.stack(masks)
    if depth is None:
        taken, known = taken[:, :, 0], known[:, 0]
    return taken, {"masks": known, "subject": np.array(who), "scanner": np.array(where)}


def _levels(chance: np.random.Generator, slices: int, depth: int | None) -> list[list[int]]:
    """The slices of each of a subject's images: evenly spaced ones with some chance, or one run of `depth`."""
    if depth is not None:
        start = LOWEST + (HIGHEST - LOWEST - depth) // 2 + int(chance.integers(-2, 3))
        return [list(range(start, start + depth))]
    even = np.linspace(LOWEST, HIGHEST, slices + 2)[1:-1]
    return [[round(z + chance.uniform(-2, 2))] for z in even]


def template() -> tuple[np.ndarray, np.ndarray]:
    """T1 float32 [Z,HEIGHT,WIDTH] on the scale 0..1 and labels uint8 of the same shape, seen from below, the nose upwards."""
    (folder,) = sources.fetched("brain")
    maps = [
        _halved(read_bytes_of_nifti(folder / f"nilearn/datasets/data/mni_icbm152_{k}_tal_nlin_sym_09a_converted.nii.gz"))
        for k in ("t1", "gm", "wm")
    ]
    t1, grey, white = (np.ascontiguousarray(m.transpose(2, 1, 0)[:, ::-1][:, 2 : 2 + HEIGHT, 1 : 1 + WIDTH]) for m in maps)
    labels = np.where(white > 0.5, 3, np.where(grey > 0.5, 2, t1 > 0.02)).astype(np.uint8)
    return t1, labels


def read_bytes_of_nifti(path: Path) -> np.ndarray:
    """uint8 [X,Y,Z] of a gzipped NIfTI-1 file of bytes."""
    content = gzip.decompress(path.read_bytes())
    head = np.frombuffer(content[:348], "<i2")
    if head[35] != 2 or head[20] < 3 or int(np.frombuffer(content[:4], "<i4")[0]) != 348:
        raise DataError(f"{path} is not a NIfTI-1 file of bytes, as the template is")
    sides = tuple(int(n) for n in head[21:24])
    offset = int(np.frombuffer(content[108:112], "<f4")[0])
    return np.frombuffer(content, np.uint8, sides[0] * sides[1] * sides[2], offset).reshape(sides, order="F")


def _halved(volume: np.ndarray) -> np.ndarray:
    """Means of 2 × 2 × 2 voxels, on the scale 0..1."""
    a, b, c = (n // 2 for n in volume.shape)
    return volume[: 2 * a, : 2 * b, : 2 * c].reshape(a, 2, b, 2, c, 2).mean((1, 3, 5), dtype=np.float32) / np.float32(255)


def _bend(chance: np.random.Generator) -> np.ndarray:
    """Where each pixel of a subject's slice comes from in the template, float [2,HEIGHT,WIDTH]: turned, scaled, moved and bent."""
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    y, x = y - HEIGHT / 2, x - WIDTH / 2
    turn, scale = chance.normal(0, 0.06), chance.normal(1, 0.06, 2)
    field = [gaussian_filter(chance.standard_normal((HEIGHT, WIDTH)), 5) * 22 for _ in range(2)]  # about 1.2 pixels
    moved = chance.normal(0, 1, 2)
    rows = (np.sin(turn) * x + np.cos(turn) * y) * scale[0] + HEIGHT / 2 + moved[0] + field[0]
    columns = (np.cos(turn) * x - np.sin(turn) * y) * scale[1] + WIDTH / 2 + moved[1] + field[1]
    return np.stack([rows, columns])


def _bent(slices: np.ndarray, bend: np.ndarray, order: int) -> np.ndarray:
    """[D,HEIGHT,WIDTH] bent; order: 1 = interpolated, 0 = the nearest pixel."""
    from scipy.ndimage import map_coordinates

    return np.stack([map_coordinates(one, bend, order=order, mode="constant") for one in slices])


def _through(scanner: Scanner, chance: np.random.Generator, t1: np.ndarray) -> np.ndarray:
    """uint8 [D,HEIGHT,WIDTH]: what the scanner makes of a subject's slices; each image's 99.5th percentile is at 230."""
    from scipy.ndimage import gaussian_filter

    x = np.clip((1 - scanner.other) * t1 + scanner.other * np.interp(t1, _T1, _T2), 0, 1) ** scanner.gamma
    y, z = np.mgrid[:HEIGHT, :WIDTH] / max(HEIGHT, WIDTH) - 0.5
    a = chance.normal(0, 1, 4)
    x = x * (1 + scanner.bias * (a[0] * z + a[1] * y + 2 * a[2] * z**2 + 2 * a[3] * y**2))
    if scanner.blur:
        x = gaussian_filter(x, (0, scanner.blur, scanner.blur))
    noise = chance.normal(0, scanner.noise, (2, *x.shape))
    x = np.hypot(x + noise[0], noise[1])
    return np.clip(np.rint(x * (230 / np.percentile(x, 99.5))), 0, 255).astype(np.uint8)
