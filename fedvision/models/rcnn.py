"""Faster R-CNN: torchvision's, over our pyramid.  Its proposals are sampled and its losses divided over the whole batch: it has no loss an
image, and so what privacy rests on is not there.

Ren, He, Girshick, Sun: Faster R-CNN: Towards real-time object detection with region proposal networks, 2015.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fedvision.models.detectors import STRIDES, Pyramid


class _Maps(nn.Module):
    """The pyramid as torchvision wants it: maps by name."""

    def __init__(self, pyramid: Pyramid, channels: int):
        super().__init__()
        self.pyramid, self.out_channels = pyramid, channels

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """[B,C,H,W] -> "0", "1", "2": strides 8, 16, 32."""
        return OrderedDict((str(number), one) for number, one in enumerate(self.pyramid(x)))


class _AsItIs(GeneralizedRCNNTransform):
    """Images go through as they are, in training and in evaluation: they were resized and normalised before."""

    def __init__(self, channels: int):
        super().__init__(1, 1, [0.0] * channels, [1.0] * channels)

    def resize(self, image: Tensor, target: "dict[str, Tensor] | None" = None) -> "tuple[Tensor, dict[str, Tensor] | None]":
        """Nothing."""
        return image, target


class FasterRcnnNet(nn.Module):
    """[B,C,H,W] -> [B,N,6] detections, a row x1, y1, x2, y2, score, class; score 0 = none.  It is trained by `joint`.

    proposals: of an image that each step of training samples.
    """

    def __init__(
        self, into: int, classes: int, width: int, norm: str, *,
        backbone: str = "small", channels: int = 64, hidden: int = 256, proposals: int = 64,
    ):  # fmt: skip
        from torchvision.models.detection import FasterRCNN
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
        from torchvision.ops import MultiScaleRoIAlign

        super().__init__()
        maps = _Maps(Pyramid(backbone, into, width, channels, norm), channels)
        anchors = AnchorGenerator(tuple((2 * stride,) for stride in STRIDES), ((0.5, 1.0, 2.0),) * len(STRIDES))
        self.net = FasterRCNN(
            maps, rpn_anchor_generator=anchors, box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2),
            box_head=TwoMLPHead(49 * channels, hidden), box_predictor=FastRCNNPredictor(hidden, classes + 1),
            rpn_batch_size_per_image=proposals, box_batch_size_per_image=proposals, rpn_pre_nms_top_n_train=500, rpn_post_nms_top_n_train=200,
            rpn_pre_nms_top_n_test=500, rpn_post_nms_top_n_test=200,
        )  # fmt: skip
        self.net.transform = _AsItIs(into)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,6], in evaluation mode."""
        found = self.net(list(x))
        result = x.new_zeros(len(found), max([1, *(len(one["scores"]) for one in found)]), 6)
        for one, place in zip(found, result, strict=True):
            rows = torch.cat([one["boxes"], one["scores"][:, None], one["labels"][:, None].to(x) - 1], 1)
            place[: len(rows)] = rows
        return result

    def joint(self, x: Tensor, targets: Tensor) -> Tensor:
        """The sum of the four losses over the batch, a number.  targets [B,M,5]; regions to be ignored are not used."""
        wanted = []
        for rows in targets:
            own = rows[rows[:, 0] >= 0]
            wanted.append({"boxes": own[:, 1:], "labels": own[:, 0].long() + 1})
        losses: dict[str, Tensor] = self.net(list(x), wanted)
        return torch.stack(list(losses.values())).sum()
