"""How long a site takes, on the simulated clock: its trained examples times seconds_per_example times its own slowness,
which is log-normal over sites and drawn by name."""

import math
from typing import TYPE_CHECKING

from fedvision.seeds import stream

if TYPE_CHECKING:
    from fedvision.experiment import Conditions
    from fedvision.types import ClientUpdate, SecureReply


def seconds(update: "ClientUpdate | SecureReply", conditions: "Conditions", seed: int) -> float:
    """Simulated seconds that the site took for its update."""
    slowness = math.exp(conditions.speed_sigma * stream(seed, "slowness", update.site).standard_normal())
    return update.work * conditions.seconds_per_example * slowness
