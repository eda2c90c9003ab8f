"""What the sites of an experiment send: the fields of the run's vector, declared before anything trains."""

from collections.abc import Mapping

import torch

from fedvision.experiment import Experiment
from fedvision.models import Parts
from fedvision.protections import Central
from fedvision.sums import COUNT, Field, Layout

LARGEST_LOSS = 1e4  # nats: a mean training loss beyond it makes the site decline
Shapes = Mapping[str, tuple[int, ...]]


def declare(experiment: Experiment, state: Mapping[str, torch.Tensor], parts: Parts, sites: int) -> Layout:
    """The layout of the run's vector.  `state`: the model's, for the shapes; `sites`: how many there are.

    weights, buffers: updates, w_i-weighted.  control: SCAFFOLD's Δc, unweighted (its paper averages it uniformly).
    count: w_i times the divisor.  examples, loss: of training, for the record; under privacy they do not leave a site.
    unclipped: whether an update was within the clip norm, where that adapts.
    """
    e, f = experiment.encoding, experiment.federation

    def shapes(names: tuple[str, ...]) -> Shapes:
        return {name: tuple(state[name].shape) for name in names}

    by_examples = f.weighting == "examples"
    fields = [Field("weights", shapes(parts.weights), e.range_weights)]
    if parts.buffers:
        fields.append(Field("buffers", shapes(parts.buffers), e.range_buffers))
    if experiment.strategy.name == "scaffold":
        fields.append(Field("control", shapes(parts.weights), e.range_weights, weighted=False))
    fields.append(Field(COUNT, {"": ()}, f.max_examples if by_examples else 1, weighted=False, whole=True, wide=True))
    if experiment.privacy is None:
        examples = Field("examples", {"": ()}, f.max_examples, weighted=False, whole=True, wide=True)
        fields += [Field("loss", {"": ()}, LARGEST_LOSS, wide=True), examples]
    elif isinstance(experiment.privacy, Central) and experiment.privacy.adaptive is not None:
        fields.append(Field("unclipped", {"": ()}, 1, weighted=False, whole=True, wide=True))
    most = min(f.cohort or sites, sites)
    return Layout(tuple(fields), e.bits, most, divisor=f.max_examples if by_examples else 1)
