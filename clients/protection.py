"""What a worker of a private run makes ready once, for all of the sites that it serves."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedvision.experiment import Experiment
from fedvision.models import Parts
from fedvision.protections import DpSgd
from privacy.check_model import check_experiment
from privacy.ledger.terms import Terms
from privacy.plan import Plan, plan_of
from privacy.training import Stepper, make_stepper


@dataclass(frozen=True)
class Protection:
    """What a worker needs to keep the promise, and to keep record of it.  stepper: of dp_sgd."""

    plan: Plan
    stepper: Stepper | None
    terms: Terms


def protect(
    experiment: Experiment, model: nn.Module, task: Any, parts: Parts, device: torch.device, shape: tuple[int, ...]
) -> Protection | None:
    """The protection of an experiment, its model checked; None where it promises nothing, ModelRefused where it cannot."""
    p = experiment.privacy
    if p is None:
        return None
    plan = plan_of(experiment)
    check_experiment(experiment, shape, task.classes)
    stepper = (
        make_stepper(p, plan.noise_multiplier, model, parts.weights, task.criterion(experiment.training), device)
        if isinstance(p, DpSgd)
        else None
    )
    return Protection(plan, stepper, Terms.of(experiment, plan))
