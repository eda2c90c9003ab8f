"""Pictures of nothing, as many as are asked for: for what depends on how many there are, and not on what they show."""

import numpy as np

from fedvision.data.adapters import from_arrays
from fedvision.data.dataset import Dataset
from fedvision.seeds import stream

CLASSES = tuple("0123456789")


def noise(*, images: int, side: int = 8) -> Dataset:
    """`images` grey pictures of side × side pixels, of ten classes in turn."""
    pixels = stream(0, "noise", images).integers(0, 256, (images, side, side), dtype=np.uint8)
    return from_arrays("noise", pixels, np.arange(images) % len(CLASSES), CLASSES)
