"""Whether a model and its loss can be protected at all: the claims that DP-SGD rests on, tried on this very model.

1. Nothing but the parameters changes in training: no running statistic takes in images without clip or noise.
2. The loss of one image does not move with the others.
3. Per-unit gradients are those of one unit at a time, in double precision, in both memory formats.
4. One unit more moves the clipped sum by at most the clip norm, however it is made.

A model that fails is refused with what to change.  Random images of the run's shape do; no data is read.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedvision.errors import ModelRefused
from fedvision.experiment import Experiment
from fedvision.protections import DpSgd
from privacy.gradients import Clipping, Loss

TOLERANCE = 1e-3
COMPANY = 15  # further images beside those of the units, for what couples many alone
UNITS = 3  # not a divisor of usual numbers of tokens and windows, so that a mix-up of dimensions shows
_checked: dict[str, list["Finding"]] = {}


@dataclass(frozen=True)
class Finding:
    """One claim, and by how much it holds: `measured` against its `limit`."""

    claim: str
    measured: float
    limit: float

    def __str__(self) -> str:
        return f"{self.claim}: {self.measured:.2g} (limit {self.limit:g})"


def check_experiment(experiment: Experiment, shape: tuple[int, ...], classes: tuple[str, ...]) -> list[Finding]:
    """The findings on the model and loss of `experiment`, made once a process; ModelRefused where one fails."""
    from fedvision.models import build, parts
    from fedvision.tasks import possible_targets, task_of

    known = repr((experiment.model, experiment.training, experiment.task, experiment.segmentation, experiment.privacy, shape, len(classes)))
    if known in _checked:
        return _checked[known]
    task = task_of(experiment, classes)
    if isinstance(experiment.privacy, DpSgd) and hasattr(task, "coupled"):
        raise ModelRefused(
            f"model.name = {experiment.model.name} has no loss an image: {task.coupled}; use a model whose loss is an image's own"
        )
    model = build(experiment, shape, task.outputs)
    own = parts(model, experiment)
    if own.buffers:
        raise ModelRefused(
            f"{own.buffers[0]} is a running statistic of private images, which would be sent without clip or noise: set model.norm to group, or "
            "model.norm_statistics to frozen"
        )
    findings: list[Finding] = []
    if isinstance(experiment.privacy, DpSgd):
        generator = torch.Generator().manual_seed(0)
        rows = UNITS * experiment.privacy.views * (experiment.privacy.max_images or 1)
        inputs = torch.randn(rows, *shape, generator=generator)
        targets = possible_targets(task, rows, generator, shape)
        findings = check_model(model, task.criterion(experiment.training), own.weights, inputs, targets, experiment.privacy)
    _checked[known] = findings
    return findings


def check_model(model: nn.Module, loss: Loss, names: Sequence[str], inputs: Tensor, targets: Tensor, spec: DpSgd) -> list[Finding]:
    """The findings; ModelRefused with the first claim that does not hold.  inputs, targets: `UNITS` units, rows of a unit
    side by side.  The model given is left as it is."""
    try:
        return _judged(model, loss, names, inputs, targets, spec)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # torch's, of a model that cannot be taken apart
        raise ModelRefused(
            f"{type(model).__name__} cannot be protected: it does not go through the check of its gradients: {error}"
        ) from error


def _judged(model: nn.Module, loss: Loss, names: Sequence[str], inputs: Tensor, targets: Tensor, spec: DpSgd) -> list[Finding]:
    model = without_chance(copy.deepcopy(model)).train()
    _keeps_its_buffers(model, inputs)
    findings = []
    for claim in (
        lambda: [_isolation(model, loss, inputs, targets)],
        lambda: _agreement(model, loss, names, inputs, targets, spec),
        lambda: [_sensitivity(model, loss, names, inputs, targets, spec)],
    ):
        for finding in claim():
            if not finding.measured <= finding.limit:
                raise ModelRefused(f"{type(model).__name__} cannot be protected: {finding}")
            findings.append(finding)
    return findings


def without_chance(model: nn.Module) -> nn.Module:
    """`model` with dropout and stochastic depth turned off, so that two passes can be compared."""
    for module in model.modules():
        drops = any(word in type(module).__name__.lower() for word in ("drop", "depth"))
        for name in ("p", "drop_prob", "dropout"):
            if (drops or name != "p") and isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def _keeps_its_buffers(model: nn.Module, inputs: Tensor) -> None:
    before = {name: b.clone() for name, b in model.named_buffers()}
    with torch.no_grad():
        model(inputs)
    for name, b in model.named_buffers():
        if not torch.equal(b, before[name]):
            raise ModelRefused(
                f"{name} takes in the images of a batch in training, without clip or noise: replace BatchNorm by GroupNorm (model.norm = group), "
                "freeze its statistics (model.norm_statistics = frozen), or use no running statistics"
            )


def _isolation(model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> Finding:
    """How far an image's loss moves when the others are replaced, when more are beside it, or because others were seen before;
    nats, relative where large.  The first image, and the last, which may be coupled to those before it alone."""
    model, inputs = copy.deepcopy(model).double(), inputs.double()
    others, labels = -3 * inputs.flip(0) + 1, targets.roll(1, 0)
    copies = max(1, COMPANY // len(inputs))
    moved = []
    with torch.no_grad():
        mine = loss(model(inputs), targets)
        if mine.shape != (len(inputs),):
            raise ModelRefused(
                f"the loss gives {tuple(mine.shape)} numbers for {len(inputs)} images: it must give one an image, before any mean"
            )
        for place in (0, len(inputs) - 1):
            images, said = others.clone(), labels.clone()
            images[place], said[place] = inputs[place], targets[place]
            moved.append(loss(model(images), said)[place] - mine[place])
        company = loss(model(torch.cat([inputs] + copies * [others])), torch.cat([targets] + copies * [labels]))
        moved += [company[0] - mine[0], loss(model(inputs), targets)[0] - mine[0]]
    most = float(torch.stack(moved).abs().max()) / max(1.0, float(mine.abs().max()))
    return Finding("how far the loss of one image moves with the others (use a loss and layers that treat each image alone)", most, 1e-6)


def one_at_a_time(model: nn.Module, loss: Loss, names: Sequence[str], inputs: Tensor, targets: Tensor, units: int) -> Tensor:
    """The reference: each unit's gradient from a backward pass of its own, [units, parameters]."""
    each, rows = len(inputs) // units, []
    parameters = [model.get_parameter(name) for name in names]
    for u in range(units):
        mine = slice(u * each, (u + 1) * each)
        found = torch.autograd.grad(loss(model(inputs[mine]), targets[mine]).sum(), parameters, allow_unused=True)
        rows.append(
            torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)])
        )
    return torch.stack(rows)


