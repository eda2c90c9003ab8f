"""Networks that say a class for each pixel: heads of our own over the maps of any convolutional classifier.

    FCN          Long, Shelhamer, Darrell 2015
    DeepLabV3    Chen, Papandreou, Schroff, Adam 2017: atrous spatial pyramid pooling
    PSPNet       Zhao, Shi, Qi, Wang, Jia 2017: pyramid pooling
    LR-ASPP      Howard et al. 2019 (MobileNetV3), section 6.4

A backbone is any convolutional network of torchvision or timm, its first convolution rebuilt for the data's channels, without its
own head.  No weights are fetched.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedvision.errors import ConfigError
from fedvision.models.library import first_convolution, timm_model, torchvision_model, with_norm
from fedvision.models.unet import Unet

BACKBONE = "timm/resnet10t"
_PROBE = 64  # pixels a side of the image that shows a backbone's maps
_LOW = 8  # pixels of the image a pixel of the finer of the two maps
NAMES = ("unet", "fcn", "deeplabv3", "pspnet", "lraspp")


def dense(
    name: str, shape: tuple[int, ...], outputs: int, width: int, dropout: float, norm: str | None, options: Mapping[str, Any]
) -> nn.Module:
    """The network of that name for images of `shape`: logits [B,outputs,H,W] of their size.

    width: channels of the head (of the first level: unet).  norm: as built (None: BatchNorm, in the unet GroupNorm), or replaced.
    options: levels (unet); backbone and stride, in pixels of the image a pixel of the last map, 8, 16 or 32 (the others).
    """
    allowed = {"levels"} if name == "unet" else {"backbone", "stride"}
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise ConfigError(f"model.options.{unknown[0]}: the {name} takes {' and '.join(sorted(allowed))}")
    if name == "unet":
        levels = options.get("levels", 3)
        if not isinstance(levels, int) or not 1 <= levels <= 8:
            raise ConfigError(f"model.options.levels = {levels!r}: a whole number from 1 to 8")
        return Unet(shape, outputs, width, dropout, norm or "group", levels)
    stride = options.get("stride", 8)
    if stride not in {8, 16, 32}:
        raise ConfigError(f"model.options.stride = {stride!r}: 8, 16 or 32 pixels")
    backbone = Backbone(str(options.get("backbone", BACKBONE)), shape[0], stride)
    return with_norm(Dense(backbone, HEADS[name](backbone.channels, width, outputs, dropout)), norm)


class Dense(nn.Module):
    """A head over a backbone's maps, its logits brought to the images' size.  [B,C,H,W] -> [B,K,H,W], any size."""

    def __init__(self, backbone: "Backbone", head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        """Logits, of the images' size."""
        said = self.head(*self.backbone(x))
        return functional.interpolate(said, x.shape[2:], mode="bilinear", align_corners=False)


