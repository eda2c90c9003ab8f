"""The vmap engine: many small sites trained at once, their models side by side as the rows of one matrix.

A small model's step is mostly the cost of calling each operation; here each is called once for a whole group of sites.
Sites see the batches that they would see alone, and their updates are encoded, checked and summed by the same rules, but
sums inside an operation run in another order: results agree with the other engines within float tolerance, not to the bit.
The same config on the same machine reproduces itself.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from clients.algorithms import Plain
from clients.algorithms.fedprox import FedProx
from clients.answer import answer, unfit
from clients.training import batches, learning_rate
from clients.workbench import Workbench
from fedvision.data.federation import Federated
from fedvision.errors import ConfigError
from fedvision.models import per_example_safe
from fedvision.seeds import named
from fedvision.sums import COUNT
from fedvision.types import Added, ClientUpdate, Declined, Request, SiteId, Subtotal, TrainRequest

GROUP_BYTES = 256 << 20  # of the models, gradients and vectors of the sites that are trained at once
MOST_AT_ONCE = 128  # sites; more bring nothing, and what they need would leave the processor's caches
COPIES = 32  # bytes a parameter of one site: model, gradient, what the operations keep, and the vector
T = TypeVar("T")


class Vmapped:
    """The sites of `data`, a group at a time.  straight: whether one sum of a group is enough, or each update is wanted.

    Raises ConfigError, by name, where the model or the rule cannot be batched.
    """

    def __init__(self, data: Federated, bench: Workbench, straight: bool):
        self.data, self.bench, self.straight = data, bench, straight
        self.pupils = Pupils(data, bench)
        self.at_once = max(1, min(MOST_AT_ONCE, GROUP_BYTES // (COPIES * bench.layout.size)))
        self._busy = 0.0

    def sites(self) -> Sequence[SiteId]:
        """Every site of the partition."""
        return self.data.sites

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Any]:
        """A group's replies together; requests other than to train are answered one by one."""
        group: list[SiteId] = []
        asked: TrainRequest | None = None
        for site, request in requests.items():
            if not isinstance(request, TrainRequest):
                yield self._timed(answer, request, self.data.site(site), self.bench)
                continue
            if (said := unfit(request, site, self.pupils.size(site), self.bench)) is not None:
                yield said
                continue
            if asked is not None and (len(group) == self.at_once or asked.model is not request.model):
                yield from self._timed(self._replies, asked, group)
                group = []
            group.append(site)
            asked = request
        if asked is not None:
            yield from self._timed(self._replies, asked, group)

    def _timed(self, work: Callable[..., T], *arguments: Any) -> T:
        began = time.perf_counter()
        result = work(*arguments)
        self._busy += time.perf_counter() - began
        return result

    def _replies(self, request: TrainRequest, sites: Sequence[SiteId]) -> list[Any]:
        layout, federation = self.bench.layout, self.bench.experiment.federation
        lesson = self.pupils.taught(request, sites)
        counts = lesson.examples if federation.weighting == "examples" else np.ones(len(sites), np.int64)
        values = {"weights": lesson.updates, "loss": lesson.losses, COUNT: counts, "examples": lesson.examples}
        vectors, norms, sound = self.bench.encoder.encode_rows(values, counts)
        summed = sound & (norms <= federation.max_update_norm) if self.straight else np.zeros(len(sites), bool)
        replies: list[Any] = []
        for row, site in enumerate(sites):
            if summed[row]:
                replies.append(Added(site, request.round))
            elif sound[row]:
                seen = int(lesson.seen[row])
                replies.append(ClientUpdate(site, request.round, request.attempt, vectors[row].astype(layout.dtype), layout.digest, seen))
            else:
                what = "a number of the update is beyond its range, encoding.range_weights, or is not finite"
                replies.append(Declined(site, request.round, "out_of_range", what))
        if summed.any():
            within = {site: float(norm) for site, norm, there in zip(sites, norms, summed, strict=True) if there}
            replies.append(Subtotal(request.round, request.attempt, vectors[summed].sum(0), within, layout.digest))
        return replies

    def clock(self) -> float:
        """The wall's."""
        return time.monotonic()

    def busy(self) -> float:
        """Seconds of answering."""
        return self._busy

    def close(self) -> None:
        """Nothing to let go."""