def _made(model: nn.Module, names: Sequence[str], spec: DpSgd) -> Any:
    from privacy.training import make_stepper

    return make_stepper(spec, 1.0, model, names, lambda outputs, targets: outputs, torch.device("cpu")).gradients


def _agreement(model: nn.Module, loss: Loss, names: Sequence[str], inputs: Tensor, targets: Tensor, spec: DpSgd) -> list[Finding]:
    """Norms and clipped sums against the reference, in double precision, for both memory formats."""
    model, inputs = copy.deepcopy(model).double(), inputs.double()
    units = len(inputs) if spec.gradients == "opacus" else UNITS
    reference = one_at_a_time(model, loss, names, inputs, targets, units)
    norms = reference.norm(dim=1)
    clipping = Clipping(float(norms.median()), "flat")
    wanted = (reference * clipping.weights({"all": norms.square()})["all"][:, None]).sum(0)
    findings = []
    for name, memory in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        total = torch.zeros_like(wanted)
        images = inputs.contiguous(memory_format=memory) if inputs.dim() == 4 else inputs
        found = _made(model, names, spec).clipped_sum(
            images, targets, loss, torch.ones(len(inputs), dtype=torch.float64), units, clipping, total
        )
        error = max(
            float(((found - norms) / norms.clamp(min=1e-12)).abs().max()), float((total - wanted).norm() / wanted.norm().clamp(min=1e-12))
        )
        findings.append(Finding(f"per-unit gradients against one unit at a time, {name} (relative error)", error, TOLERANCE))
    return findings


def _sensitivity(model: nn.Module, loss: Loss, names: Sequence[str], inputs: Tensor, targets: Tensor, spec: DpSgd) -> Finding:
    """The largest ‖f(D ∪ x) − f(D)‖ / C over ordinary and hostile units x, as the run itself would compute f."""
    clipping = Clipping(spec.clip, spec.clipping, spec.stability)
    made = _made(model, names, spec)
    units = len(inputs) if spec.gradients == "opacus" else UNITS
    each = len(inputs) // units
    worst = 0.0
    for hostile in (
        lambda x: x,
        lambda x: 1e4 * x,
        lambda x: torch.full_like(x, -50.0),
        torch.zeros_like,
        lambda x: torch.full_like(x, math.nan),
    ):
        images = inputs.clone()
        images[-each:] = hostile(images[-each:])
        sums = []
        for n in (units, units - 1):
            total = torch.zeros(made.total)
            made.clipped_sum(images[: n * each], targets[: n * each], loss, torch.ones(n * each), n, clipping, total)
            sums.append(total.double())
        moved = float((sums[0] - sums[1]).norm()) / spec.clip
        worst = max(worst, moved if math.isfinite(moved) else math.inf)
    return Finding("how far one unit more moves the clipped sum, over the clip norm", worst, 1 + TOLERANCE)
