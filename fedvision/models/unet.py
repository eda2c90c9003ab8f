"""U-Net in the plane and in space.  Ronneberger, Fischer, Brox 2015; Çiçek et al. 2016."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedvision.errors import ConfigError
from fedvision.models.small import groups


class Unet(nn.Module):
    """Down and up again, each level's map given across.  [B,C,H,W] -> [B,K,H,W], or [B,C,D,H,W] -> [B,K,D,H,W], any size.

    width: channels of the first level, doubled at each of `levels` levels below it.  Where a side is odd, the map that comes up
    is brought to the size of the one across.
    """

    def __init__(self, shape: tuple[int, ...], outputs: int, width: int, dropout: float, norm: str | None, levels: int = 3):
        super().__init__()
        axes = len(shape) - 1
        if min(shape[1:]) < 2**levels:
            raise ConfigError(
                f"model.options.levels = {levels} halves images of {list(shape[1:])} pixels below one: use at most "
                f"{max(1, min(shape[1:]).bit_length() - 1)}"
            )
        self.pool = nn.MaxPool2d(2) if axes == 2 else nn.MaxPool3d(2)
        widths = [width * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(block(axes, i, o, norm, 0.0) for i, o in zip([shape[0], *widths[:-2]], widths[:-1], strict=True))
        self.bottom = block(axes, widths[-2], widths[-1], norm, dropout)
        self.up = nn.ModuleList(block(axes, below + own, own, norm, 0.0) for own, below in zip(widths[-2::-1], widths[:0:-1], strict=True))
        self.last = convolution(axes, width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, of the images' size."""
        across = []
        for level in self.down:
            x = level(x)
            across.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for level, beside in zip(self.up, reversed(across), strict=True):
            x = level(torch.cat([functional.interpolate(x, beside.shape[2:]), beside], 1))
        return self.last(x)


def block(axes: int, inputs: int, outputs: int, norm: str | None, dropout: float) -> nn.Sequential:
    """Two convolutions of 3 pixels a side, each normalised."""
    layers: list[nn.Module] = []
    for own in (inputs, outputs):
        layers += [convolution(axes, own, outputs, 3, bias=norm == "none"), normalised(axes, norm, outputs), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))


def convolution(axes: int, inputs: int, outputs: int, side: int, bias: bool = True) -> nn.Module:
    """In the plane (2 axes) or in space (3), which keeps the size."""
    kind = nn.Conv2d if axes == 2 else nn.Conv3d
    return kind(inputs, outputs, side, padding=side // 2, bias=bias)


def normalised(axes: int, norm: str | None, channels: int) -> nn.Module:
    """A normalisation layer of that kind for maps of 2 or 3 axes, or none."""
    if norm == "batch":
        return nn.BatchNorm2d(channels) if axes == 2 else nn.BatchNorm3d(channels)
    return nn.GroupNorm(groups(channels, 8), channels) if norm == "group" else nn.Identity()
