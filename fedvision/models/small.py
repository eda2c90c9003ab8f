"""Two small networks of our own: they train in seconds on one core."""

from torch import Tensor, nn


class Mlp(nn.Module):
    """One hidden layer.  [B,C,H,W] -> [B,K]."""

    def __init__(self, shape: tuple[int, ...], outputs: int, width: int, dropout: float):
        super().__init__()
        c, h, w = shape
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B,K]."""
        return self.layers(x)


class Cnn(nn.Module):
    """Two convolutions and two linear layers, as in McMahan et al. 2017, section 3.  [B,C,H,W] -> [B,K], any H, W ≥ 4.
    hidden: units of the first linear layer; None leaves it out, and with it most of the parameters that noise would go to.

    Up to 32 × 32 pixels the feature map is kept whole (a quarter of each side); larger images are pooled to 8 × 8.
    """

    def __init__(self, shape: tuple[int, ...], outputs: int, width: int, hidden: int | None, dropout: float, norm: str | None):
        super().__init__()
        c, h, w = shape
        side = (min(h // 4, 8), min(w // 4, 8))
        self.features = nn.Sequential(
            nn.Conv2d(c, width, 5, padding=2), normalise(norm, width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 5, padding=2), normalise(norm, 2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Identity() if (h // 4, w // 4) == side else nn.AdaptiveAvgPool2d(side),
        )  # fmt: skip
        flat = 2 * width * side[0] * side[1]
        between = [] if hidden is None else [nn.Linear(flat, hidden), nn.ReLU()]
        self.head = nn.Sequential(nn.Flatten(), *between, nn.Dropout(dropout), nn.Linear(hidden or flat, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B,K]."""
        return self.head(self.features(x))


def normalise(kind: str | None, channels: int) -> nn.Module:
    """A normalisation layer of that kind, or none."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(groups(channels), channels) if kind == "group" else nn.Identity()


def groups(channels: int, most: int = 32) -> int:
    """The largest number of groups up to `most` that divides `channels` and leaves two channels or more in each.

    >>> groups(64), groups(6), groups(7), groups(1)
    (32, 3, 1, 1)
    """
    return max(g for g in range(1, most + 1) if channels % g == 0 and (channels // g >= 2 or g == 1))
