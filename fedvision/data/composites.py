"""Composites: real cut-outs of photographs pasted on real photographs, so that every box, and every mask, is exact.

The cut-outs are those of Tux Paint's stamps that are photographs, with their own alpha; the backgrounds are cut from the photograph of a
Chinese temple that scikit-learn ships, which shows nothing of the classes.  A site has a mixture of classes and a range of sizes of its own.
Cut-outs recur between scenes: what is measured is finding known things in new scenes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision.data import sources
from fedvision.data.boxed import main_class
from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.made import made_once
from fedvision.data.packaged import package_file
from fedvision.detection.packing import BOX, packed
from fedvision.detection.padding import padded
from fedvision.seeds import stream

if TYPE_CHECKING:
    from PIL.Image import Image

    from fedvision.holdings import Composites

FOLDERS = {
    "bird": "animals/birds", "mammal": "animals/mammals", "insect": "animals/insects", "fruit": "food/fruit", "vegetable": "food/vegetables",
    "flower": "plants/flowers", "vehicle": "vehicles", "household": "household",
}  # fmt: skip
MOST = 4  # objects in a scene
EMPTY = 0.05  # share of the scenes that hold none
SEEN = 0.7  # share of an object that what is pasted later must leave to be seen
_LEAST = 1500  # opaque pixels of a cut-out
_KEPT = 128  # pixels: longest side at which a cut-out is kept
_VERSION = 1


def composites(data: "Composites") -> Dataset:
    """data.scenes scenes at each of data.sites sites; the column `site` says whose each is."""
    from PIL import __version__

    (folder,) = sources.fetched("composites")
    side = data.image_size or 96
    classes = tuple(data.classes)
    key = [
        _VERSION,
        __version__,
        sources.digest("composites"),
        side,
        data.sites,
        data.scenes,
        list(classes),
        data.cut_outs,
        data.skew,
        data.seed,
        *(["masks"] if data.masks else []),
    ]
    made = made_once("composites", key, lambda: _scenes(folder, classes, side, data))
    means, stds = normalisation(data.mean, data.std, 3, 0.5, 0.5)
    known = made.known
    real = known["boxes"][..., 0] >= 0
    notes = (
        f"composites of real cut-outs ({sources.versions('composites')}) on a real photograph, no photographs as a whole; cut-outs recur between scenes",
        f"{int(real.sum()):,} boxes in {len(real):,} scenes, of which {int((~real.any(1)).sum()):,} have none",
    )
    return Dataset(
        "composites", made.images, known["labels"], classes, means, stds, columns={"site": known["site"]}, notes=notes, digest=made.digest,
        targets=known["boxes"], target_names=classes,
    )  # fmt: skip


def _scenes(folder: Path, classes: tuple[str, ...], side: int, data: "Composites") -> tuple[np.ndarray, dict[str, np.ndarray]]:
    cut_outs, photograph = [_cut_outs(folder, name)[: data.cut_outs] for name in classes], _photograph()
    images, boxes, site = [], [], []
    for number in range(data.sites):
        rng = stream(data.seed, "composites", "site", number)
        mixture = rng.dirichlet([data.skew] * len(classes))
        smallest = rng.uniform(0.22, 0.36)
        for scene in range(data.scenes):
            rng = stream(data.seed, "composites", "site", number, "scene", scene)
            image, rows = _scene(rng, cut_outs, photograph, mixture, (smallest, smallest + 0.22), side)
            images.append(image)
            boxes.append(rows if data.masks else rows[:, :BOX])
            site.append(f"site-{number:02}")
    return np.stack(images), {"boxes": padded(boxes, MOST), "labels": main_class(boxes, len(classes)), "site": np.array(site)}


def _cut_outs(folder: Path, name: str) -> list["Image"]:
    """The photographed cut-outs of a class, cropped to what is opaque, in the order of their names."""
    from PIL import Image

    found: list[Image.Image] = []
    for path in sorted((folder / "usr/share/tuxpaint/stamps" / FOLDERS[name]).rglob("*.png")):
        if "cartoon" in str(path):
            continue
        stored = Image.open(path)
        if "A" not in stored.getbands():
            continue
        picture = stored.convert("RGBA")
        opaque = picture.getchannel("A").point(lambda a: 255 * (a > 127))
        if opaque.histogram()[255] < _LEAST:
            continue
        picture = picture.crop(opaque.getbbox())
        picture.thumbnail((_KEPT, _KEPT), Image.Resampling.LANCZOS)
        found.append(picture)
    return found


def _photograph() -> "Image":
    from PIL import Image

    return Image.open(package_file("sklearn", "datasets/images/china.jpg", "scikit-learn")).convert("RGB")


def _scene(
    rng: np.random.Generator, cut_outs: list[list["Image"]], photograph: "Image", mixture: np.ndarray, sizes: tuple[float, float], side: int
) -> tuple[np.ndarray, np.ndarray]:
    """One scene, uint8 [3,side,side], and its boxes with their masks [m,5 + P]."""
    scene = _background(rng, photograph, side)
    owner = np.full((side, side), -1)
    kinds: list[int] = []
    count = 0 if rng.random() < EMPTY else int(rng.integers(1, MOST + 1))
    for _ in range(count):
        kind = int(rng.choice(len(cut_outs), p=mixture))
        picture = _turned(rng, cut_outs[kind][int(rng.integers(len(cut_outs[kind])))], side * rng.uniform(*sizes))
        for _ in range(8):  # places; one that hides too much of what is there is not taken
            x, y = (int(rng.integers(0, max(1, side - n + 1))) for n in picture.size)
            opaque = np.zeros((side, side), bool)
            opaque[y : y + picture.height, x : x + picture.width] = np.asarray(picture.getchannel("A"))[: side - y, : side - x] > 127
            if _leaves_enough(owner, opaque, len(kinds)):
                scene.paste(picture, (x, y), picture)
                owner[opaque] = len(kinds)
                kinds.append(kind)
                break
    masks = owner == np.arange(len(kinds))[:, None, None]
    rows = np.array([_box(mask, kind) for mask, kind in zip(masks, kinds, strict=True)], np.float64).reshape(-1, BOX)
    return np.asarray(scene).transpose(2, 0, 1), np.concatenate([rows, packed(masks)], 1)


def _background(rng: np.random.Generator, photograph: "Image", side: int) -> "Image":
    from PIL import Image, ImageOps

    edge = int(rng.integers(120, min(photograph.size) + 1))
    x, y = (int(rng.integers(0, n - edge + 1)) for n in photograph.size)
    part = photograph.crop((x, y, x + edge, y + edge)).resize((side, side), Image.Resampling.BILINEAR)
    return ImageOps.mirror(part) if rng.random() < 0.5 else part


def _turned(rng: np.random.Generator, picture: "Image", longest: float) -> "Image":
    """The cut-out, mirrored by chance, turned by about 10°, its longest side so many pixels."""
    from PIL import Image, ImageOps

    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    scale = longest / max(picture.size)
    width, height = (max(4, round(n * scale)) for n in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR).rotate(
        float(rng.normal(0, 10)), Image.Resampling.BILINEAR, expand=True
    )


def _leaves_enough(owner: np.ndarray, opaque: np.ndarray, there: int) -> bool:
    if not opaque.any():
        return False
    return all((owner[opaque] == n).sum() <= (1 - SEEN) * (owner == n).sum() for n in range(there))


def _box(mask: np.ndarray, kind: int) -> list[float]:
    """The box of what is seen of one object."""
    down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [kind, across[0], down[0], across[-1] + 1, down[-1] + 1]
