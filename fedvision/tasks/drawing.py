"""Boxes drawn into their images, for the eye."""

from collections.abc import Sequence

import numpy as np

from fedvision.tasks.painting import as_colour

MISSED, WRONG = (255, 200, 0), (230, 30, 40)
_SIDE = 288  # pixels that the shorter side is enlarged to at least, so that the names can be read


def colour(k: int) -> tuple[int, int, int]:
    """The colour of class k."""
    import matplotlib

    red, green, blue = matplotlib.colormaps["tab10"](k % 10)[:3]
    return int(red * 255), int(green * 255), int(blue * 255)


def enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    """uint8 [H,W,3] of an image [C,H,W], each pixel a square of so many; and how many."""
    factor = max(1, -(-_SIDE // min(image.shape[1:])))
    return as_colour(image).repeat(factor, 0).repeat(factor, 1), factor


def boxed(image: np.ndarray, boxes: np.ndarray, classes: Sequence[str], scores: np.ndarray | None = None) -> np.ndarray:
    """uint8 [H,W,3]: the image [C,H,W], enlarged, with boxes [m,5] in their classes' colours."""
    pixels, factor = enlarged(image)
    return drawn(pixels, factor * boxes[:, 1:], boxes[:, 0], classes, scores)


def drawn(
    pixels: np.ndarray,
    corners: np.ndarray,
    kinds: np.ndarray,
    classes: Sequence[str],
    scores: np.ndarray | None = None,
    shade: tuple[int, int, int] | None = None,
) -> np.ndarray:
    """uint8 [H,W,3] with boxes [m,4] of `kinds` [m] and, of predictions, their scores in %; regions to be ignored are grey.

    shade: of all boxes; null = their classes' colours.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    for number, (kind, (x1, y1, x2, y2)) in enumerate(zip(kinds.tolist(), corners.tolist(), strict=True)):
        if kind == -1:
            continue
        ink = shade or (colour(int(kind)) if kind >= 0 else (140, 140, 140))
        pen.rectangle([x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)], outline=ink, width=2)
        if kind >= 0:
            said = classes[int(kind)] if scores is None else f"{classes[int(kind)]} {100 * scores[number]:.0f}"
            place = (x1 + 2, y1 - 11 if y1 >= 11 else y1 + 1)
            left, top, right, bottom = pen.textbbox(place, said)
            pen.rectangle([left - 1, top - 1, right + 1, bottom + 1], fill=ink)
            pen.text(place, said, fill=(255, 255, 255))
    return np.asarray(picture)
