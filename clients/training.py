"""Local training: the steps that a site makes with the model in one round."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedvision.data.site import Examples
from fedvision.learning import Training
from fedvision.seeds import stream

Correct = Callable[[], None]  # changes the gradients in place, between backward and step


def learning_rate(training: Training, round: int, rounds: int) -> float:
    """η_l of a round: constant, half a cosine to 0 over the rounds, or dropped by a factor every few rounds."""
    if training.schedule == "cosine":
        return training.learning_rate * (1 + math.cos(math.pi * round / rounds)) / 2
    if training.schedule == "step":
        return training.learning_rate * training.schedule_factor ** (round // training.schedule_step)
    return training.learning_rate


def make_optimizer(training: Training, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of the config over `parameters`."""
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay)


def batches(n: int, training: Training, seed: int, *names: str | int, lonely: bool = True) -> Iterator[np.ndarray]:
    """Positions of each step's examples: `epochs` passes in an order drawn by name, or `steps` batches from as many
    passes as they need.  lonely: whether a last batch of one example may stand alone (BatchNorm cannot train on it)."""
    assert training.batch_size is not None  # null is for private sampling, which makes no batches
    order = stream(seed, *names, "order")
    size, wanted, made = training.batch_size, training.steps, 0
    for _ in range(wanted or training.epochs or 1):
        positions = order.permutation(n)
        ends = [*range(size, n, size), n]
        if not lonely and len(ends) > 1 and ends[-1] - ends[-2] == 1:
            del ends[-2]
        for start, end in zip([0, *ends], ends, strict=False):
            if made == wanted:
                return
            made += 1
            yield positions[start:end]


def train(
    model: nn.Module,
    task: Any,
    examples: Examples,
    order: Iterator[np.ndarray],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    clip: float | None = None,
    correct: Correct | None = None,
) -> tuple[float, int, int]:
    """Step through `order`.  Returns the mean loss of the examples as they were met, their number, and the steps."""
    if not model.training:
        model.train()
    losses: list[tuple[Tensor, int]] = []
    for positions in order:
        batch = examples.batch(positions)
        loss = task.loss(model(batch.inputs.to(device)), batch.targets.to(device))
        optimizer.zero_grad(set_to_none=True)
        mean = loss.mean()
        mean.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        if correct is not None:
            correct()
        optimizer.step()
        losses.append((mean.detach(), len(positions)))
    seen = sum(n for _, n in losses)
    return sum(float(loss) * n for loss, n in losses) / seen, seen, len(losses)


def mean_loss(model: nn.Module, task: Any, examples: Examples, batch_size: int, device: torch.device) -> float:
    """The mean loss of all of `examples` under the model as it is, in evaluation mode; which mode it was in stays as it was."""
    was, total = model.training, 0.0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(examples), batch_size):
            batch = examples.batch(np.arange(start, min(start + batch_size, len(examples))))
            total += float(task.loss(model(batch.inputs.to(device)), batch.targets.to(device)).double().sum())
    model.train(was)
    return total / len(examples)
