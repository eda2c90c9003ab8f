"""Detectors by name: a pyramid of features, torchvision's heads where it has them, and outputs that say where they belong.

forward(images [B,C,H,W]) gives one tensor, laid out as `fedvision.detection.points`, `.anchors` or `.sets` say; the loss is a function of
it and of the targets alone.  Images may be of any size of 32 pixels or more.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedvision.errors import ConfigError
from fedvision.models.deformable import DeformableDetrNet
from fedvision.models.detr import DetrNet
from fedvision.models.pyramid import STRIDES, Pyramid, features, normed
from fedvision.models.rcnn import FasterRcnnNet, MaskRcnnNet
from fedvision.models.small import normalise

if TYPE_CHECKING:
    from fedvision.learning import Model

SIZES = (2.0, 2 ** (4 / 3), 2 ** (5 / 3))  # of RetinaNet's anchors, in strides: from 2 on, for small objects on small images
SHAPES = (0.5, 1.0, 2.0)  # height over width


def points(image: Tensor, maps: list[Tensor]) -> Tensor:
    """Where the points of `maps` are, [B,A,5]: width and height of the image, x, y, stride."""
    rows = []
    for stride, one in zip(STRIDES, maps, strict=True):
        h, w = one.shape[-2:]
        y, x = torch.meshgrid(torch.arange(h, device=image.device), torch.arange(w, device=image.device), indexing="ij")
        at = torch.stack(
            [(x.flatten() + 0.5) * stride, (y.flatten() + 0.5) * stride, torch.full((h * w,), stride, device=image.device)], -1
        )
        rows.append(at.to(image))
    return _with_size(image, torch.cat(rows))


def _with_size(image: Tensor, places: Tensor) -> Tensor:
    size = places.new_tensor([image.shape[-1], image.shape[-2]]).expand(len(places), 2)
    return torch.cat([size, places], 1).expand(len(image), -1, -1)


def anchors(image: Tensor, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
    """Where the anchors of `maps` are, [B,A,6]: width and height of the image, x1, y1, x2, y2.  boxes: around 0, [n,4] a map."""
    rows = []
    for stride, one, around in zip(STRIDES, maps, boxes, strict=True):
        h, w = one.shape[-2:]
        y, x = torch.meshgrid(torch.arange(h, device=image.device), torch.arange(w, device=image.device), indexing="ij")
        middle = (torch.stack([x, y, x, y], -1).reshape(-1, 1, 4) + 0.5) * stride
        rows.append((middle.to(image) + around.to(image)).reshape(-1, 4))
    return _with_size(image, torch.cat(rows))


def shapes(stride: int, scales: tuple[float, ...] = SIZES) -> Tensor:
    """The anchors of one place, around 0, [n,4] pixels: each scale, in strides, in each of SHAPES."""
    rows = [[-w / 2, -h / 2, w / 2, h / 2] for s in scales for r in SHAPES for w, h in [(stride * s / r**0.5, stride * s * r**0.5)]]
    return torch.tensor(rows)


def rows_of(maps: list[Tensor], columns: int) -> Tensor:
    """What a convolution says at each place, [B,n·columns,h,w] a map, as rows [B,A,columns]."""
    flat = [x.reshape(x.shape[0], -1, columns, *x.shape[2:]).permute(0, 3, 4, 1, 2).reshape(x.shape[0], -1, columns) for x in maps]
    return torch.cat(flat, 1)


class FcosNet(nn.Module):
    """FCOS: torchvision's heads over a pyramid.  [B,C,H,W] -> [B,A,10+K]."""

    def __init__(self, into: int, classes: int, width: int, norm: str, *, backbone: str = "small", channels: int = 64, convs: int = 2):
        from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

        super().__init__()
        self.pyramid = Pyramid(backbone, into, width, channels, norm)
        self.classes = FCOSClassificationHead(channels, 1, classes, convs, norm_layer=normed(norm))
        self.boxes = FCOSRegressionHead(channels, 1, convs, norm_layer=normed(norm))
        nn.init.constant_(self.boxes.bbox_reg.bias, 1.0)  # a distance passes a ReLU, on whose flat side nothing would be learned

    def forward(self, x: Tensor) -> Tensor:
        """[B,A,10+K]."""
        maps = self.pyramid(x)
        distances, centre = self.boxes(maps)
        return torch.cat([points(x, maps), distances, self.classes(maps), centre], -1)


