"""A task of one's own: classification by the focal loss, which leaves alone what is already known.  Used by own_task.yaml.

Lin, Goyal, Girshick, He, Dollár. Focal loss for dense object detection. ICCV 2017, equation 4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedvision.tasks.classification import Classification


@dataclass(frozen=True)
class Focal(Classification):
    """γ = gamma: how fast the weight of an image falls as its class's probability p rises, (1 − p)^γ; 0 = cross-entropy."""

    gamma: float = 2.0

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """−(1 − p)^γ log p of the true class.  logits [B,K], targets [B] -> [B]."""
        log_p = torch.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
        return -((1 - log_p.exp()) ** self.gamma) * log_p
