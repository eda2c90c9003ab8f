"""Handwriting: characters of handwriting fonts.  A font was drawn by one hand, and stands for a writer.

A font holds one drawing of each character.  Others of the same hand are made of it by small turns, sizes, slants and places,
drawn by name: so many drawings are alike in their shape, and only writers that were never seen show what was learned.
"""

import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvision.data import sources
from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.made import made_once
from fedvision.seeds import stream

if TYPE_CHECKING:
    from fedvision.holdings import Handwriting

ALPHABETS = {
    "digits": string.digits,
    "lower": string.ascii_lowercase,
    "all": string.digits + string.ascii_uppercase + string.ascii_lowercase,
}
_FINER = 4  # times the side at which a character is drawn before it is made small


def handwriting(data: "Handwriting") -> Dataset:
    """White characters on black, `drawings` of each by each of the writers; columns: writer, who is also the subject."""
    from PIL import __version__

    sources.fetched("handwriting")
    side, characters = data.image_size or 28, ALPHABETS[data.characters]
    key = [1, sources.digest("handwriting"), __version__, side, characters, data.drawings]
    ready = made_once("handwriting", key, lambda: _drawn(side, characters, data.drawings))
    means, stds = normalisation(data.mean, data.std, 1, 0.5, 0.5)
    writers = ready.known["writer"]
    note = (
        f"{len(set(writers.tolist()))} writers are fonts; each drawing of a character is one of its font, turned, sized and slanted a little: "
        "how a model does on writers that it never saw is told by the server's own data alone (evaluation.server)"
    )
    return Dataset(
        "handwriting", ready.images, ready.known["labels"], tuple(characters), means, stds, subjects=writers, columns={"writer": writers},
        notes=(note,), digest=ready.digest,
    )  # fmt: skip


def _drawn(side: int, characters: str, drawings: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    images, labels, writers = [], [], []
    for archive, folder in zip(sources.HANDS, sources.fetched("handwriting"), strict=True):
        writer = archive.package.rpartition("/")[2]
        font = _font(folder / f"package/files/{writer}-latin-400-normal.woff2", side)
        for label, character in enumerate(characters):
            rng = stream(0, "handwriting", writer, character)
            images += [draw(font, character, side, rng) for _ in range(drawings)]
            labels += [label] * drawings
            writers += [writer] * drawings
    return np.stack(images)[:, None], {"labels": np.array(labels, np.int64), "writer": np.array(writers)}


def _font(path: Path, side: int) -> Any:
    """The font at the size at which its capital H is as high as 0.62 of the side, before it is made small."""
    from PIL import ImageFont

    trial = ImageFont.truetype(str(path), 100)
    _, top, _, bottom = trial.getbbox("H")
    return ImageFont.truetype(str(path), max(8, round(100 * 0.62 * side * _FINER / max(1, bottom - top))))


def draw(font: Any, character: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [side,side]: one character about the middle, shrunk where it would not fit."""
    from PIL import Image, ImageDraw

    large = side * _FINER
    canvas = Image.new("L", (2 * large, 2 * large))
    ImageDraw.Draw(canvas).text((large, large), character, 255, font, anchor="mm")
    left, top, right, bottom = canvas.getbbox() or (0, 0, 1, 1)
    fits = min(1.0, 0.86 * large / max(right - left, bottom - top))
    scale, turn, slant = fits * rng.uniform(0.85, 1.05), np.deg2rad(rng.normal(0, 4)), rng.normal(0, 0.08)
    shift = rng.uniform(-0.04, 0.04, 2) * large
    inverse = np.linalg.inv(
        scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array([[1, slant], [0, 1]])
    )
    offset = np.array([(left + right) / 2, (top + bottom) / 2]) - inverse @ (np.array([large / 2, large / 2]) + shift)
    matrix = (inverse[0, 0], inverse[0, 1], offset[0], inverse[1, 0], inverse[1, 1], offset[1])
    placed = canvas.transform((large, large), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(placed.resize((side, side), Image.Resampling.BOX))