class RetinaNetNet(nn.Module):
    """RetinaNet: torchvision's heads over a pyramid.  [B,C,H,W] -> [B,A,10+K]."""

    def __init__(self, into: int, classes: int, width: int, norm: str, *, backbone: str = "small", channels: int = 64):
        from torchvision.models.detection.retinanet import RetinaNetHead

        super().__init__()
        self.pyramid = Pyramid(backbone, into, width, channels, norm)
        self.head = RetinaNetHead(channels, len(SIZES) * len(SHAPES), classes, norm_layer=normed(norm))
        self.around = [shapes(stride) for stride in STRIDES]

    def forward(self, x: Tensor) -> Tensor:
        """[B,A,10+K]."""
        maps = self.pyramid(x)
        said = self.head(maps)
        return torch.cat([anchors(x, maps, self.around), said["bbox_regression"], said["cls_logits"]], -1)


class SsdLiteNet(nn.Module):
    """SSDlite: torchvision's separable heads on a backbone's own maps.  [B,C,H,W] -> [B,A,11+K], the background's logit first."""

    def __init__(self, into: int, classes: int, width: int, norm: str, *, backbone: str = "small"):
        from torchvision.models.detection.ssdlite import SSDLiteHead

        super().__init__()
        self.body = features(backbone, into, width, norm)
        each = [len(SIZES) * len(SHAPES)] * len(STRIDES)
        self.head = SSDLiteHead(self.body.widths, each, classes + 1, normed(norm))
        self.around = [shapes(stride) for stride in STRIDES]

    def forward(self, x: Tensor) -> Tensor:
        """[B,A,11+K]."""
        maps = self.body(x)
        said = self.head(maps)
        return torch.cat([anchors(x, maps, self.around), said["bbox_regression"], said["cls_logits"]], -1)


class OneStageNet(nn.Module):
    """Our own: a pyramid, and at each of its points two short branches of separable convolutions, for the class and for the box; the
    strides share them.  [B,C,H,W] -> [B,A,9+K]."""

    def __init__(self, into: int, classes: int, width: int, norm: str, *, backbone: str = "small", channels: int = 64, convs: int = 2):
        super().__init__()
        self.pyramid = Pyramid(backbone, into, width, channels, norm)
        self.says = _branch(channels, classes, convs, norm)
        self.reaches = _branch(channels, 4, convs, norm)
        self.kinds = classes
        nn.init.constant_(self.says[-1].bias, -4.6)  # type: ignore[arg-type]  # 1 %: most points are nobody's
        nn.init.constant_(self.reaches[-1].bias, 1.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B,A,9+K]."""
        maps = self.pyramid(x)
        distances = nn.functional.softplus(rows_of([self.reaches(m) for m in maps], 4))
        return torch.cat([points(x, maps), distances, rows_of([self.says(m) for m in maps], self.kinds)], -1)


def _branch(channels: int, out: int, convs: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False), nn.Conv2d(channels, channels, 1, bias=False),
            normalise(norm, channels), nn.SiLU(),
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Conv2d(channels, out, 1))


DETECTORS: dict[str, Callable[..., nn.Module]] = {
    "fcos": FcosNet,
    "retinanet": RetinaNetNet,
    "ssdlite": SsdLiteNet,
    "onestage": OneStageNet,
    "detr": DetrNet,
    "deformable_detr": DeformableDetrNet,
    "faster_rcnn": FasterRcnnNet,
    "mask_rcnn": MaskRcnnNet,
}


def detector(name: str, shape: tuple[int, int, int], classes: int, spec: "Model") -> nn.Module:
    """The detector of that name for images of `shape` [C,H,W]; ConfigError for what it cannot be built of.

    model.options: backbone (small, or a ResNet of torchvision), channels of the pyramid, convs of each head, and DETR's own.
    """
    if name not in DETECTORS:
        raise ConfigError(f"model.name = 'detection/{name}': there are {', '.join(f'detection/{n}' for n in DETECTORS)}")
    if min(shape[1:]) < STRIDES[-1]:
        raise ConfigError(
            f"model.name = 'detection/{name}' takes images of {STRIDES[-1]} pixels or more a side, and these have {min(shape[1:])}"
        )
    try:
        return DETECTORS[name](shape[0], classes, spec.width, spec.norm or "group", **dict(spec.options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.name = 'detection/{name}' cannot be built with model.options = {dict(spec.options)}: {error}") from None