class Backbone(nn.Module):
    """A classifier up to its last map.  [B,C,H,W] -> (the finer map, the last map), which may be the same.

    channels: of the two.  stride: pixels of the image a pixel of the last map; where the classifier halves more often, its later
    halvings become dilations.
    """

    def __init__(self, name: str, channels: int, stride: int):
        super().__init__()
        library, _, own = name.partition("/")
        if library not in {"torchvision", "timm"} or not own:
            raise ConfigError(f"model.options.backbone = {name!r}: torchvision/NAME or timm/NAME; `fedvision list models`")
        if library == "timm":
            self.body: nn.Module = timm_model(own, channels, 2, _PROBE, {"features_only": True})
        else:
            self.body = Layers(torchvision_model(own, channels, 2, _PROBE, {}))
        sizes = self._probe(name, channels)
        self.low = max((n for n, (_, own) in enumerate(sizes) if own <= _LOW), default=len(sizes) - 1)
        if sizes[-1][1] > stride:
            if isinstance(self.body, Layers):
                _dilate(self.body.layers, sizes, stride)
            else:
                self.body = timm_model(own, channels, 2, _PROBE, {"features_only": True, "output_stride": stride})
            sizes = self._probe(name, channels)
        self.channels = (sizes[self.low][0], sizes[-1][0])

    def _probe(self, name: str, channels: int) -> list[tuple[int, int]]:
        """(channels, pixels of the image a pixel) of each map."""
        self.eval()
        try:
            with torch.no_grad():
                maps = self.body(torch.zeros(1, channels, _PROBE, _PROBE))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"model.options.backbone = {name!r} takes no images of any size: {str(error).splitlines()[0]}") from None
        finally:
            self.train()
        odd = next((x for x in maps if x.dim() != 4 or x.shape[2] != x.shape[3] or x.shape[2] > _PROBE), None)
        if odd is not None:
            raise ConfigError(f"model.options.backbone = {name!r} gives {list(odd.shape)}, no maps [B,C,H,W]: use a convolutional network")
        return [(int(x.shape[1]), _PROBE // int(x.shape[2])) for x in maps]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The finer map, and the last."""
        maps = self.body(x)
        return maps[self.low], maps[-1]


class Layers(nn.Module):
    """The layers of a classifier of torchvision before it pools.  [B,C,H,W] -> the map of each."""

    def __init__(self, model: nn.Module):
        super().__init__()
        features = getattr(model, "features", None)
        found = list(features) if isinstance(features, nn.Sequential) else list(_before_pooling(model))
        self.layers = nn.ModuleList(found)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Each layer's map."""
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps


def _before_pooling(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(child, nn.AdaptiveAvgPool2d | nn.Linear):
            return
        yield child


def _dilate(layers: nn.ModuleList, sizes: list[tuple[int, int]], stride: int) -> None:
    """Turn the halvings that go beyond `stride` into dilations, as Chen et al. do: each later convolution looks as far as before."""
    dilation = before = 1
    for layer, (_, own) in zip(layers, sizes, strict=True):
        factor = own // max(before, stride) if own > max(before, stride) else 1
        inside = dilation  # of what comes before the halving in this layer
        for module in layer.modules():
            if isinstance(module, nn.Conv2d) and inside > 1 and module.kernel_size != (1, 1):
                _spread(module, inside)
            if factor > 1 and isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and _halves(module):
                module.stride = (1, 1)
                inside = dilation * factor
        dilation *= factor
        before = own


def _halves(module: nn.Module) -> bool:
    stride = module.stride
    return bool((stride if isinstance(stride, int) else max(stride)) > 1)  # type: ignore[arg-type]


def _spread(module: nn.Conv2d, dilation: int) -> None:
    module.dilation = (module.dilation[0] * dilation, module.dilation[1] * dilation)
    if not isinstance(module.padding, str):
        module.padding = (module.padding[0] * dilation, module.padding[1] * dilation)


def unit(inputs: int, outputs: int, side: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, normalised."""
    convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2 * dilation, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Fcn(nn.Module):
    """One convolution, and the classes."""

    def __init__(self, channels: tuple[int, int], width: int, outputs: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(unit(channels[1], width, 3), nn.Dropout(dropout), nn.Conv2d(width, outputs, 1))

    def forward(self, finer: Tensor, last: Tensor) -> Tensor:
        """Logits, of the last map's size."""
        return self.layers(last)


class DeepLabV3(nn.Module):
    """Convolutions of several reaches and the whole image's mean, side by side.  rates: reaches, in pixels of the map."""

    def __init__(self, channels: tuple[int, int], width: int, outputs: int, dropout: float, rates: tuple[int, ...] = (6, 12, 18)):
        super().__init__()
        own = channels[1]
        self.branches = nn.ModuleList([unit(own, width), *(unit(own, width, 3, rate) for rate in rates)])
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(own, width, 1), nn.ReLU())  # of one pixel, which no norm would leave
        self.project = nn.Sequential(
            unit((len(rates) + 2) * width, width), nn.Dropout(dropout), unit(width, width, 3), nn.Conv2d(width, outputs, 1)
        )

    def forward(self, finer: Tensor, last: Tensor) -> Tensor:
        """Logits, of the last map's size."""
        whole = self.whole(last).expand(-1, -1, *last.shape[2:])
        return self.project(torch.cat([*(branch(last) for branch in self.branches), whole], 1))


class PspNet(nn.Module):
    """The map beside its means over grids of 1, 2, 3 and 6 cells a side."""

    def __init__(self, channels: tuple[int, int], width: int, outputs: int, dropout: float, cells: tuple[int, ...] = (1, 2, 3, 6)):
        super().__init__()
        own, each = channels[1], max(1, width // len(cells))
        self.cells = cells
        self.levels = nn.ModuleList(nn.Sequential(nn.Conv2d(own, each, 1), nn.ReLU()) for _ in cells)
        self.project = nn.Sequential(unit(own + each * len(cells), width, 3), nn.Dropout(dropout), nn.Conv2d(width, outputs, 1))

    def forward(self, finer: Tensor, last: Tensor) -> Tensor:
        """Logits, of the last map's size."""
        levels = [
            functional.interpolate(level(functional.adaptive_avg_pool2d(last, cells)), last.shape[2:], mode="bilinear", align_corners=False)
            for level, cells in zip(self.levels, self.cells, strict=True)
        ]
        return self.project(torch.cat([last, *levels], 1))


class Lraspp(nn.Module):
    """The last map weighed by the whole image's mean, and the classes of it and of the finer map added up."""

    def __init__(self, channels: tuple[int, int], width: int, outputs: int, dropout: float):
        super().__init__()
        finer, last = channels
        self.main = unit(last, width)
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(last, width, 1, bias=False), nn.Sigmoid())
        self.drop = nn.Dropout(dropout)
        self.from_finer, self.from_last = nn.Conv2d(finer, outputs, 1), nn.Conv2d(width, outputs, 1)

    def forward(self, finer: Tensor, last: Tensor) -> Tensor:
        """Logits, of the finer map's size."""
        weighed = self.drop(self.main(last) * self.whole(last))
        up = functional.interpolate(weighed, finer.shape[2:], mode="bilinear", align_corners=False)
        return self.from_finer(finer) + self.from_last(up)


HEADS: dict[str, Any] = {"fcn": Fcn, "deeplabv3": DeepLabV3, "pspnet": PspNet, "lraspp": Lraspp}


class Whole(nn.Module):
    """torchvision's networks give several outputs by name; this one gives the logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits, of the images' size."""
        logits: Tensor = self.model(x)["out"]
        return logits


def torchvision_dense(name: str, channels: int, outputs: int, options: Mapping[str, Any]) -> nn.Module:
    """torchvision's network for segmentation of that name, its first convolution rebuilt for `channels`.  No weights are fetched."""
    from torchvision import models

    known = models.list_models(module=models.segmentation)
    if name not in known:
        raise ConfigError(
            f"model.name = 'torchvision/{name}' and task = segmentation: torchvision has {', '.join(known)}; or put a head over it with "
            f"model.name = deeplabv3 and model.options = {{backbone: torchvision/{name}}}"
        )
    try:
        model = models.get_model_builder(name)(weights=None, weights_backbone=None, num_classes=outputs, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.name = 'torchvision/{name}' cannot be built with model.options = {dict(options)}: {error}") from None
    return Whole(model if channels == 3 else first_convolution(model, channels))
