"""Masks laid over their images, for the eye."""

import numpy as np

from fedvision.augment import UNKNOWN

_WRONG = (230, 30, 40)
_STRENGTH = 0.55  # of a mask's colour over its image


def colours(classes: int) -> np.ndarray:
    """uint8 [256,3]: a colour a class, the first one's black, so that it does not hide the image; grey where nothing is known."""
    import matplotlib

    palette = matplotlib.colormaps["tab10" if classes <= 11 else "tab20" if classes <= 21 else "turbo"]
    table = np.full((256, 3), 128, np.uint8)
    table[0] = 0
    for k in range(1, classes):
        table[k] = np.array(palette(k - 1 if classes <= 21 else (k - 1) / (classes - 1))[:3]) * 255
    return table


def flat(volume: np.ndarray, axes: int) -> np.ndarray:
    """The middle slice along the axis before the last two, where there is one more than `axes`."""
    return volume if volume.ndim == axes else volume[..., volume.shape[-3] // 2, :, :]


def as_colour(image: np.ndarray) -> np.ndarray:
    """uint8 [C,H,W] as [H,W,3]: three channels as they are, of any other number the first, as grey."""
    shown = image[:3] if len(image) == 3 else np.repeat(image[:1], 3, 0)
    return np.ascontiguousarray(shown.transpose(1, 2, 0))


def overlaid(image: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """uint8 [H,W,3]: image uint8 [C,H,W] or [C,D,H,W] under the colours of its mask, class 0 left clear."""
    shown, its = as_colour(flat(image, 3)), flat(mask, 2)
    mixed = (1 - _STRENGTH) * shown + _STRENGTH * colours(classes)[its]
    return np.where((its == 0)[..., None], shown, np.rint(mixed)).astype(np.uint8)


def painted(image: np.ndarray, truth: np.ndarray, said: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """An image [C,H,W] or [C,D,H,W] (its middle slice) as it is, with each mask, and with the pixels where they differ."""
    its, own = flat(truth, 2), flat(said, 2)
    differs = as_colour(flat(image, 3))
    differs[(its != own) & (its != UNKNOWN)] = _WRONG
    return {
        "image": as_colour(flat(image, 3)),
        "truth": overlaid(image, truth, classes),
        "predicted": overlaid(image, said, classes),
        "wrong": differs,
    }
