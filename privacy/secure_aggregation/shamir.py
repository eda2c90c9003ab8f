"""Shamir's secret sharing over a prime field.  Shamir 1979.

A secret of 256 bits is the constant of a random polynomial of degree t − 1 over GF(p), p = 2^256 + 297; the share of
holder x (1, 2, ...) is its value at x.  Any t shares give the secret; fewer say nothing about it.
"""

import secrets
from collections.abc import Mapping, Sequence

P = 2**256 + 297  # the smallest prime above 2^256
SECRET = 32  # bytes
SHARE = 33  # bytes of a share


def split(secret: bytes, threshold: int, holders: Sequence[int]) -> dict[int, bytes]:
    """The share of each holder; `threshold` of them give the secret back."""
    if len(secret) != SECRET or not 1 <= threshold <= len(holders) or len({*holders, 0}) != len(holders) + 1:
        raise ValueError(f"{len(secret)} bytes to split {threshold} of {len(holders)}: 32 bytes, 1 ≤ t ≤ holders, and distinct x ≥ 1")
    return evaluate([int.from_bytes(secret), *(secrets.randbelow(P) for _ in range(threshold - 1))], holders)


def evaluate(coefficients: Sequence[int], holders: Sequence[int]) -> dict[int, bytes]:
    """The values at the holders' x of the polynomial with `coefficients`, lowest first (Horner)."""
    shares = {}
    for x in holders:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * x + coefficient) % P
        shares[x] = value.to_bytes(SHARE)
    return shares


def weights(holders: Sequence[int]) -> list[int]:
    """Lagrange's coefficients at 0 for `holders`, with a single inversion."""
    above, below = [], []
    for x in holders:
        numerator = denominator = 1
        for other in holders:
            if other != x:
                numerator = numerator * other % P
                denominator = denominator * (other - x) % P
        above.append(numerator)
        below.append(denominator)
    prefix = [1]
    for value in below:
        prefix.append(prefix[-1] * value % P)
    inverse = pow(prefix[-1], -1, P)
    result = [0] * len(below)
    for i in range(len(below) - 1, -1, -1):
        result[i] = above[i] * prefix[i] * inverse % P
        inverse = inverse * below[i] % P
    return result


def combine(shares: Mapping[int, bytes], coefficients: Sequence[int] | None = None) -> bytes | None:
    """The secret, from exactly a threshold of shares by holder; None where they do not lie on one 256-bit secret's polynomial.

    coefficients: `weights(list(shares))`, where the caller has them from another secret with the same holders.
    """
    used = weights(list(shares)) if coefficients is None else coefficients
    value = sum(w * int.from_bytes(share) for w, share in zip(used, shares.values(), strict=True)) % P
    return value.to_bytes(SECRET) if value < 2**256 else None
