"""A partition of one's own: sites in a ring, each sharing its classes with its neighbours.  Used by own_partition.yaml."""

import numpy as np

from fedvision.data.schemes import Units


def ring(units: Units, weights: np.ndarray, rng: np.random.Generator, *, reach: int = 1) -> np.ndarray:
    """int64 [U]: a unit of class k goes to one of the 2 · reach + 1 sites around place k of the ring."""
    sites, classes = len(weights), int(units.label.max()) + 1
    home = units.label * sites // classes
    return (home + rng.integers(-reach, reach + 1, len(units))) % sites
