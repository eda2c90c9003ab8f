"""Faster R-CNN and Mask R-CNN: torchvision's, over our pyramid.  Their proposals are sampled and their losses divided over the whole batch: they
have no loss an image, and so what privacy rests on is not there.

    Ren, He, Girshick, Sun: Faster R-CNN: Towards real-time object detection with region proposal networks, 2015
    He, Gkioxari, Dollár, Girshick: Mask R-CNN, 2017
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fedvision.detection.masks import drawn_out, has_masks, laid_in
from fedvision.detection.packing import BOX
from fedvision.models.pyramid import STRIDES, Pyramid, normed


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

        super().__init__()
        self.net = FasterRCNN(**_stages(into, classes, width, norm, backbone, channels, hidden, proposals))
        self.net.transform = _AsItIs(into)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,6], in evaluation mode."""
        found = [_rows(one, x) for one in self.net(list(x))]
        most = max([1, *(len(rows) for rows in found)])
        return torch.stack([nn.functional.pad(rows, (0, 0, 0, most - len(rows))) for rows in found])

    def joint(self, x: Tensor, targets: Tensor) -> Tensor:
        """The sum of the losses over the batch, a number.  targets [B,M,5], of Mask R-CNN with masks; regions to be ignored are not used."""
        wanted = [_wanted(rows[rows[:, 0] >= 0], x) for rows in targets]
        losses: dict[str, Tensor] = self.net(list(x), wanted)
        return torch.stack(list(losses.values())).sum()


class MaskRcnnNet(FasterRcnnNet):
    """As `FasterRcnnNet`, each row followed by its object's mask: [B,N,6 + P], as `fedvision.detection.packing` lays it out.

    mask_convs: of the head that draws a mask of 28 × 28 in each box.
    """

    def __init__(
        self, into: int, classes: int, width: int, norm: str, *,
        backbone: str = "small", channels: int = 64, hidden: int = 256, proposals: int = 64, mask_convs: int = 2,
    ):  # fmt: skip
        from torchvision.models.detection import MaskRCNN
        from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
        from torchvision.ops import MultiScaleRoIAlign

        nn.Module.__init__(self)
        self.net = MaskRCNN(
            **_stages(into, classes, width, norm, backbone, channels, hidden, proposals), mask_roi_pool=MultiScaleRoIAlign(_NAMES, 14, 2),
            mask_head=MaskRCNNHeads(channels, [channels] * mask_convs, 1, normed(norm)),
            mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
        )  # fmt: skip
        self.net.transform = _AsItIs(into)


_NAMES = [str(number) for number in range(len(STRIDES))]  # of the pyramid's maps


def _stages(into: int, classes: int, width: int, norm: str, backbone: str, channels: int, hidden: int, proposals: int) -> dict[str, Any]:
    """What both nets are built of: the pyramid, the proposals, and the head that names and moves them."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    return {
        "backbone": _Maps(Pyramid(backbone, into, width, channels, norm), channels),
        "rpn_anchor_generator": AnchorGenerator(tuple((2 * stride,) for stride in STRIDES), ((0.5, 1.0, 2.0),) * len(STRIDES)),
        "box_roi_pool": MultiScaleRoIAlign(_NAMES, 7, 2), "box_head": TwoMLPHead(49 * channels, hidden),
        "box_predictor": FastRCNNPredictor(hidden, classes + 1), "rpn_batch_size_per_image": proposals, "box_batch_size_per_image": proposals,
        "rpn_pre_nms_top_n_train": 500, "rpn_post_nms_top_n_train": 200, "rpn_pre_nms_top_n_test": 500, "rpn_post_nms_top_n_test": 200,
    }  # fmt: skip


def _rows(one: "dict[str, Tensor]", x: Tensor) -> Tensor:
    """One image's detections as rows [n,6] or, with masks, [n,6 + P]."""
    rows = [one["boxes"], one["scores"][:, None], one["labels"][:, None].to(x) - 1]
    return torch.cat([*rows, laid_in(one["masks"][:, 0] > 0.5)] if "masks" in one else rows, 1)


def _wanted(rows: Tensor, x: Tensor) -> "dict[str, Tensor]":
    """One image's targets, rows [m,5 or more], in torchvision's words."""
    wanted = {"boxes": rows[:, 1:BOX], "labels": rows[:, 0].long() + 1}
    if has_masks(rows):
        wanted["masks"] = drawn_out(rows[:, BOX:], x.shape[-2], x.shape[-1]).to(torch.uint8)
    return wanted
