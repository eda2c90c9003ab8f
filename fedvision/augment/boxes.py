"""Boxes, and objects' masks, that move with their images: through torchvision's v2 transforms, and into a mosaic of four images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedvision.detection.boxes import NONE, areas
from fedvision.detection.masks import around, drawn_out, has_masks, laid_in
from fedvision.detection.packing import BOX

SEEN = 0.3  # share of a box that must stay in the image for its object still to be looked for; with less it is to be ignored
LEAST = 2.0  # pixels, of a side; what is thinner is gone


def moved(change: Callable[..., Any], images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each image [B,C,H,W] and its boxes [B,M,5] (with their masks: [B,M,5 + P]) through `change`, drawn anew for each; boxes are cut off
    at the new image's edge, and drawn anew around a mask."""
    from torchvision import tv_tensors

    pictures, rows = [], []
    for image, its in zip(images, targets, strict=True):
        size = tuple(image.shape[-2:])
        parts = [tv_tensors.BoundingBoxes(its[:, 1:BOX], format="XYXY", canvas_size=size, clamping_mode=None)]  # type: ignore[call-overload]
        if has_masks(its):
            parts.append(tv_tensors.Mask(drawn_out(its[:, BOX:], *size)))
        picture, corners, *masks = change(tv_tensors.Image(image), *parts)
        pictures.append(picture.as_subclass(Tensor))
        shown = pictures[-1].shape[-2:]
        boxes = cut_off(torch.cat([its[:, :1], corners.as_subclass(Tensor)], 1), shown)
        rows.append(around_masks(boxes, masks[0].as_subclass(Tensor)) if masks else boxes)
    return torch.stack(pictures), torch.stack(rows)


def around_masks(boxes: Tensor, masks: Tensor) -> Tensor:
    """Boxes [...,M,5] and masks bool [...,M,H,W] as rows [...,M,5 + P]: each box as its mask shows it, which after a turn is less than the
    box around the turned box; nothing is left of what shows no pixel, unless it is to be ignored."""
    kinds = boxes[..., 0]
    masks = masks & (kinds != NONE)[..., None, None]
    shown = around(masks)
    gone = ((shown[..., 2:] - shown[..., :2]) < LEAST).any(-1) & (kinds >= 0)
    kinds = torch.where(gone, NONE, kinds)
    corners = torch.where((kinds >= 0)[..., None], shown, boxes[..., 1:])
    corners = torch.where((kinds == NONE)[..., None], 0.0, corners)
    return torch.cat([kinds[..., None], corners, laid_in(masks & (kinds != NONE)[..., None, None])], -1)


def cut_off(targets: Tensor, size: tuple[int, ...]) -> Tensor:
    """Boxes [...,M,5] as an image of `size` (height, width) shows them: what is outside is cut off, what is hardly seen is to be
    ignored, and what is not seen is no box any more."""
    kinds, corners = targets[..., 0], targets[..., 1:]
    inside = torch.minimum(corners.clamp(min=0), corners.new_tensor([size[1], size[0], size[1], size[0]]))
    gone = ((inside[..., 2:] - inside[..., :2]) < LEAST).any(-1) | (kinds == NONE)
    hidden = areas(inside) < SEEN * areas(corners)
    kinds = torch.where(hidden & (kinds >= 0), -2 - kinds, kinds)
    return torch.cat([torch.where(gone, NONE, kinds)[..., None], torch.where(gone[..., None], 0.0, inside)], -1)


class Mosaic:
    """Four images meet at a point drawn near the middle, each cut there: more objects beside each other, and some cut off.

    Bochkovskiy, Wang, Liao: YOLOv4, 2020, section 3.4; here at full scale.  p: chance of an image to be made of four of its batch,
    itself one of them.
    """

    def __init__(self, p: float = 0.5):
        if not 0 < p <= 1:
            raise ValueError(f"p = {p:g} must be above 0 and at most 1")
        self.p = p

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """images [B,C,H,W], targets [B,M,5] (with masks: [B,M,5 + P]) -> the same number of images, targets [B,4M,5] (or [B,4M,5 + P])."""
        n, m = len(images), targets.shape[1]
        pictures = images.clone()
        boxes = torch.zeros(n, 4 * m, targets.shape[2])
        boxes[..., 0] = NONE
        boxes[:, :m] = targets
        for i in torch.nonzero(torch.rand(n) < self.p).flatten().tolist():
            others = [i, *torch.randint(0, n, (3,)).tolist()]
            pictures[i], boxes[i] = self._of_four(images[others], targets[others])
        return pictures, boxes

    @staticmethod
    def _of_four(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        h, w = images.shape[-2:]
        y, x = (int(n * (0.3 + 0.4 * torch.rand(()).item())) for n in (h, w))
        result, rows = torch.empty_like(images[0]), []
        for image, boxes, (top, bottom), (left, right) in zip(
            images, targets, ((0, y), (0, y), (y, h), (y, h)), ((0, x), (x, w), (0, x), (x, w)), strict=True
        ):
            down, across = (int(torch.randint(0, n - (b - a) + 1, ())) for n, a, b in ((h, top, bottom), (w, left, right)))
            of, to = (slice(down, down + bottom - top), slice(across, across + right - left)), (slice(top, bottom), slice(left, right))
            result[:, *to] = image[:, *of]
            its = torch.cat([boxes[:, :1], boxes[:, 1:BOX] - torch.tensor([across, down, across, down])], -1)
            its = cut_off(its, (bottom - top, right - left))
            its = torch.cat([its[:, :1], its[:, 1:] + torch.tensor([left, top, left, top])], -1)
            if has_masks(boxes):
                masks = torch.zeros(len(boxes), h, w, dtype=torch.bool)
                masks[:, *to] = drawn_out(boxes[:, BOX:], h, w)[:, *of]
                its = around_masks(its, masks)
            rows.append(its)
        return result, torch.cat(rows)
