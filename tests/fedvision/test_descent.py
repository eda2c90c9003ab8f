"""Our gradient descent takes torch's steps."""

import pytest
import torch
from torch import nn

from fedvision.descent import Sgd


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_it_ends_at_the_very_numbers_of_torchs_own(momentum: float, weight_decay: float) -> None:
    def trained(make) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        unused = nn.Parameter(torch.ones(2))
        optimizer = make([*model.parameters(), unused])
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(6, 3)).square().sum().backward()
            optimizer.step()
        return [*model.parameters(), unused]

    ours = trained(lambda p: Sgd(p, 0.1, momentum, weight_decay))
    torchs = trained(lambda p: torch.optim.SGD(p, 0.1, momentum, weight_decay=weight_decay))
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))
