"""What a site does with a batch beyond the plain loop, where the config asks for it: mixtures, changed images, other losses,
rates that change inside a round, averages of the weights, half precision, batches in pieces.

Where it asks for none of it there is no recipe, and `clients.training.train` runs untouched.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clients.algorithms import Fitted
from clients.mixing import Mixed, mix
from clients.schedule import parameter_groups
from clients.training import Correct
from fedvision.augment import Changes, changes
from fedvision.data.site import Batch, Examples
from fedvision.descent import Optimizer
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.learning import Training
from fedvision.tasks.coupled import losses_of

PLAIN = Training()
ASKS = (  # keys of `training` that the plain loop does not know
    "label_smoothing", "focal", "class_weights", "balance", "mixup", "cutmix", "transforms", "ema", "precision", "accumulate", "channels_last",
)  # fmt: skip
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FIRST_SCALE = 2.0**14  # of fp16's losses; made new in every round, as the optimiser is


@dataclass(frozen=True)
class Recipe:
    """The options of `training` that are on, made ready once a worker."""

    training: Training
    task: Any
    device: torch.device
    pipeline: Changes | None
    lonely: bool

    @classmethod
    def of(cls, experiment: Experiment, task: Any, device: torch.device, shape: tuple[int, ...], lonely: bool) -> "Recipe | None":
        """The recipe of an experiment; None where its training is plain, ConfigError where it cannot be here."""
        training = experiment.training
        if training.schedule_per == "round" and all(getattr(training, key) == getattr(PLAIN, key) for key in ASKS):
            return None
        if training.precision == "fp16" and device.type != "cuda":
            raise ConfigError(f"training.precision = fp16 needs a GPU, and the device is {device.type}; set it to bf16 or fp32")
        task.criterion(training)  # refused now rather than at a site
        made = changes(training.transforms, shape, "training.transforms", getattr(task, "geometry", ""))
        return cls(training, task, device, made, lonely)

    def train(
        self, model: nn.Module, examples: Examples, order: Sequence[Tensor], optimizer: Optimizer, rates: list[float],
        chance: np.random.Generator, correct: Correct | None,
    ) -> Fitted:  # fmt: skip
        """Step through `order`, one of `rates` a step.  chance: for what is drawn here."""
        model.train()
        loss_of = self.task.criterion(self.training, examples)
        scaler = torch.amp.GradScaler(self.device.type, _FIRST_SCALE, enabled=self.training.precision == "fp16")
        average = Average(optimizer, self.training.ema) if self.training.ema is not None else None
        total, seen = torch.zeros((), dtype=torch.float64, device=self.device), 0
        for positions, rate in zip(self._drawn(order, examples, chance), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
            optimizer.zero_grad(set_to_none=True)
            batch = self._batch(examples, positions)
            total += self._backward(model, batch, loss_of, scaler, chance) * len(positions)
            self._step(optimizer, scaler, correct)
            if average is not None:
                average.step()
            seen += len(positions)
        if average is not None:
            average.give()
        return Fitted(float(total) / seen, seen, len(rates), sum(rates))

    def _drawn(self, order: Sequence[Tensor], examples: Examples, chance: np.random.Generator) -> Iterator[Tensor]:
        """The order itself, or batches of its sizes in which every class is as likely as another."""
        if self.training.balance != "sampling":
            yield from order
            return
        labels = examples.labels
        weights = 1.0 / np.bincount(labels)[labels]
        for positions in order:
            yield torch.from_numpy(chance.choice(len(labels), len(positions), p=weights / weights.sum()))

    def _batch(self, examples: Examples, positions: Tensor) -> Batch:
        batch = examples.batch(positions) if self.pipeline is None else examples.changed(positions, self.pipeline)
        inputs = batch.inputs.to(self.device)
        if self.training.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return Batch(inputs, batch.targets.to(self.device))

    def _backward(self, model: nn.Module, batch: Batch, loss_of: Any, scaler: torch.amp.GradScaler, chance: np.random.Generator) -> Tensor:
        """Gradients of the batch's mean loss, which is returned; a piece at a time."""
        training, n = self.training, len(batch.targets)
        mixed = mix(batch.inputs, training, chance) if (training.mixup or training.cutmix) and n > 1 else None
        inputs = batch.inputs if mixed is None else mixed.inputs
        others = None if mixed is None else batch.targets[mixed.partner.to(self.device)]
        mean = torch.zeros((), device=self.device)
        coupled = getattr(self.task, "coupled", "")
        pieces = min(training.accumulate, n if self.lonely else max(1, n // 2))  # none of one example where BatchNorm needs two
        for piece in range(pieces):
            at = slice(n * piece // pieces, n * (piece + 1) // pieces)
            with torch.autocast(self.device.type, _DTYPES.get(training.precision), enabled=training.precision != "fp32"):
                outputs = None if coupled else model(inputs[at])
            if outputs is None:
                losses = losses_of(self.task, model, inputs[at], batch.targets[at])
            else:
                losses = _mixture(loss_of, outputs.float(), batch.targets[at], None if others is None else others[at], mixed)
            loss = losses.sum() / n
            scaler.scale(loss).backward()
            mean += loss.detach()
        return mean

    def _step(self, optimizer: Optimizer, scaler: torch.amp.GradScaler, correct: Correct | None) -> None:
        clip = self.training.gradient_clip
        if clip is not None or correct is not None:
            scaler.unscale_(optimizer)  # type: ignore[arg-type]  # it needs no more of an optimiser than ours has
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        if correct is not None:
            correct()
        scaler.step(optimizer)  # type: ignore[arg-type]
        scaler.update()


def check_training(training: Training, model: nn.Module, task: Any, shape: tuple[int, ...]) -> None:
    """ConfigError for what only the model, the classes or the images show to be wrong: so that nothing is begun."""
    task.criterion(training)
    changes(training.transforms, shape, "training.transforms", getattr(task, "geometry", ""))
    parameter_groups(training, {name: p for name, p in model.named_parameters() if p.requires_grad})


class Average:
    """An exponential moving average of the trained weights inside a round, a ← d a + (1 − d) w after each step.

    d = min(decay, (1 + t) / (10 + t)) at step t, so that the start is forgotten also in short rounds.
    """

    def __init__(self, optimizer: Optimizer, decay: float):
        self.decay, self.steps = decay, 0
        self.weights = [p for group in optimizer.param_groups for p in group["params"]]
        self.means = [p.detach().clone() for p in self.weights]

    def step(self) -> None:
        """Take in the weights as they are now."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.means, [p.detach() for p in self.weights], share)

    def give(self) -> None:
        """Set the weights to their average."""
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.means)


def _mixture(loss_of: Any, outputs: Tensor, targets: Tensor, others: Tensor | None, mixed: Mixed | None) -> Tensor:
    if mixed is None or others is None:
        return loss_of(outputs, targets)
    return mixed.share * loss_of(outputs, targets) + (1 - mixed.share) * loss_of(outputs, others)
