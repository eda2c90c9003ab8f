"""Deformable DETR: each token and each query looks at a few points of each map, where it says itself, instead of at every token.

Zhu, Su, Lu, Li, Wang, Dai: Deformable DETR: Deformable transformers for end-to-end object detection, 2021; the points are sampled by
torch's own grid_sample.  Without its two stages and without refining boxes from layer to layer; the loss is DETR's.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from fedvision.models.detr import Attention, feed, places
from fedvision.models.pyramid import STRIDES, features
from fedvision.models.small import normalise


def sampled(maps: list[Tensor], at: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of what maps hold at points between their places, zeros outside.  Equation 2.

    maps: L of [B,H,d,h,w], of H heads.  at [B,N,H,L,P,2]: x and y over the image's sides, 0 the left and upper edge, 1 the right and lower.
    weights [B,N,H,L,P].  -> [B,N,H·d].
    """
    b, n, heads, *_ = at.shape
    grid = (2 * at - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # [L,B·H,N,P,2]
    seen = [grid_sample(x.flatten(0, 1), g, align_corners=False) for x, g in zip(maps, grid, strict=True)]  # each [B·H,d,N,P]
    share = weights.permute(0, 2, 1, 3, 4).reshape(b * heads, 1, n, -1)  # [B·H,1,N,L·P]
    return (torch.cat(seen, -1) * share).sum(-1).unflatten(0, (b, heads)).permute(0, 3, 1, 2).flatten(2)


class DeformableAttention(nn.Module):
    """points: of each map and head at which a token looks; at first they lie in a row, in another direction for each head."""

    def __init__(self, width: int, heads: int, points: int):
        super().__init__()
        self.heads, self.points = heads, points
        each = heads * len(STRIDES) * points
        self.value, self.offsets, self.weights, self.out = (nn.Linear(width, n) for n in (width, 2 * each, each, width))
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        turn = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([turn.cos(), turn.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_((direction[:, None, None] * steps).expand(heads, len(STRIDES), points, 2).flatten())

    def forward(self, x: Tensor, near: Tensor, tokens: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """x [B,N,D] looks around near [B,N,2], x and y over the image's sides, at tokens [B,M,D] of maps of `sizes` (height, width)."""
        b, n, _ = x.shape
        shape = (b, n, self.heads, len(sizes), self.points)
        weights = self.weights(x).view(*shape[:3], -1).softmax(-1).view(shape)
        pixels = x.new_tensor([[w, h] for h, w in sizes])[:, None]
        at = near[:, :, None, None, None] + self.offsets(x).view(*shape, 2) / pixels
        values = self.value(tokens).view(b, -1, self.heads, x.shape[2] // self.heads).permute(0, 2, 3, 1)
        maps = [one.unflatten(-1, size) for one, size in zip(values.split([h * w for h, w in sizes], -1), sizes, strict=True)]
        result: Tensor = self.out(sampled(maps, at, weights))
        return result


class Encoder(nn.Module):
    """One layer over the tokens of all maps, normalised first."""

    def __init__(self, width: int, heads: int, points: int):
        super().__init__()
        self.attend, self.feed = DeformableAttention(width, heads, points), feed(width)
        self.norm, self.norm_after = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, known: Tensor, near: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """x [B,M,D]; known [M,D]: where each token is, and on which map."""
        y = self.norm(x)
        x = x + self.attend(y + known, near, y, sizes)
        return x + self.feed(self.norm_after(x))


class Decoder(nn.Module):
    """One layer over the queries: on each other, then on points of the maps."""

    def __init__(self, width: int, heads: int, points: int):
        super().__init__()
        self.among, self.upon, self.feed = Attention(width, heads), DeformableAttention(width, heads, points), feed(width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, asks: Tensor, near: Tensor, tokens: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """x [B,Q,D], asks [B,Q,D] the queries' own, near [B,Q,2] where each looks -> [B,Q,D]."""
        y = self.norms[0](x)
        x = x + self.among(y + asks, y + asks, y)
        x = x + self.upon(self.norms[1](x) + asks, near, tokens, sizes)
        return x + self.feed(self.norms[2](x))


class DeformableDetrNet(nn.Module):
    """[B,C,H,W] -> [B,layers,queries,7+K], as `fedvision.detection.sets` says.  Tokens are the places of the maps of strides 8, 16 and 32.

    channels: of a token; queries: objects that an image may have; points: looked at by each head on each map.
    """

    def __init__(
        self, into: int, classes: int, width: int, norm: str, *,
        backbone: str = "small", channels: int = 128, heads: int = 4, layers: int = 3, queries: int = 20, points: int = 4,
    ):  # fmt: skip
        super().__init__()
        if channels % (4 * heads):
            raise ValueError(f"channels = {channels} must be a multiple of 4 · heads = {4 * heads}")
        self.body = features(backbone, into, width, norm)
        self.project = nn.ModuleList(nn.Sequential(nn.Conv2d(n, channels, 1), normalise(norm, channels)) for n in self.body.widths)
        self.levels = nn.Parameter(torch.randn(len(STRIDES), channels))
        self.asks = nn.Parameter(torch.randn(1, queries, channels))
        self.encoders = nn.ModuleList(Encoder(channels, heads, points) for _ in range(layers))
        self.decoders = nn.ModuleList(Decoder(channels, heads, points) for _ in range(layers))
        self.norm_tokens, self.norm_out = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.looks, self.says = nn.Linear(channels, 2), nn.Linear(channels, classes + 1)
        self.reaches = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,L,Q,7+K]."""
        maps = [project(one) for project, one in zip(self.project, self.body(x), strict=True)]
        sizes = [(one.shape[2], one.shape[3]) for one in maps]
        tokens = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1)
        known = torch.cat([places(h, w, tokens.shape[2], tokens) + level for (h, w), level in zip(sizes, self.levels, strict=True)])
        near = torch.cat([middles(h, w, tokens) for h, w in sizes]).expand(len(x), -1, -1)
        for encoder in self.encoders:
            tokens = encoder(tokens, known, near, sizes)
        tokens = self.norm_tokens(tokens)
        asks = self.asks.expand(len(x), -1, -1)
        start = self.looks(asks)
        objects, layers = torch.zeros_like(asks), []
        for decoder in self.decoders:
            objects = decoder(objects, asks, start.sigmoid(), tokens, sizes)
            layers.append(self.norm_out(objects))
        every = torch.stack(layers, 1)
        boxes = self.reaches(every)
        boxes = torch.cat([boxes[..., :2] + start[:, None], boxes[..., 2:]], -1).sigmoid()  # from where the query looks
        size = every.new_tensor([x.shape[-1], x.shape[-2]]).expand(*every.shape[:-1], 2)
        return torch.cat([size, boxes, self.says(every)], -1)


def middles(h: int, w: int, like: Tensor) -> Tensor:
    """The middles of a map's places, x and y over its sides, [h·w,2]."""
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1).to(like)
