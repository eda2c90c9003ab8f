"""The learning rate: over the rounds, inside a round, and over the layers."""

import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fedvision.errors import ConfigError
from fedvision.learning import Training


def rate_at(training: Training, position: float, width: float, rounds: int) -> float:
    """η_l at `position` (in rounds, from 0) of a run of `rounds`; width: how long the rate stays, 1 = a round, less = a step.

    A linear warm-up, which reaches η_l at its end, then: constant, half a cosine to 0 over what is left of the rounds
    (Loshchilov, Hutter 2017, without restarts), or dropped by a factor every few rounds.
    """
    warm = training.warmup
    rise = min(1.0, (position + width) / warm) if warm else 1.0
    if training.schedule == "cosine":
        angle = math.pi * max(0.0, position - warm) / (rounds - warm) if rounds > warm else 0.0
        return training.learning_rate * rise * (1 + math.cos(angle)) / 2
    if training.schedule == "step":
        return training.learning_rate * rise * training.schedule_factor ** (int(position) // training.schedule_step)
    return training.learning_rate * rise


def rates_of_a_round(training: Training, round: int, rounds: int, steps: int) -> list[float]:
    """The rate of each of a round's `steps`."""
    if training.schedule_per == "step":
        return [rate_at(training, round + step / steps, 1 / steps, rounds) for step in range(steps)]
    return [rate_at(training, round, 1.0, rounds)] * steps


def block_of(parameter: str) -> str:
    """The block of layers that a parameter belongs to: its name up to the first part that ends with a digit.

    >>> block_of("layer1.0.conv1.weight"), block_of("features.3.0.bias"), block_of("blocks.11.attn.qkv.weight"), block_of("fc.weight")
    ('layer1', 'features.3', 'blocks.11', 'fc')
    """
    parts = parameter.split(".")[:-1]
    end = next((number for number, part in enumerate(parts) if re.search(r"\d$", part)), len(parts) - 1)
    return ".".join(parts[: end + 1])


def layer_factors(training: Training, names: list[str]) -> dict[str, float]:
    """The factor on the rate of each parameter, in the order of the model: decay ** (blocks between it and the output),
    times that of the first pattern of `rate_factors` that it matches."""
    blocks = list(dict.fromkeys(map(block_of, names)))
    decay = training.layer_decay or 1.0
    factors = {name: decay ** (len(blocks) - 1 - blocks.index(block_of(name))) for name in names}
    unused = next((pattern for pattern in training.rate_factors if not any(fnmatchcase(n, pattern) for n in names)), None)
    if unused is not None:
        raise ConfigError(f"training.rate_factors: no parameter matches {unused!r}; the first and the last are {names[0]} and {names[-1]}")
    for name in names:
        factors[name] *= next((f for pattern, f in training.rate_factors.items() if fnmatchcase(name, pattern)), 1.0)
    return factors


def parameter_groups(training: Training, parameters: Mapping[str, nn.Parameter]) -> list[Any]:
    """What an optimiser is made of: the parameters as they are, or one group a factor, which carries it as "factor"."""
    if training.layer_decay is None and not training.rate_factors:
        return list(parameters.values())
    groups: dict[float, list[nn.Parameter]] = {}
    for name, factor in layer_factors(training, list(parameters)).items():
        groups.setdefault(factor, []).append(parameters[name])
    return [{"params": members, "factor": factor} for factor, members in groups.items()]
