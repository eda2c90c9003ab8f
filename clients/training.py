"""Local training: the steps that a site makes with the model in one round."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from clients.schedule import parameter_groups, rate_at
from fedvision.data.site import Examples
from fedvision.descent import Optimizer, Sgd
from fedvision.learning import Training
from fedvision.seeds import named
from fedvision.tasks.coupled import losses_of

Correct = Callable[[], None]  # changes the gradients in place, between backward and step


def learning_rate(training: Training, round: int, rounds: int) -> float:
    """η_l of a round, where it stays for the whole of it."""
    return rate_at(training, round, 1.0, rounds)


def make_optimizer(training: Training, model: nn.Module) -> Optimizer:
    """The optimiser of the config over the trained parameters of `model`, in groups where the layers' rates differ."""
    parameters = parameter_groups(training, {name: p for name, p in model.named_parameters() if p.requires_grad})
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    return Sgd(parameters, lr=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay)


def batches(n: int, training: Training, seed: int, *names: str | int, lonely: bool = True) -> Iterator[Tensor]:
    """Positions of each step's examples: `epochs` passes in an order drawn by name, or `steps` batches from as many
    passes as they need.  lonely: whether a last batch of one example may stand alone (BatchNorm cannot train on it)."""
    assert training.batch_size is not None  # null is for private sampling, which makes no batches
    order = torch.Generator().manual_seed(named(seed, *names, "order"))
    size, wanted, made = training.batch_size, training.steps, 0
    for _ in range(wanted or training.epochs or 1):
        positions = torch.randperm(n, generator=order)
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
    order: Iterator[Tensor],
    optimizer: Optimizer,
    device: torch.device,
    clip: float | None = None,
    correct: Correct | None = None,
) -> tuple[float, int, int]:
    """Step through `order`.  Returns the mean loss of the examples as they were met, their number, and the steps."""
    if not model.training:
        model.train()
    met: list[Tensor] = []  # the loss of each example, as it was met
    shares: dict[int, Tensor] = {}  # 1/B for each of B examples: the gradient of their mean
    for positions in order:
        batch = examples.batch(positions)
        losses = losses_of(task, model, batch.inputs.to(device), batch.targets.to(device))
        share = shares.get(len(losses))
        if share is None:
            share = shares[len(losses)] = torch.full_like(losses, 1 / len(losses))
        optimizer.zero_grad(set_to_none=True)
        losses.backward(gradient=share)
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        if correct is not None:
            correct()
        optimizer.step()
        met.append(losses.detach())
    all_met = torch.cat(met)
    return float(all_met.double().mean()), len(all_met), len(met)


def mean_loss(model: nn.Module, task: Any, examples: Examples, batch_size: int, device: torch.device) -> float:
    """The mean loss of all of `examples` under the model as it is, in evaluation mode; which mode it was in stays as it was."""
    was, total = model.training, 0.0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(examples), batch_size):
            batch = examples.batch(torch.arange(start, min(start + batch_size, len(examples))))
            total += float(task.loss(model(batch.inputs.to(device)), batch.targets.to(device)).double().sum())
    model.train(was)
    return total / len(examples)
