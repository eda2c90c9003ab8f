"""The numbers that a round goes by: maxima over what its sites ask for, the same at every site, from the list of keys."""

from collections.abc import Sequence
from dataclasses import dataclass

from privacy.secure_aggregation.checks import require
from privacy.secure_aggregation.graph import Neighbourhood, least_threshold, neighbourhood
from privacy.secure_aggregation.messages import Keys


@dataclass(frozen=True)
class Thresholds:
    """signatures: t, how many must sign a survivor list.  cohort: fewest sites in a sum and in any atom of sums."""

    signatures: int
    cohort: int
    neighbours: Neighbourhood

    @property
    def survivors(self) -> int:
        """Fewest sites that a survivor list may hold."""
        return max(self.signatures, self.cohort)


def agreed(keys: Sequence[Keys]) -> Thresholds:
    """The thresholds of a cohort; AggregationRefused ("threshold") where it is too small for them."""
    sites = len(keys)
    signatures = max(least_threshold(sites), *(k.threshold for k in keys)) if keys else 1
    cohort = max(2, *(k.cohort for k in keys)) if keys else 2
    require(
        "threshold", max(signatures, cohort) <= sites, f"{sites} sites, and {signatures} signatures and {cohort} in a sum are asked for"
    )
    return Thresholds(signatures, cohort, neighbourhood(sites, signatures))


def with_room(keys: Sequence[Keys], dropouts: int) -> tuple[list[Keys], list[Keys]]:
    """(kept, left out): the strictest sites are left out until `dropouts` of the kept may drop out.

    A site's demand is its threshold or its minimum cohort, whichever is larger; of two alike the later name goes.
    """
    kept, out = sorted(keys, key=lambda k: k.site), []
    while kept and max(max(k.threshold, k.cohort) for k in kept) > len(kept) - dropouts:
        strictest = max(kept, key=lambda k: (max(k.threshold, k.cohort), k.site))
        kept.remove(strictest)
        out.append(strictest)
    return kept, out


def most_dropouts(sites: int, threshold: int = 0, cohort: int = 0) -> int:
    """How many of `sites` may drop out: n − max(⌊2n/3⌋ + 1, t, minimum cohort); 1 of 4, none of 3, 3 of 10."""
    return sites - max(least_threshold(sites), threshold, cohort)
