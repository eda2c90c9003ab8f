"""What a simulation hands its engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedvision.algorithms import FedBuff, sees_single
from fedvision.data.federation import Federated
from fedvision.experiment import Experiment


@dataclass(frozen=True)
class Setting:
    """What an engine needs to open the sites of a simulation.

    states: folder where sites keep what is theirs, on this machine.  say: for a word to the user.
    """

    experiment: Experiment
    data: Federated
    states: Path
    say: Callable[[str], None]


def added_at_once(experiment: Experiment) -> bool:
    """Whether nobody holds an update on its way into the sum: no fault to play, no clock that says when it arrives, no rule
    on single updates, no mask."""
    held = experiment.conditions.any or experiment.secure_aggregation.enabled or experiment.privacy is not None
    return not held and not isinstance(experiment.strategy, FedBuff) and not sees_single(experiment.strategy)
