"""Where letters are in an image: boxes by rapidocr's detector, and rows of small marks on empty black.

Works offline: the models are in rapidocr's package.  Images are [rows, columns, 3] uint8, boxes in pixels.  What is
missed stays in the picture, so thresholds are low, and a box too many is the price.
"""

from functools import cache
from typing import Any

SMALLEST_TEXT = 16  # pixels; an image with a shorter side holds no line of text
TILE, OVERLAP = 1280, 160  # pixels; larger images are looked at in parts, so that small letters are not scaled away
FIRST_SIDE, SECOND_SIDE, PART_SIDE = 736, 1024, 448  # pixels to which the shorter side is enlarged before detection
SURE, KEEN = (0.3, 0.5), (0.15, 0.25)  # how likely a pixel and a box must be text: the model's own choice, and ours
TALL = 0.12  # of the image: a higher box is a letter only if it reads as one
MARGIN = 4  # pixels around a box
LETTER, GAP = 48, 25  # pixels: the longest mark that is a letter, and the widest space between two of a line
MARK, EMPTY = 24, 6  # of 255, over an image's darkest value: more is a mark, less is nothing

Box = tuple[int, int, int, int]  # left, top, right, bottom


@cache
def engine() -> Any:
    """rapidocr, loaded once a process, with one thread, so that a process is a core."""
    import numpy as np
    from rapidocr import RapidOCR

    model = RapidOCR(
        params={
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Det.limit_type": "min",
        }
    )
    model(np.zeros((32, 32, 3), np.uint8), use_det=True, use_cls=False, use_rec=False)  # only now there is a detector
    return model


def find(image: Any, side: int, keen: bool = True) -> list[Box]:
    """Boxes around text in an image, with a margin, clipped to the image; `keen`: also around what is faint."""
    rows, columns = image.shape[:2]
    found: list[Box] = []
    for top in _starts(rows):
        for left in _starts(columns):
            tile = image[top : top + TILE, left : left + TILE]
            found += [(left + a, top + b, left + c, top + d) for a, b, c, d in _in_tile(tile, side, keen)]
    return [(max(0, a), max(0, b), min(columns, c), min(rows, d)) for a, b, c, d in found]


def _starts(length: int) -> list[int]:
    return [0] if length <= TILE else [*range(0, length - TILE, TILE - OVERLAP), length - TILE]


def _enlarged(tile: Any, side: int) -> int:
    """The side to enlarge to, at most four times what there is: blown up further, noise looks like letters."""
    return next((size for size in (128, 256, 512) if 4 * min(tile.shape[:2]) <= size), side)


def _in_tile(tile: Any, side: int, keen: bool, parts: bool = True) -> list[Box]:
    """Boxes in an image of at most TILE pixels a side.  One that is too large for a line of letters is looked into, in
    `parts`, at least where it reads as text; if it does and they hold no smaller one, it counts itself."""
    if int(tile.max()) - int(tile.min()) < 8:
        return []
    found: list[Box] = []
    for box in _detected(tile, _enlarged(tile, side), keen):
        if min(box[3] - box[1], box[2] - box[0]) <= max(TALL * min(tile.shape[:2]), 48):  # a line may stand on its end
            found.append(_with_margin(box))
            continue
        is_text = reads(tile, box)
        within = _within(tile, box, keen) if parts and (is_text or (keen and side == FIRST_SIDE)) else []
        found += within or ([box] if is_text else [])
    return found


def _with_margin(box: Box) -> Box:
    """A box and what of its letters may lie around it: accents across the line, half a letter at its ends."""
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    across, along = MARGIN + min(wide, high) // 8, MARGIN + min(wide, high) // 2
    x, y = (along, across) if wide >= high else (across, along)
    return left - x, top - y, right + x, bottom + y


