"""A data set of one's own: discs, squares and crosses, each drawn by one of several hands.  Used by own_data.yaml."""

import numpy as np

from fedvision.data.adapters import from_arrays
from fedvision.data.dataset import Dataset
from fedvision.seeds import stream

SHAPES = ("disc", "square", "cross")


def shapes(*, hands: int = 6, drawings: int = 60, side: int = 16) -> Dataset:
    """`drawings` drawings by each of `hands` hands; a hand has its own size and ink, and is the subject of what it drew."""
    images, labels, drawn_by = [], [], []
    for hand in range(hands):
        rng = stream(0, "own_data", "hand", hand)
        size, ink = rng.uniform(0.25, 0.4), rng.integers(120, 256)
        for number in range(drawings):
            label = number % len(SHAPES)
            images.append(draw(SHAPES[label], rng, size * side, ink, side))
            labels.append(label)
            drawn_by.append(f"hand-{hand}")
    return from_arrays("shapes", np.stack(images), labels, SHAPES, columns={"hand": drawn_by})


def draw(shape: str, rng: np.random.Generator, radius: float, ink: int, side: int) -> np.ndarray:
    """uint8 [side,side]: one shape, about in the middle, on noisy paper."""
    y, x = np.mgrid[:side, :side] - side / 2 - rng.uniform(-2, 2, (2, 1, 1))
    inside = {
        "disc": np.hypot(x, y) < radius,
        "square": np.maximum(abs(x), abs(y)) < radius * 0.9,
        "cross": (np.minimum(abs(x), abs(y)) < radius / 3) & (np.maximum(abs(x), abs(y)) < radius),
    }[shape]
    return np.clip(inside * float(ink) + rng.normal(20, 8, (side, side)), 0, 255).astype(np.uint8)
