"""What the sites of an experiment send: the fields of the run's vector, declared before anything trains."""

from collections.abc import Mapping

import torch

from fedvision.algorithms import Afl, QFedAvg
from fedvision.experiment import Experiment
from fedvision.models import Parts
from fedvision.protections import Central
from fedvision.sums import COUNT, Field, Layout

_SMALLEST_LOSS = 0.01  # nats: q-FedAvg with q < 1 weighs ‖Δ‖² by F^(q−1), and near F = 0 the updates are small
LARGEST_LOSS = 1e4  # nats: a mean training loss beyond it makes the site decline
Shapes = Mapping[str, tuple[int, ...]]


def declare(experiment: Experiment, state: Mapping[str, torch.Tensor], parts: Parts, sites: int) -> Layout:
    """The layout of the run's vector.  `state`: the model's, for the shapes; `sites`: how many there are.

    weights, buffers: updates, w_i-weighted.  What an algorithm sends besides: `_own_fields`.
    count: w_i times the divisor.  examples, loss: of training, for the record; under privacy they do not leave a site.
    unclipped: whether an update was within the clip norm, where that adapts.
    """
    e, f = experiment.encoding, experiment.federation

    def shapes(names: tuple[str, ...]) -> Shapes:
        return {name: tuple(state[name].shape) for name in names}

    by_examples = f.weighting == "examples"
    fields = [Field("weights", shapes(parts.weights), e.range_weights * _stretch(experiment))]
    if parts.buffers:
        fields.append(Field("buffers", shapes(parts.buffers), e.range_buffers))
    fields += _own_fields(experiment, shapes(parts.weights), sites)
    fields.append(Field(COUNT, {"": ()}, f.max_examples if by_examples else 1, weighted=False, whole=True, wide=True))
    if experiment.privacy is None:
        examples = Field("examples", {"": ()}, f.max_examples, weighted=False, whole=True, wide=True)
        fields += [Field("loss", {"": ()}, LARGEST_LOSS, wide=True), examples]
    elif isinstance(experiment.privacy, Central) and experiment.privacy.adaptive is not None:
        fields.append(Field("unclipped", {"": ()}, 1, weighted=False, whole=True, wide=True))
    most = min(f.cohort or sites, sites)
    return Layout(tuple(fields), e.bits, most, divisor=f.max_examples if by_examples else 1)


def _stretch(experiment: Experiment) -> float:
    """By how much an algorithm may enlarge the updates that it sends: q-FedAvg's by F^q."""
    s = experiment.strategy
    return max(1.0, s.largest_loss**s.q) if isinstance(s, QFedAvg) else 1.0


def _own_fields(experiment: Experiment, weights: Shapes, sites: int) -> list[Field]:
    """control: SCAFFOLD's Δc, unweighted (its paper averages it uniformly).  tau: FedNova's ‖a_i‖₁.  h: q-FedAvg's, of an
    update of an L2 norm of up to encoding.range_weights.  share, losses: AFL's λ_i, and a slot for each site's loss."""
    s, e, t = experiment.strategy, experiment.encoding, experiment.training
    if s.name == "scaffold":
        return [Field("control", weights, e.range_weights, weighted=False)]
    if s.name == "fednova":
        most = t.steps or (t.epochs or 1) * -(-experiment.federation.max_examples // (t.batch_size or 1))
        return [Field("tau", {"": ()}, most / (1 - t.momentum), wide=True)]
    if isinstance(s, QFedAvg):
        steepest = s.largest_loss if s.q >= 1 else _SMALLEST_LOSS  # where q F^(q−1) is largest
        slope = s.q * steepest ** (s.q - 1) * (s.lipschitz or 1 / t.learning_rate)
        return [Field("h", {"": ()}, s.largest_loss**s.q + slope * e.range_weights**2, wide=True)]
    if isinstance(s, Afl):
        losses = Field("losses", {"": (sites,)}, s.largest_loss, weighted=False, wide=True)
        return [Field("share", {"": ()}, 1.0, weighted=False, wide=True), losses]
    return []
