"""The door to Opacus: its PRV accountant, and its per-example gradients as a reference and a fallback for our own."""

from collections.abc import Sequence


def prv_epsilon(phases: Sequence[tuple[float, float, int]], delta: float) -> float:
    """ε of (noise multiplier, sampling rate, steps) phases by Opacus' PRV accountant, add or remove one; its error of 0.01 is
    part of the figure."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(phases)
    return max(0.0, float(accountant.get_epsilon(delta)))
