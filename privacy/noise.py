"""Secret randomness, fast: AES-256 in counter mode, keyed by the operating system, turned into Gaussian noise and samples.

A `Source` that comes from `secret()` is keyed by the system's entropy and can be repeated by nobody; one from
`for_simulation_only` is keyed by names, and whoever knows them can subtract the noise.

Noise is float32, by Box and Muller 1958 from 32-bit uniforms: its tails end at 6.6 standard deviations, which a draw would
pass once in 10^10.  Floating-point noise is not exactly Gaussian in its low bits (Mironov 2012); sums are rounded to a
public fixed point before they leave a site.
"""

import hashlib
import math
import os

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

CHUNK = 1 << 15  # pairs of numbers at a time: the buffers stay in the processor's second-level cache


class Source:
    """A stream of secret bits.  One for each task; not to be shared by threads, never copied.  secret: whether nobody can
    repeat it."""

    def __init__(self, key: bytes, secret: bool):
        self.secret = secret
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._zeros = bytes(8 * CHUNK)
        self._bits = bytearray(8 * CHUNK)
        self._words = torch.frombuffer(self._bits, dtype=torch.int32)
        self._unit = torch.empty(CHUNK)
        self._angle = torch.empty(CHUNK)
        self._radius = torch.empty(CHUNK)

    def __reduce__(self) -> str:
        raise TypeError("a source of secret randomness cannot be copied or sent: a copy would repeat it")

    def _draw(self, words: int) -> Tensor:
        """int32 [words], uniform over all of its values; overwritten by the next draw."""
        self._cipher.update_into(memoryview(self._zeros)[: 4 * words], self._bits)
        return self._words[:words]

    def add_gaussian(self, to: Tensor, sigma: float) -> None:
        """Add independent N(0, σ²) to each number of `to` (float32, contiguous, on the CPU), in place."""
        flat = to.view(-1)
        for start in range(0, len(flat), 2 * CHUNK):
            part = flat[start : start + 2 * CHUNK]
            pairs = (len(part) + 1) // 2
            radius, angle, unit = self._radius[:pairs], self._angle[:pairs], self._unit[:pairs]
            bits = self._draw(2 * pairs)
            # u = |word| / 2^31: a small word is exact as float32, and small u make the tails
            torch.mul(bits[:pairs], 2.0**-31, out=unit).abs_().clamp_(min=2.0**-32)
            torch.log(unit, out=radius).mul_(-2 * sigma * sigma).sqrt_()
            torch.mul(bits[pairs:], math.pi * 2.0**-31, out=angle)
            torch.cos(angle, out=unit)
            part[:pairs].addcmul_(radius, unit)
            rest = part[pairs:]
            torch.sin(angle, out=unit)
            rest.addcmul_(radius[: len(rest)], unit[: len(rest)])

    def uniform(self, n: int) -> np.ndarray:
        """float64 [n] in [0, 1), multiples of 2^-53."""
        out = np.empty(n, np.float64)
        for start in range(0, n, CHUNK):
            count = min(CHUNK, n - start)
            self._draw(2 * count)
            words = np.frombuffer(self._bits, np.uint64, count)
            np.multiply(words >> np.uint64(11), 2.0**-53, out=out[start : start + count])
        return out

    def poisson_sample(self, n: int, rate: float) -> np.ndarray:
        """int64, sorted: each of 0..n-1 with probability `rate`, independently; may be empty."""
        return np.flatnonzero(self.uniform(n) < rate)

    def whole(self, n: int, below: int) -> np.ndarray:
        """int64 [n] in 0..below-1, for shifts and other small choices."""
        return (self.uniform(n) * below).astype(np.int64)


def secret() -> Source:
    """Randomness that nobody can repeat."""
    return Source(os.urandom(32), secret=True)


def for_simulation_only(seed: int, *names: str | int) -> Source:
    """NOT PRIVATE: randomness that anyone with the seed can repeat, and so subtract."""
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in ("simulation only", seed, *names))
    return Source(hashlib.sha256(text.encode()).digest(), secret=False)
