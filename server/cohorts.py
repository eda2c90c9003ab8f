"""Who is asked in a round, drawn by name: the same on every engine and after every resume."""

from collections.abc import Sequence

from fedvision.experiment import Federation
from fedvision.seeds import stream
from fedvision.types import SiteId


def cohort(federation: Federation, sites: Sequence[SiteId], seed: int, round: int, attempt: int) -> list[SiteId]:
    """The sites asked in an attempt at a round: all, a fixed number, or each with the same chance (Poisson)."""
    if federation.sampling == "all":
        return list(sites)
    draw = stream(seed, "cohort", "round", round, "attempt", attempt)
    if federation.sampling == "fixed":
        assert federation.cohort is not None
        chosen = draw.choice(len(sites), min(federation.cohort, len(sites)), replace=False)
    else:
        assert federation.rate is not None
        chosen = (draw.random(len(sites)) < federation.rate).nonzero()[0]
    return [sites[i] for i in sorted(chosen)]
