"""DETR: features as a row of tokens, a transformer, and queries that each say one object or nothing.

Carion et al. 2020, in plain linear layers, so that gradients an image can be taken of every one of them.
"""

import math

import torch
from torch import Tensor, nn

from fedvision.models.pyramid import features


class Attention(nn.Module):
    """Multi-head attention of x on y.  Vaswani et al. 2017."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, y: Tensor, value: Tensor) -> Tensor:
        """x [B,N,D] asks, y [B,M,D] answers with value [B,M,D] -> [B,N,D]."""
        b, n, d = x.shape
        q, k, v = (t.view(b, -1, self.heads, d // self.heads).transpose(1, 2) for t in (self.query(x), self.key(y), self.value(value)))
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(seen.transpose(1, 2).reshape(b, n, d))


class Encoder(nn.Module):
    """One layer over the tokens of an image, normalised first."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attend, self.norm, self.norm_after, self.feed = Attention(width, heads), nn.LayerNorm(width), nn.LayerNorm(width), feed(width)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """x [B,M,D], places [M,D] -> [B,M,D]."""
        y = self.norm(x)
        x = x + self.attend(y + places, y + places, y)
        return x + self.feed(self.norm_after(x))


class Decoder(nn.Module):
    """One layer over the queries: on each other, then on the tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.among, self.upon, self.feed = Attention(width, heads), Attention(width, heads), feed(width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, asks: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        """x [B,Q,D], asks [B,Q,D] the queries' own, tokens [B,M,D], places [M,D] -> [B,Q,D]."""
        y = self.norms[0](x)
        x = x + self.among(y + asks, y + asks, y)
        x = x + self.upon(self.norms[1](x) + asks, tokens + places, tokens)
        return x + self.feed(self.norms[2](x))


def feed(width: int) -> nn.Sequential:
    """What each token goes through by itself."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))


def places(h: int, w: int, width: int, like: Tensor) -> Tensor:
    """Sines of the rows and of the columns over the map's sides, [h·w, width]."""
    quarter = width // 4
    rates = 2 * math.pi * 10000 ** (-torch.arange(quarter, device=like.device) / quarter)
    y, x = ((torch.arange(n, device=like.device) + 0.5)[:, None] / n * rates for n in (h, w))
    rows, columns = torch.cat([y.sin(), y.cos()], 1), torch.cat([x.sin(), x.cos()], 1)
    return torch.cat([rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)], -1).reshape(h * w, -1).to(like)


class DetrNet(nn.Module):
    """[B,C,H,W] -> [B,layers,queries,7+K], as `fedvision.detection.sets` says.

    stride: of the map whose places are the tokens, 16 or 32; channels: of a token; queries: objects that an image may have.
    """

    def __init__(
        self, into: int, classes: int, width: int, norm: str, *,
        backbone: str = "small", channels: int = 128, heads: int = 4, layers: int = 3, queries: int = 20, stride: int = 16,
    ):  # fmt: skip
        super().__init__()
        if channels % (4 * heads) or stride not in {16, 32}:
            raise ValueError(f"channels = {channels} must be a multiple of 4 · heads = {4 * heads}, and stride = {stride} 16 or 32")
        self.body, self.map = features(backbone, into, width, norm), 1 if stride == 16 else 2
        self.project = nn.Conv2d(self.body.widths[self.map], channels, 1)
        self.asks = nn.Parameter(torch.randn(1, queries, channels))
        self.encoders = nn.ModuleList(Encoder(channels, heads) for _ in range(layers))
        self.decoders = nn.ModuleList(Decoder(channels, heads) for _ in range(layers))
        self.norm_tokens, self.norm_out = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.says = nn.Linear(channels, classes + 1)
        self.reaches = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 4)
        )
        if self.map == 1:
            self.body.ends, self.body.widths = self.body.ends[:2], self.body.widths[:2]  # the last stage would be made for nothing
            self.body.layers = nn.Sequential(*list(self.body.layers)[: self.body.ends[-1] + 1])

    def forward(self, x: Tensor) -> Tensor:
        """[B,L,Q,7+K]."""
        seen = self.project(self.body(x)[self.map])
        at = places(seen.shape[2], seen.shape[3], seen.shape[1], seen)
        tokens = seen.flatten(2).transpose(1, 2)
        for encoder in self.encoders:
            tokens = encoder(tokens, at)
        tokens = self.norm_tokens(tokens)
        asks = self.asks.expand(len(x), -1, -1)
        objects, layers = torch.zeros_like(asks), []
        for decoder in self.decoders:
            objects = decoder(objects, asks, tokens, at)
            layers.append(self.norm_out(objects))
        every = torch.stack(layers, 1)
        size = every.new_tensor([x.shape[-1], x.shape[-2]]).expand(*every.shape[:-1], 2)
        return torch.cat([size, self.reaches(every).sigmoid(), self.says(every)], -1)
