"""What a simulated site that misbehaves sends in the place of its update: a test of who receives it, in the clear or in a masked sum."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedvision.sums import COUNT, Layout
from fedvision.types import ClientUpdate, Declined


def _filled(update: ClientUpdate, value: float) -> ClientUpdate:
    return replace(update, vector=np.full(update.vector.shape, value))


def _numbers(update: ClientUpdate, layout: Layout, field: str, change: Callable[[np.ndarray], np.ndarray]) -> ClientUpdate:
    vector = update.vector.copy()
    vector[layout.span(field)] = change(vector[layout.span(field)])
    return replace(update, vector=vector)


def _largest(numbers: np.ndarray) -> np.ndarray:
    return np.full_like(numbers, np.iinfo(numbers.dtype).max // 4)


LIES: dict[str, Callable[[ClientUpdate, Layout], ClientUpdate | Declined]] = {
    "nan": lambda u, layout: _filled(u, np.nan),
    "inf": lambda u, layout: _filled(u, np.inf),
    "huge": lambda u, layout: _numbers(u, layout, "weights", _largest),
    "wrong_shape": lambda u, layout: replace(u, vector=u.vector[:-1]),
    "wrong_names": lambda u, layout: replace(u, layout="0" * 64),
    "wrong_dtype": lambda u, layout: replace(u, vector=u.vector.astype(np.int16)),
    "negative_weight": lambda u, layout: _numbers(u, layout, COUNT, lambda n: -np.abs(n)),
    "huge_weight": lambda u, layout: _numbers(u, layout, COUNT, _largest),
    "opposite": lambda u, layout: _numbers(u, layout, "weights", lambda n: -4 * n),  # in range: no check can refuse it
    "raise": lambda u, layout: Declined(u.site, u.round, "error", "RuntimeError, as conditions.misbehaving asks"),
}
