"""Randomness by name, for what may be known: partitions, initial weights, shuffles, simulated faults.

A stream is a function of the run's seed and of the names of the thing it is for, so that any worker can draw it, at any
time, in any order, and get the same numbers.  What must not be known (noise, masks, who was sampled secretly) never
comes from here: it comes from the operating system.
"""

import hashlib

import numpy as np


def named(seed: int, *names: str | int) -> int:
    """A 63-bit number for (seed, names), the first bytes of their SHA-256.

    >>> named(0, "site", "a", "round", 3) == named(0, "site", "a", "round", 3)
    True
    >>> named(0, "a", "bc") == named(0, "ab", "c")  # names are kept apart
    False
    """
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for (seed, names): Philox, counter-based, the same on every platform.

    >>> stream(7, "partition").integers(100) == stream(7, "partition").integers(100)
    np.True_
    """
    return np.random.Generator(np.random.Philox(key=named(seed, *names)))


def seed_torch(seed: int, *names: str | int) -> None:
    """Seed torch's global generators (dropout) for (seed, names): the CPU's, and every GPU's that is in use."""
    import torch

    number = named(seed, *names)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
