"""A conditional random field over the pixels of an image, each pair of them joined, by mean field.  Krähenbühl, Koltun 2011.

    Q_i(k) ∝ exp( u_i(k) + Σ_m w_m Σ_j κ_m(i, j) Q_j(k) )         u: the network's logits; labels that differ cost alike (Potts)
    κ_1(i, j) ∝ exp( −|p_i − p_j|² / 2 θ_α² − |I_i − I_j|² / 2 θ_β² )
    κ_2(i, j) ∝ exp( −|p_i − p_j|² / 2 θ_γ² )

Each kernel is divided by √(d_i d_j), d_i = Σ_j κ(i, j), so that w_m is what neighbours that all agree add, in nats.  Pairs are summed
one by one, without a grid or a lattice between them; those further apart than `reach` along an axis are left out.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fedvision.segmenting import Crf

Slices = tuple[slice, ...]


def refined(logits: Tensor, images: Tensor, crf: "Crf") -> Tensor:
    """Logits [B,K,...] whose softmax are the marginals, from a network's logits and its input [B,C,...]."""
    reach = crf.reach or math.ceil(3 * max(crf.similar_space, crf.near_space))
    pairs = list(_offsets(logits.shape[2:], reach))
    alike, near = (_scales(images, pairs, crf, own) for own in (True, False))
    result = logits
    for _ in range(crf.iterations):
        marginals, message = result.softmax(1), torch.zeros_like(logits)
        for distance, one, other in pairs:
            join = crf.similar * _kernel(images, distance, one, other, crf, True) * alike[one] * alike[other]
            join = join + crf.near * _kernel(images, distance, one, other, crf, False) * near[one] * near[other]
            message[one] += join * marginals[other]
            message[other] += join * marginals[one]
        result = logits + message
    return result


def _offsets(sides: torch.Size, reach: int) -> Iterator[tuple[float, Slices, Slices]]:
    """Every step from a pixel to another within reach, of two opposite ones the first alone: (its length squared, the pixels that it
    can be made from, those that it ends at), as slices of [B,C,...]."""
    whole = (slice(None), slice(None))
    for step in product(*(range(-min(reach, side - 1), min(reach, side - 1) + 1) for side in sides)):
        if step > (0,) * len(step):
            own = tuple(slice(max(0, -n), side - max(0, n)) for n, side in zip(step, sides, strict=True))
            its = tuple(slice(max(0, n), side - max(0, -n)) for n, side in zip(step, sides, strict=True))
            yield float(sum(n * n for n in step)), whole + own, whole + its


def _kernel(images: Tensor, distance: float, one: Slices, other: Slices, crf: "Crf", alike: bool) -> Tensor:
    """κ of the pairs of one step, [B,1,...], or a number for all of them."""
    if not alike:
        return torch.tensor(math.exp(-distance / (2 * crf.near_space**2)))
    apart = (images[one] - images[other]).square().sum(1, keepdim=True)
    return torch.exp(apart.div_(-2 * crf.similar_colour**2).sub_(distance / (2 * crf.similar_space**2)))


def _scales(images: Tensor, pairs: list[tuple[float, Slices, Slices]], crf: "Crf", alike: bool) -> Tensor:
    """1 / √d of each pixel, [B,1,...]; 0 of one without neighbours."""
    total = torch.zeros_like(images[:, :1])
    for distance, one, other in pairs:
        kernel = _kernel(images, distance, one, other, crf, alike)
        total[one] += kernel
        total[other] += kernel
    return torch.where(total > 0, total.rsqrt(), 0.0)