def _within(tile: Any, box: Box, keen: bool) -> list[Box]:
    """What is found in the four quarters of a box, each with a margin to the others."""
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), box[2], box[3]
    wide, high = (right - left) * 5 // 8, (bottom - top) * 5 // 8
    found: list[Box] = []
    for x in (left, right - wide):
        for y in (top, bottom - high):
            part = tile[max(0, y) : y + high, max(0, x) : x + wide]
            if min(part.shape[:2]) >= SMALLEST_TEXT:
                found += [(x + a, y + b, x + c, y + d) for a, b, c, d in _in_tile(part, PART_SIDE, keen, parts=False)]
    return found


def _detected(tile: Any, side: int, keen: bool) -> list[Box]:
    import numpy as np

    model = engine()
    model.text_det.limit_side_len = side
    model.text_det.postprocess_op.thresh, model.text_det.postprocess_op.box_thresh = KEEN if keen else SURE
    boxes = model(np.ascontiguousarray(tile[..., ::-1]), use_det=True, use_cls=False, use_rec=False).boxes
    corners = [(box.min(axis=0), np.ceil(box.max(axis=0))) for box in (boxes if boxes is not None else [])]
    return [(int(least[0]), int(least[1]), int(most[0]), int(most[1])) for least, most in corners]


def marks(image: Any) -> list[Box]:
    """Boxes around rows and columns of at least three small marks on empty black: what a scanner writes beside the
    picture, also where it is too short or too faint for the model."""
    import cv2
    import numpy as np

    grey = image.max(axis=2)
    floor = int(grey.min())
    _, labels, stats, _ = cv2.connectedComponentsWithStats((grey > floor + MARK).astype(np.uint8), connectivity=8)
    longer, shorter = stats[:, 2:4].max(axis=1), stats[:, 2:4].min(axis=1)
    small = (longer >= 5) & (longer <= LETTER) & (shorter <= LETTER) & (stats[:, 4] >= 5)
    small[0] = False
    if np.count_nonzero(small) < 3:
        return []
    letters = small[labels].astype(np.uint8)
    near = cv2.dilate(letters, np.ones((7, 7), np.uint8)) > 0
    picture = cv2.integral(((grey > floor + EMPTY) & ~near).astype(np.uint8))
    return [box for size in ((1, GAP), (GAP, 1)) for box in _rows(letters, labels, size) if _beside(picture, box)]


def _rows(letters: Any, labels: Any, size: tuple[int, int]) -> list[Box]:
    """Boxes around what becomes one when gaps of `size` are closed, where it is at least three of `labels`."""
    import cv2
    import numpy as np

    rows, columns = letters.shape
    _, places, boxes, _ = cv2.connectedComponentsWithStats(
        cv2.morphologyEx(letters, cv2.MORPH_CLOSE, np.ones(size, np.uint8)), connectivity=8
    )
    inside = letters > 0
    pairs = np.unique(np.stack([places[inside], labels[inside]], axis=1), axis=0)
    members = np.bincount(pairs[:, 0], minlength=len(boxes))
    found: list[Box] = []
    for left, top, width, height in boxes[1:, :4][members[1:] >= 3].tolist():
        if min(width, height) <= LETTER:
            right, bottom = left + width + MARGIN, top + height + MARGIN
            found.append((max(0, left - MARGIN), max(0, top - MARGIN), min(columns, right), min(rows, bottom)))
    return found


def _beside(picture: Any, box: Box) -> bool:
    """Whether a box holds next to nothing of the picture, which is given as its integral."""
    left, top, right, bottom = box
    held = picture[bottom, right] - picture[top, right] - picture[bottom, left] + picture[top, left]
    return bool(held <= 0.02 * (right - left) * (bottom - top))


def reads(tile: Any, box: Box, least: int = 2, score: float = 0.5) -> bool:
    """Whether a tall box holds letters: without this, a rib cage is one large character."""
    import numpy as np

    left, top, right, bottom = box
    part = np.ascontiguousarray(tile[max(0, top) : bottom, max(0, left) : right, ::-1])
    read = engine()(part, use_det=False, use_cls=False, use_rec=True)
    text = "".join(read.txts or [])
    certain = min(read.scores) if getattr(read, "scores", None) else 0.0
    return sum(letter.isascii() and letter.isalnum() for letter in text) >= least and certain >= score
