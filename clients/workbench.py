"""Workbench: what one worker builds once and uses for every site that it serves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clients.algorithms import Plain, Start, make_rule
from clients.protection import Protection, protect
from clients.recipe import Recipe
from clients.state import SiteStates
from clients.training import make_optimizer
from fedvision.descent import Optimizer
from fedvision.experiment import Experiment
from fedvision.fields import declare
from fedvision.models import Parts, build, parts
from fedvision.sums import Encoder, Layout, Unwritten, Values
from fedvision.tasks import task_of
from fedvision.types import SiteId, State, TrainRequest
from privacy.budget import RunAccount
from privacy.ledger.site import SiteLedger


def pick_device(wanted: str) -> torch.device:
    """The device of the config: auto = a GPU where there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


@dataclass
class Workbench:
    """One worker's model, optimiser, encoder and rule.  Sites come and go; nothing of one is seen by the next, because
    every tensor of the model is set from the request, and the optimiser forgets, before each."""

    experiment: Experiment
    model: nn.Module
    task: Any
    parts: Parts
    layout: Layout
    rule: Plain
    states: SiteStates
    device: torch.device
    optimizer: Optimizer
    encoder: Encoder
    tensors: dict[str, Tensor]
    weights: dict[str, nn.Parameter]
    lonely: bool
    protection: Protection | None
    recipe: Recipe | None = None
    straight: bool = False  # whether each update is added up before the next site is opened
    accounts: dict[SiteId, RunAccount] = field(default_factory=dict)
    ledgers: dict[SiteId, SiteLedger] = field(default_factory=dict)
    _broadcast: tuple[State, list[Tensor], Values] | None = None

    @classmethod
    def set_up(cls, experiment: Experiment, shape: tuple[int, ...], classes: tuple[str, ...], sites: int, states: Path) -> "Workbench":
        """Build everything for images of `shape` [C,H,W] in `classes`, in a federation of `sites`."""
        torch.set_num_threads(experiment.engine.threads)
        task = task_of(experiment, classes)
        device = pick_device(experiment.engine.device)
        model = build(experiment, shape, task.outputs)
        own = parts(model, experiment)
        layout = declare(experiment, model.state_dict(), own, sites)
        model.to(device)
        lonely = not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        if experiment.training.compile:
            model.compile()
        return cls(
            experiment=experiment, model=model, task=task, parts=own, layout=layout,
            rule=make_rule(experiment.strategy, experiment.training.momentum), states=SiteStates(states), device=device,
            optimizer=make_optimizer(experiment.training, model),
            encoder=Encoder(layout), tensors=model.state_dict(), weights={name: model.get_parameter(name) for name in own.weights},
            lonely=lonely, recipe=Recipe.of(experiment, task, device, shape, lonely),
            protection=protect(experiment, model, task, own, device, shape),
        )  # fmt: skip

    def load(self, state: State, own: State) -> None:
        """Set every tensor of the model: the site's `own` where it has one, else the request's."""
        sources = self._received(state)[1]
        if own:
            sources = [own.get(name, source) for name, source in zip(self.tensors, sources, strict=True)]
        with torch.no_grad():
            torch._foreach_copy_(list(self.tensors.values()), sources)

    def updates(self, state: State) -> Values:
        """(after, before) of each tensor that travels, by field."""
        if self.device.type == "cpu":
            return self._received(state)[2]
        return self._pairs(state)

    def _received(self, state: State) -> tuple[State, list[Tensor], Values]:
        """What is looked up in a round's model once, for all of its sites."""
        if self._broadcast is None or self._broadcast[0] is not state:
            pairs = self._pairs(state) if self.device.type == "cpu" else {}
            self._broadcast = (state, [state[name] for name in self.tensors], pairs)
        return self._broadcast

    def _pairs(self, state: State) -> Values:
        fields = {"weights": self.parts.weights, "buffers": self.parts.buffers}
        return {
            field: {name: (self.tensors[name].cpu().numpy(), state[name].numpy()) for name in names}
            for field, names in fields.items()
            if field in self.layout.by_name
        }

    def encode(self, values: Values, count: int, chance: np.random.Generator | None) -> np.ndarray | Unwritten:
        """The site's vector, or, where it is added up at once, what it will be written from."""
        if self.straight and chance is None:
            return Unwritten(self.encoder, values, count)
        return self.encoder.encode(values, count, chance)

    def start(self, site: SiteId, request: TrainRequest, own: State, rate: float) -> Start:
        """What the rule may look at, the model loaded."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad} if self.parts.home else self.weights
        return Start(site, self.weights, trained, self.tensors, request.model, request.extras, own, rate)

    def fresh_optimizer(self, rate: float) -> Optimizer:
        """The optimiser without memory, at this learning rate."""
        self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        return self.optimizer
