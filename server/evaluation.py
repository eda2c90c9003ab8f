"""The coordinator's evaluations: on data of its own, and, by asking, on the sites' own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedvision.algorithms import SHARED_TOO
from fedvision.data.site import Examples
from fedvision.errors import ConfigError, UpdateRefused
from fedvision.evaluation import OverSites, Sums, measure
from fedvision.experiment import Experiment
from fedvision.types import Declined, EvaluateRequest, Exchange, Lost, Measured, Reply, SiteId, State
from server.cohorts import cohort


@dataclass
class Evaluator:
    """Measures a model as `evaluation` says.  own: the coordinator's examples by part; last: the newest sums, for the summary.

    model: its architecture.  Its tensors are those that are being measured, and between two measurements it has none.
    """

    experiment: Experiment
    run_id: str
    exchange: Exchange
    task: Any
    model: nn.Module
    own: Mapping[str, Examples]
    device: torch.device
    last: dict[str, Sums]

    def __post_init__(self) -> None:
        self._blank = {name: torch.empty_like(tensor, device="meta") for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self._blank, assign=True)
        self._judged: tuple[State | None, Sums] = (None, {})  # the model that was judged last, and its sums: not measured twice

    def __call__(self, weights: State, round: int, counted: Mapping[SiteId, int]) -> dict[str, Any]:
        """{"server": {"validation", "test"} | None, "sites": what `OverSites` says of the models that the sites use | None,
        "shared": of the shared model at the sites, where they have models of their own beside it}."""
        figures = {"server": self._server(weights), "sites": self._sites(weights, round, counted)}
        if self.experiment.strategy.name in SHARED_TOO and figures["sites"] is not None:
            figures["shared"] = self._sites(weights, round, {}, "shared test")
        return figures

    def held_out(self, weights: State) -> float:
        """The loss on the coordinator's validation examples; ConfigError where the task measures none."""
        if "validation" not in self.own:
            raise ConfigError("acceptance.loss_factor: evaluation.server.validation is so small a share that it holds no image; raise it")
        sums = self._measured(weights, ["validation"])["validation"]
        self._judged = (weights, sums)
        loss = self.task.metrics(sums).get("loss")
        if loss is None:
            raise ConfigError(f"acceptance.loss_factor: task {self.experiment.task} measures no loss; set it to null")
        return float(loss)

    def _server(self, weights: State) -> dict[str, Any] | None:
        if not self.own:
            return None
        known = {"validation": self._judged[1]} if weights is self._judged[0] else {}
        sums = known | self._measured(weights, [part for part in self.own if part not in known])
        self._judged = (None, {})
        self.last.update({f"server {part}": sums[part] for part in self.own})
        return {part: self.task.metrics(sums[part]) if sums[part] else None for part in self.own}

    def _measured(self, weights: State, parts: Sequence[str]) -> dict[str, Sums]:
        """Sums over each of these parts of the coordinator's own examples."""
        self.model.load_state_dict(dict(weights), assign=True)  # measured where they are: no second copy of the model
        self.model.to(self.device)
        found: dict[str, Sums] = {
            part: measure(self.model, self.task, self.own[part], self.experiment.evaluation.batch_size, self.device) for part in parts
        }
        self.model.load_state_dict(self._blank, assign=True)
        return found

    def _sites(self, weights: State, round: int, counted: Mapping[SiteId, int], kept: str = "sites' test") -> dict[str, Any] | None:
        which = self.experiment.evaluation.sites
        if which == "none":
            return None
        chosen: Sequence[SiteId] = self.exchange.sites()
        if which == "cohort":
            chosen = cohort(self.experiment.federation, chosen, self.experiment.seed, round, 1)
        requests = {site: EvaluateRequest(self.run_id, round, weights, "test", counted.get(site)) for site in chosen}
        figures = OverSites(self.task, self.experiment.evaluation.best)
        silent = {site: "no reply" for site in requests}
        for reply in self.exchange.ask(requests):
            if reply.site in silent:
                said = _take(reply, figures)
                del silent[reply.site]
                if said is not None:
                    silent[reply.site] = said
        self.last[kept] = figures.pooled
        return figures.figures() | {"not_measured": dict(sorted(silent.items()))}


def _take(reply: Reply, figures: OverSites) -> str | None:
    """Add a site's sums; why not, where they cannot be: nothing that a site sends is trusted."""
    if isinstance(reply, Measured):
        try:
            figures.add(reply.site, reply.sums)
        except UpdateRefused as error:
            return f"{error.code}: {error}"
        return None
    if isinstance(reply, Declined):
        return f"{reply.code}: {reply.reason}"
    return reply.kind if isinstance(reply, Lost) else f"wrong_kind: a {type(reply).__name__} where figures were asked for"
