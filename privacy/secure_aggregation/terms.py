"""What a run's masked sums are of, computed by each side for itself from what it has in its hands."""

import hashlib
from collections.abc import Mapping
from itertools import accumulate, groupby

import numpy as np

from fedvision.sums import Layout
from fedvision.types import State, TrainRequest
from privacy.secure_aggregation.masks import Ring
from privacy.secure_aggregation.messages import Terms


def terms_of(request: TrainRequest, layout: Layout, clip: float) -> Terms:
    """The terms of a round: the model and extras that a site is sent, the layout, its rings, and the largest norm of an update."""
    return Terms(model_digest(request.model, request.extras), layout.digest, clip, layout.scale("weights"), rings_of(layout))


def rings_of(layout: Layout) -> tuple[Ring, ...]:
    """A ring for each run of fields with the same bits, in the order of the vector."""
    runs = [(bits, sum(f.size for f in some)) for bits, some in groupby(layout.fields, layout.bits_of)]
    return tuple(Ring(bits, size) for bits, size in runs)


def parted(vector: np.ndarray, layout: Layout) -> list[np.ndarray]:
    """The vector's parts, one a ring; views."""
    return np.split(vector, list(accumulate(ring.size for ring in rings_of(layout)))[:-1])


def model_digest(model: State, extras: Mapping[str, State]) -> bytes:
    """SHA-256 over every tensor's name, type, shape and bytes, in the order of the names."""
    import torch

    digest = hashlib.sha256()
    for group, state in (("model", model), *sorted(extras.items())):
        for name, tensor in sorted(state.items()):
            digest.update(f"{group}\x1f{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1e".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
