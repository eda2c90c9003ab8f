"""DETR's loss between sets: each box is matched to one query, and every other query is to say "nothing".

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko: End-to-end object detection with transformers, 2020.
Outputs are [B,L,Q,2+4+K+1], of each of L decoder layers Q queries: width and height of the image, constant; middle x, y, width and
height over those; logits of the classes, the last one nothing's.  Where the published loss divides by all boxes and all queries of a batch,
this one divides by the image's own.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedvision.detection.boxes import Found, areas, centred, cornered, giou_loss, overlaps
from fedvision.detection.points import Truth


@dataclass(frozen=True)
class Detr:
    """class_cost, box_cost, giou_cost: of the matching (λ of the published loss, which weighs its terms alike).  nothing: weight of the
    class "nothing"."""

    classes: int
    class_cost: float = 1.0
    box_cost: float = 5.0
    giou_cost: float = 2.0
    nothing: float = 0.1
    detections: int = 100
    soft: None = None

    def costs(self, logits: Tensor, boxes: Tensor, classes: Tensor, truth: Tensor) -> Tensor:
        """What it costs to match each of Q queries to each of m boxes of one image, [Q,m].  boxes [Q,4], truth [m,4]: middles and sides
        over the image's."""
        likely = logits.softmax(-1)[:, classes]
        far = (boxes[:, None] - truth[None]).abs().sum(-1)
        apart = giou_loss(cornered(boxes)[:, None], cornered(truth)[None])
        return self.box_cost * far + self.giou_cost * apart - self.class_cost * likely

    def matching(self, logits: Tensor, boxes: Tensor, classes: Tensor, truth: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The matching of the least cost: queries [min(Q,m)] and their boxes."""
        from scipy.optimize import linear_sum_assignment

        costs = self.costs(logits, boxes, classes, truth).nan_to_num(1e6, 1e6, -1e6)
        queries, matched = linear_sum_assignment(costs.cpu().numpy())
        return queries, matched

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over decoder layers of: mean weighted cross-entropy of the image's queries + 5 · absolute error + 2 · GIoU loss over
        the image's boxes (at least 1).  outputs [B,L,Q,7+K], targets [B,M,5] -> [B]."""
        truth = Truth.of(targets, outputs)
        return torch.stack([self._of_one(outputs[i], truth, i) for i in range(len(outputs))])

    def _of_one(self, outputs: Tensor, truth: Truth, image: int) -> Tensor:
        size = outputs[0, 0, [0, 1, 0, 1]].detach()
        real = truth.real[image]
        classes, boxes = truth.classes[image][real], centred(truth.boxes[image][real]) / size
        crowds = truth.boxes[image][truth.ignored[image]] / size
        total = outputs.new_zeros(())
        for said in outputs:
            total = total + self._of_layer(said[:, 6:], said[:, 2:6], classes, boxes, crowds)
        return total

    def _of_layer(self, logits: Tensor, boxes: Tensor, classes: Tensor, truth: Tensor, crowds: Tensor) -> Tensor:
        queries, matched = (torch.from_numpy(x).to(logits.device) for x in self.matching(logits.detach(), boxes.detach(), classes, truth))
        wanted = torch.full((len(logits),), self.classes, device=logits.device)
        wanted[queries] = classes[matched]
        weights = torch.where(wanted == self.classes, self.nothing, 1.0).to(logits)
        if len(crowds):
            own = cornered(boxes.detach())
            inside = (overlaps(own, crowds) / areas(own)[:, None].clamp(min=1e-9) > 0.5).any(-1)
            weights = torch.where(inside & (wanted == self.classes), 0.0, weights)
        said = (functional.cross_entropy(logits, wanted, reduction="none") * weights).sum() / weights.sum().clamp(min=1e-6)
        mine, its = boxes[queries], truth[matched]
        far, apart = (mine - its).abs().sum(), giou_loss(cornered(mine), cornered(its)).sum()
        return said + (self.box_cost * far + self.giou_cost * apart) / max(1, len(truth))

    def found(self, outputs: Tensor) -> Found:
        """What the last layer's queries say, best first; nothing is suppressed, for a set holds nothing twice."""
        last = outputs[:, -1]
        scores, labels = last[..., 6:].softmax(-1)[..., :-1].max(-1)
        scores, order = scores.nan_to_num(0.0).sort(dim=-1, descending=True, stable=True)
        order = order[:, : self.detections]
        size = last[:, :1, [0, 1, 0, 1]]
        boxes = torch.minimum((cornered(last[..., 2:6].nan_to_num(0.0)) * size).clamp(min=0), size)
        return Found(boxes.gather(1, order[..., None].expand(-1, -1, 4)), scores[:, : self.detections], labels.gather(1, order))
