"""Masks of objects on the way through a model: as `packing` lays them out, and how far they cover each other."""

import torch
from torch import Tensor

from fedvision.detection.packing import BOX, PIXELS, columns


def bits(rows: Tensor) -> Tensor:
    """float [...,P] -> bool [...,24·P]: the pixels, and zeros behind the last."""
    shifts = torch.arange(PIXELS - 1, -1, -1, device=rows.device, dtype=torch.int32)
    return ((rows.to(torch.int32)[..., None] >> shifts) & 1).bool().flatten(-2)


def drawn_out(rows: Tensor, height: int, width: int) -> Tensor:
    """float [...,P] -> masks bool [...,H,W]."""
    return bits(rows)[..., : height * width].unflatten(-1, (height, width))


def laid_in(masks: Tensor) -> Tensor:
    """Masks bool [...,H,W] -> float32 [...,P]."""
    height, width = masks.shape[-2:]
    whole = columns(height, width) * PIXELS
    flat = torch.nn.functional.pad(masks.flatten(-2), (0, whole - height * width)).float()
    powers = 2.0 ** torch.arange(PIXELS - 1, -1, -1, device=masks.device)
    return (flat.unflatten(-1, (whole // PIXELS, PIXELS)) * powers).sum(-1)


def around(masks: Tensor) -> Tensor:
    """The boxes around masks bool [...,H,W], float32 [...,4]; zeros around an empty one."""
    sides = []
    for line in (masks.any(-2), masks.any(-1)):  # columns, then rows, that hold a pixel
        n = line.shape[-1]
        first = line.to(torch.uint8).argmax(-1)
        last = n - line.flip(-1).to(torch.uint8).argmax(-1)
        sides.append((first, last))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], -1).float() * masks.any(-1).any(-1)[..., None]


def cover(found: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of masks [N,P] and [M,P]: pixels that each two share, float64 [N,M]; pixels of each of the first [N,1], and of the second [M]."""
    a, b = bits(found).float(), bits(there).float()  # counts below 2^24 are exact
    return (a @ b.T).double(), a.sum(-1, keepdim=True).double(), b.sum(-1).double()


def has_masks(targets: Tensor) -> bool:
    """Whether rows [...,n] hold masks behind their boxes."""
    return targets.shape[-1] > BOX