@dataclass(frozen=True)
class Lesson:
    """What a group of S sites made of a model.  updates: float32 [S, parameters]; losses: float64 [S], means over the examples as
    they were met; examples, seen: int64 [S], what each holds, and what went through its model."""

    updates: np.ndarray
    losses: np.ndarray
    examples: np.ndarray
    seen: np.ndarray


class Pupils:
    """The sites' training data in one place, and one model's training on the batches of many at a time."""

    def __init__(self, data: Federated, bench: Workbench):
        self.bench, self.examples = bench, data.pooled("train")
        holders = data.partition.site_of[self.examples.rows]
        ends = np.searchsorted(holders, np.arange(len(data.sites) + 1)).tolist()
        self._where = {site: (start, end - start) for site, start, end in zip(data.sites, ends[:-1], ends[1:], strict=True)}
        self._spans: list[tuple[str, slice, torch.Size]] = []
        at = 0
        for name, p in bench.weights.items():
            self._spans.append((name, slice(at, at + p.numel()), p.shape))
            at += p.numel()
        self._check()
        gradient = grad(self._loss, has_aux=True)
        self._first = vmap(gradient, in_dims=(None, 0, 0, 0), randomness="different")  # all sites start from one model
        self._later = vmap(gradient, in_dims=(0, 0, 0, 0), randomness="different")
        self._try()

    def size(self, site: SiteId) -> int:
        """How many examples the site trains on."""
        return self._where[site][1]

    def taught(self, request: TrainRequest, sites: Sequence[SiteId]) -> Lesson:
        """Train from request.model on each of `sites`, of which none is empty."""
        experiment, device = self.bench.experiment, self.bench.device
        training, seed = experiment.training, experiment.seed
        held = np.array([self._where[site][1] for site in sites])
        steps = list(self._batches(request, sites, held))
        torch.default_generator.manual_seed(named(seed, "vmap", sites[0], "round", request.round, request.attempt))
        self.bench.load(request.model, {})
        self.bench.model.train()
        start = torch.cat([request.model[name].reshape(-1) for name, _, _ in self._spans]).to(device)
        rate = learning_rate(training, request.round, experiment.federation.rounds)
        total, seen = torch.zeros(len(sites), dtype=torch.float64, device=device), np.zeros(len(sites), np.int64)
        models, velocity = start, None
        for step, (index, share) in enumerate(steps):
            there = share > 0
            batch = self.examples.batch(index.reshape(-1))
            inputs = batch.inputs.view(*index.shape, *batch.inputs.shape[1:]).to(device)
            targets = batch.targets.view(*index.shape, *batch.targets.shape[1:]).to(device)
            share = share.to(device)
            gradient, losses = (self._first if step == 0 else self._later)(models, inputs, targets, share)
            velocity = self._bent(gradient, models, start, velocity)
            moving = (share.sum(1, keepdim=True) > 0).to(velocity.dtype)  # a site that is through stays where it is
            models = models - rate * moving * velocity
            total += (losses.double() * there.to(device)).sum(1)
            seen += there.sum(1).numpy()
        updates = (models - start).cpu().numpy()
        return Lesson(updates, total.cpu().numpy() / seen, held, seen)

    def _batches(self, request: TrainRequest, sites: Sequence[SiteId], held: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """The sites' batches step by step, as rows: which examples, int64 [S,B], and the share of each in the mean, float32 [S,B]; what
        fills a row up, or stands for a site that is through, has share 0."""
        experiment, training = self.bench.experiment, self.bench.experiment.training
        starts = torch.tensor([self._where[site][0] for site in sites])
        assert training.batch_size is not None  # null is for private sampling
        if held.max() <= training.batch_size:  # every batch is all that a site has, and its order moves nothing
            within, sizes = torch.arange(int(held.max())), torch.from_numpy(held)[:, None]
            index, share = starts[:, None] + within.clamp(max=sizes - 1), (within < sizes) / sizes
            yield from [(index, share)] * (training.steps or training.epochs or 1)
            return
        orders = [
            [positions + start for positions in batches(n, training, experiment.seed, "site", site, "round", request.round)]
            for site, n, start in zip(sites, held.tolist(), starts.tolist(), strict=True)
        ]
        for step in range(max(map(len, orders))):
            yield _laid_out(orders, step)

    def _bent(self, gradient: Tensor, models: Tensor, start: Tensor, velocity: Tensor | None) -> Tensor:
        """The steps' directions, as `fedvision.descent.Sgd` has them, from gradients [S, parameters]."""
        training, rule = self.bench.experiment.training, self.bench.rule
        if training.gradient_clip is not None:
            norms = gradient.norm(dim=1, keepdim=True)
            gradient = gradient * (training.gradient_clip / (norms + 1e-6)).clamp(max=1.0)
        if isinstance(rule, FedProx):
            gradient = gradient + rule.mu * (models - start)
        if training.weight_decay:
            gradient = gradient + training.weight_decay * models
        return gradient if velocity is None or not training.momentum else training.momentum * velocity + gradient

    def _loss(self, flat: Tensor, inputs: Tensor, targets: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """One site's loss: the mean over its batch, whose padding has no share in it; and the loss of each example."""
        parameters = {name: flat[span].view(shape) for name, span, shape in self._spans}
        losses = self.bench.task.loss(functional_call(self.bench.model, parameters, (inputs,)), targets)
        return (losses * share).sum(), losses.detach()

    def _check(self) -> None:
        """ConfigError where the rule, or a layer, is not of one site alone."""
        experiment = self.bench.experiment
        if type(self.bench.rule) not in (Plain, FedProx):
            raise ConfigError(
                f"engine.name = vmap and strategy.name = {experiment.strategy.name} exclude each other: its sites do more than plain steps; "
                "use engine.name = inline or ray"
            )
        coupled = per_example_safe(self.bench.model)
        if coupled is not None or self.bench.parts.buffers:
            raise ConfigError(
                f"engine.name = vmap and model.name = {experiment.model.name} exclude each other: {coupled or 'it has running statistics'}"
            )

    def _try(self) -> None:
        """ConfigError where the model has an operation that vmap does not batch."""
        some = self.examples.batch(np.zeros(4, np.int64))
        inputs = some.inputs.view(2, 2, *some.inputs.shape[1:]).to(self.bench.device)
        targets = some.targets.view(2, 2, *some.targets.shape[1:]).to(self.bench.device)
        flat = torch.cat([p.detach().reshape(-1) for p in self.bench.weights.values()])
        self.bench.model.train()
        try:
            self._later(torch.stack([flat, flat]), inputs, targets, torch.full((2, 2), 0.5, device=self.bench.device))
        except (RuntimeError, NotImplementedError) as error:
            name = self.bench.experiment.model.name
            raise ConfigError(
                f"engine.name = vmap and model.name = {name} exclude each other: {str(error).splitlines()[0]}; use engine.name = inline or ray"
            ) from None


def _laid_out(orders: Sequence[Sequence[Tensor]], step: int) -> tuple[Tensor, Tensor]:
    """Each site's batch of one step as a row, and the shares."""
    rows = [order[step] if step < len(order) else order[0][:0] for order in orders]
    sizes = torch.tensor([len(row) for row in rows])
    index = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    share = (torch.arange(index.shape[1]) < sizes[:, None]) / sizes[:, None].clamp(min=1)
    return index, share
