"""Example- and subject-level DP-SGD at a site.  Abadi et al. 2016, algorithm 1, with Poisson sampling:

    g ← (Σ_u in sample clip_C(g_u) + σ C z) / divisor,  z ~ N(0, I)

The rate, the number of steps and the divisor are public constants; who is in a sample, and how many, stays here.  An empty
sample is a step like any other: noise alone.  Views (De et al. 2022): K random views of an image, their gradients averaged
before clipping, cost nothing in privacy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedvision.data.site import Examples
from fedvision.descent import Optimizer
from fedvision.errors import ModelRefused
from fedvision.protections import DpSgd
from privacy.attacks.canaries import Shadow
from privacy.gradients import Clipping, Loss, UnitGradients
from privacy.noise import Source

Correct = Callable[[], None]


@dataclass(frozen=True)
class Units:
    """Whom a site's examples belong to.  members: positions of each unit's examples."""

    members: tuple[np.ndarray, ...]
    most: int

    @classmethod
    def of(cls, examples: Examples, spec: DpSgd) -> "Units":
        """Each example by itself, or those of a subject together."""
        if spec.unit == "example":
            return cls(tuple(np.arange(len(examples))[:, None]), 1)
        who = examples.subjects
        if who is None:
            raise ModelRefused(
                "privacy.unit = subject, and this data set does not know whom its images show; give subjects, or set unit to example"
            )
        order = np.argsort(who, kind="stable")
        ends = np.flatnonzero(who[order][1:] != who[order][:-1]) + 1
        return cls(tuple(np.split(order, ends)) if len(order) else (), spec.max_images or 1)

    def __len__(self) -> int:
        return len(self.members)

    def rows(self, sample: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """Positions and presence [len(sample), most] of the sampled units' examples; at most `most` of a unit, drawn anew."""
        positions = np.zeros((len(sample), self.most), np.int64)
        there = np.zeros((len(sample), self.most), bool)
        for row, unit in enumerate(sample):
            members = self.members[unit]
            if len(members) > self.most:
                members = members[np.argsort(source.uniform(len(members)))[: self.most]]
            positions[row, : len(members)], there[row, : len(members)] = members, True
        return positions, there


def views(images: Tensor, spec: DpSgd, source: Source) -> Tensor:
    """[n·K, C, H, W]: K random views of each image, side by side: shifted by up to `shift` pixels, mirrored by chance.

    What a shift brings in from outside is the image's own corner pixel's value: nothing of another image.
    """
    if not (spec.shift or spec.flip):
        return images
    n, most = len(images) * spec.views, spec.shift
    _, _, h, w = images.shape
    padded = torch.nn.functional.pad(images, (most,) * 4, mode="replicate").repeat_interleave(spec.views, 0)
    down, right = (torch.from_numpy(source.whole(n, 2 * most + 1)) for _ in range(2))
    ys = (down[:, None] + torch.arange(h))[:, :, None].expand(n, h, w)
    xs = right[:, None] + torch.arange(w)
    if spec.flip:
        mirrored = torch.from_numpy(source.uniform(n) < 0.5)[:, None]
        xs = torch.where(mirrored, xs.flip(1), xs)
    return padded[torch.arange(n)[:, None, None], :, ys, xs[:, None, :].expand(n, h, w)].permute(0, 3, 1, 2).contiguous()


@dataclass
class Stepper:
    """DP-SGD on one model.  gradients: how the clipped sum is made; noise_multiplier: σ of the plan."""

    spec: DpSgd
    noise_multiplier: float
    gradients: UnitGradients
    loss: Loss
    device: torch.device
    _total: Tensor | None = None

    @property
    def clipping(self) -> Clipping:
        """As the config says."""
        return Clipping(self.spec.clip, self.spec.clipping, self.spec.stability)

    def release(self, examples: Examples, units: Units, source: Source, shadow: Shadow | None = None) -> Tensor:
        """One noisy, averaged gradient [parameters]: what a step may use, and all that it may.  The next release overwrites it.

        shadow: canaries, whose places lie behind the parameters while the sum is made and noised.
        """
        length = self.gradients.total + (0 if shadow is None else len(shadow))
        if self._total is None or len(self._total) != length:
            self._total = torch.empty(length, device=self.device)
        parameters, places = self._total.zero_()[: self.gradients.total], self._total[self.gradients.total :]
        sample = source.poisson_sample(len(units), self.spec.sampling_rate)
        self.clipped_sum(examples, units, sample, source, parameters)
        if shadow is not None:
            shadow.join(places, self.spec, self.clipping, source)
        self._add_noise(self._total, source)
        if shadow is not None:
            shadow.see(places, self.spec.clip)
        return parameters.div_(self.spec.divisor)

    def _add_noise(self, total: Tensor, source: Source) -> None:
        if self.device.type == "cpu":
            source.add_gaussian(total, self.noise_multiplier * self.spec.clip)
        else:
            noise = torch.zeros(len(total))
            source.add_gaussian(noise, self.noise_multiplier * self.spec.clip)
            total.add_(noise.to(self.device))

    def clipped_sum(self, examples: Examples, units: Units, sample: np.ndarray, source: Source, into: Tensor | None = None) -> Tensor:
        """Σ of the sampled units' clipped gradients, `physical_batch` rows at a time, added to `into` (zeros where None)."""
        total = torch.zeros(self.gradients.total, device=self.device) if into is None else into
        each = units.most * self.spec.views
        most = max(1, self.spec.physical_batch // each)
        for start in range(0, len(sample), most):
            positions, there = units.rows(sample[start : start + most], source)
            batch = examples.batch(positions.reshape(-1))
            inputs = views(batch.inputs, self.spec, source)
            weights = torch.from_numpy(np.repeat(there.reshape(-1), self.spec.views) / self.spec.views).to(inputs.dtype)
            targets = batch.targets.repeat_interleave(self.spec.views, 0)
            self.gradients.clipped_sum(
                inputs.to(self.device), targets.to(self.device), self.loss, weights.to(self.device), len(positions), self.clipping, total
            )
        return total


def train_privately(
    model: nn.Module,
    stepper: Stepper,
    examples: Examples,
    steps: int,
    optimizer: Optimizer,
    source: Source,
    correct: Correct | None,
    shadow: Shadow | None = None,
) -> None:
    """`steps` noisy steps.  Gives no figure of the private images: there is none that was paid for.  shadow: canaries to score."""
    model.train()
    units = Units.of(examples, stepper.spec)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        stepper.gradients.give(stepper.release(examples, units, source, shadow))
        if correct is not None:
            correct()
        optimizer.step()


def make_stepper(spec: DpSgd, noise_multiplier: float, model: nn.Module, names: Any, loss: Loss, device: torch.device) -> Stepper:
    """A stepper for the trained parameters `names` of `model`; ModelRefused where they cannot be trained so."""
    if spec.gradients == "opacus":
        from privacy.dpsgd import OpacusGradients

        return Stepper(spec, noise_multiplier, OpacusGradients(model, names), loss, device)
    return Stepper(spec, noise_multiplier, UnitGradients(model, names), loss, device)
