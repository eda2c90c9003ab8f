"""Boxes, and masks where there are any, drawn into their images for the eye."""

from collections.abc import Sequence

import numpy as np

from fedvision.detection.packing import BOX, unpacked
from fedvision.detection.padding import NONE
from fedvision.tasks.painting import as_colour

MISSED, WRONG = (255, 200, 0), (230, 30, 40)
IGNORED = (140, 140, 140)
_STRENGTH = 0.45  # of a mask's colour over its image
_SIDE = 288  # pixels that the shorter side is enlarged to at least, so that the names can be read


def colour(k: int) -> tuple[int, int, int]:
    """The colour of class k."""
    import matplotlib

    red, green, blue = matplotlib.colormaps["tab10"](k % 10)[:3]
    return int(red * 255), int(green * 255), int(blue * 255)


def boxed(image: np.ndarray, boxes: np.ndarray, classes: Sequence[str], scores: np.ndarray | None = None) -> np.ndarray:
    """uint8 [H,W,3]: the image [C,H,W], enlarged, with boxes [m,5] in their classes' colours, and their masks, where rows hold them."""
    pixels, factor = enlarged(tinted(as_colour(image), boxes))
    return drawn(pixels, factor * boxes[:, 1:BOX], boxes[:, 0], classes, scores)


def shaded(image: np.ndarray, groups: Sequence[tuple[tuple[int, int, int], np.ndarray]], classes: Sequence[str]) -> np.ndarray:
    """As `boxed`, of groups of boxes, each in one colour."""
    pixels = as_colour(image)
    for shade, boxes in groups:
        pixels = tinted(pixels, boxes, shade)
    pixels, factor = enlarged(pixels)
    for shade, boxes in groups:
        pixels = drawn(pixels, factor * boxes[:, 1:BOX], boxes[:, 0], classes, shade=shade)
    return pixels


def enlarged(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """uint8 [H,W,3], each pixel a square of so many; and how many."""
    factor = max(1, -(-_SIDE // min(pixels.shape[:2])))
    return pixels.repeat(factor, 0).repeat(factor, 1), factor


def tinted(pixels: np.ndarray, boxes: np.ndarray, shade: tuple[int, int, int] | None = None) -> np.ndarray:
    """uint8 [H,W,3] with the masks of rows [m,5 + P] laid over, in their classes' colours or in one; as it is, where rows hold none."""
    own = boxes[boxes[:, 0] != NONE]
    if boxes.shape[1] == BOX or not len(own):
        return pixels
    result = pixels.astype(np.float32)
    for kind, mask in zip(own[:, 0].tolist(), unpacked(own[:, BOX:], *pixels.shape[:2]), strict=True):
        ink = np.array(ink_of(kind, shade), np.float32)
        result[mask] = (1 - _STRENGTH) * result[mask] + _STRENGTH * ink
        result[mask & ~_inner(mask)] = ink  # its edge, so that two of a class can be told apart
    return np.rint(result).astype(np.uint8)


def _inner(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask [H,W] whose four neighbours are its own, too."""
    wide = np.pad(mask, 1)
    return wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]


def ink_of(kind: float, shade: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """The colour of an object of class `kind`, which is grey where it is to be ignored; or of all of them."""
    return shade or (colour(int(kind)) if kind >= 0 else IGNORED)


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
        ink = ink_of(kind, shade)
        pen.rectangle([x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)], outline=ink, width=2)
        if kind >= 0:
            said = classes[int(kind)] if scores is None else f"{classes[int(kind)]} {100 * scores[number]:.0f}"
            place = (x1 + 2, y1 - 11 if y1 >= 11 else y1 + 1)
            left, top, right, bottom = pen.textbbox(place, said)
            pen.rectangle([left - 1, top - 1, right + 1, bottom + 1], fill=ink)
            pen.text(place, said, fill=(255, 255, 255))
    return np.asarray(picture)
