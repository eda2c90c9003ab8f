"""Images and masks of one size brought to another."""

import numpy as np


def resized(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N,C,H,W] or [N,C,D,H,W] stretched to side × side, bilinear with antialiasing, each channel and slice by itself."""
    from PIL import Image

    if images.shape[-2:] == (side, side):
        return images
    result = np.empty((*images.shape[:-2], side, side), np.uint8)
    planes, smaller = images.reshape(-1, *images.shape[-2:]), result.reshape(-1, side, side)
    for number, plane in enumerate(planes):
        smaller[number] = np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR))
    return result


def resized_masks(masks: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N,H,W] or [N,D,H,W] stretched to side × side by the nearest pixel: no class is made up between two others."""
    height, width = masks.shape[-2:]
    rows, columns = (np.minimum((np.arange(side) * 2 + 1) * n // (2 * side), n - 1) for n in (height, width))
    return np.ascontiguousarray(masks[..., rows[:, None], columns[None]])


def of_depth(volumes: np.ndarray, depth: int, beyond: int) -> np.ndarray:
    """[...,D,H,W] cut to its `depth` middle slices, or with slices of the value `beyond` put around them.

    >>> of_depth(np.arange(5)[:, None, None], 2, 9).ravel(), of_depth(np.arange(2)[:, None, None], 5, 9).ravel()
    (array([1, 2]), array([9, 0, 1, 9, 9]))
    """
    has = volumes.shape[-3]
    if has >= depth:
        start = (has - depth) // 2
        return np.ascontiguousarray(volumes[..., start : start + depth, :, :])
    before = (depth - has) // 2
    around = [(0, 0)] * (volumes.ndim - 3) + [(before, depth - has - before), (0, 0), (0, 0)]
    return np.pad(volumes, around, constant_values=beyond)
