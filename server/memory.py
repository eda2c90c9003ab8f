"""What a round held, given back to the system: the allocator keeps freed models in between, and a coordinator is to stay small."""

import ctypes
import functools
from collections.abc import Callable

LARGE = 1 << 20  # numbers of an update from which it is worth a millisecond a round


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None where another library is in its place."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back(numbers: int) -> None:
    """Return freed pages, where updates of so many numbers made it worth while."""
    trim = _trim()
    if trim is not None and numbers >= LARGE:
        trim(0)
