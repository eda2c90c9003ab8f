"""Maps of features at three strides, out of a small network or one of torchvision's, and a pyramid over them: what every detector stands on."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedvision.models.library import first_convolution
from fedvision.models.small import normalise

STRIDES = (8, 16, 32)


def normed(kind: str) -> Callable[[int], nn.Module]:
    """Makes normalisation layers of that kind for a number of channels."""
    return partial(normalise, None if kind == "none" else kind)


class Residual(nn.Module):
    """Two convolutions and a way past them; stride 2 halves the sides.  [B,C,H,W] -> [B,D,H',W']."""

    def __init__(self, into: int, out: int, stride: int, norm: str):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(into, out, 3, stride, 1, bias=False), normalise(norm, out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), normalise(norm, out),
        )  # fmt: skip
        self.past = (
            nn.Identity()
            if into == out and stride == 1
            else nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), normalise(norm, out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,D,H',W']."""
        return torch.relu(self.body(x) + self.past(x))


class Features(nn.Module):
    """The maps of strides 8, 16 and 32 of a network that is a row of layers: of each stride the last one.

    widths: their channels.
    """

    def __init__(self, layers: nn.Sequential, channels: int):
        super().__init__()
        self.layers = layers
        self.ends: list[int] = []
        self.widths: list[int] = []
        was = layers.training
        sides, x = [], torch.zeros(1, channels, 64, 64)
        with torch.no_grad():
            for layer in layers.eval():
                x = layer(x)
                sides.append((64 // x.shape[-1], x.shape[1]))
        layers.train(was)
        for stride in STRIDES:
            self.ends.append(max(i for i, (s, _) in enumerate(sides) if s == stride))
            self.widths.append(sides[self.ends[-1]][1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B,C,H,W] -> three of [B,width,H/stride,W/stride], sides rounded up."""
        found = []
        for number in range(self.ends[-1] + 1):
            x = self.layers[number](x)
            if number in self.ends:
                found.append(x)
        return found


def features(name: str, channels: int, width: int, norm: str) -> Features:
    """The backbone: small (ours, `width` channels at stride 4), or a ResNet or MobileNetV3 of torchvision, without weights."""
    from torchvision import models

    if name == "small":
        half = max(4, width // 2)
        first = nn.Sequential(nn.Conv2d(channels, half, 3, 2, 1, bias=False), normalise(norm, half), nn.ReLU())
        widths = (half, width, 2 * width, 3 * width, 4 * width)
        return Features(nn.Sequential(first, *(Residual(a, b, 2, norm) for a, b in pairwise(widths))), channels)
    if name not in models.list_models(module=models) or not name.startswith(("resnet", "mobilenet_v3")):
        raise ValueError(f"backbone = {name!r}: there are small, torchvision's resnet18 to resnet152, mobilenet_v3_small and _large")
    body = models.get_model_builder(name)(weights=None, norm_layer=normed(norm))
    body = body if channels == 3 else first_convolution(body, channels)
    rows = list(body.children())[:-2] if name.startswith("resnet") else list(body.get_submodule("features").children())
    return Features(nn.Sequential(*rows), channels)


class Pyramid(nn.Module):
    """A feature pyramid over a backbone: three maps of `out` channels.  Lin, Dollár, Girshick, He, Hariharan, Belongie 2017."""

    def __init__(self, backbone: str, into: int, width: int, out: int, norm: str):
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        self.body = features(backbone, into, width, norm)
        self.top = FeaturePyramidNetwork(self.body.widths, out, norm_layer=normed(norm))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B,C,H,W] -> three of [B,out,H/stride,W/stride]."""
        return list(self.top({str(s): f for s, f in zip(STRIDES, self.body(x), strict=True)}).values())
