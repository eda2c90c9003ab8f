"""The audit of one run.  Steinke, Nasr, Jagielski: Privacy Auditing with One (1) Training Run, NeurIPS 2023, theorem 5.2.

m canaries take part in a run or not, each by a fair coin of its own.  Whoever sees what the run released makes r guesses
and leaves the other canaries alone; v of them are right.  Where the run is (ε, δ)-differentially private,

    P[v or more right]  ≤  P[W ≥ v] + 2 m δ · max_i (1/i) P[v − i ≤ W < v],    W ~ Binomial(r, e^ε / (1 + e^ε))

whatever the mechanism is, and however the guesses are made: no independence of the canaries' traces is assumed.  So an ε
at which this probability is under 5 % is refuted, and the largest such ε is a lower bound that holds in 95 of 100 runs.
r is chosen before anything is seen, from the plan alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESULT = "audit.json"  # in the run folder
CONFIDENCE = 0.95
LARGEST = 128.0  # ε beyond which nothing is looked for
SHARES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)  # of the canaries, guessed
FOR_FAULTS = 0.1  # of the chance of error: for guesses about every canary
CLOSE = 0.97  # of the best expected bound: more guesses for so little can show a larger fault
REHEARSED = 20_000  # canaries
EXACT_STEPS = 200  # beyond them the sum over steps is rehearsed as a normal one


@dataclass(frozen=True)
class Bound:
    """ε is at least `epsilon` at `delta`, with `confidence`.  most: what it could have come to, had every guess been right."""

    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    right: int
    most: float

    def __str__(self) -> str:
        share = f"{self.right:,} of {self.guesses:,} guesses right"
        return f"ε ≥ {self.epsilon:.2f} at δ = {self.delta:g} with {self.confidence:.4g} confidence ({share}, {self.canaries:,} canaries)"


def p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Largest chance that v or more of r guesses about m canaries are right, where the run is (ε, δ)-private."""
    from scipy.stats import binom

    p = 1 / (1 + math.exp(-epsilon))
    pure = float(binom.sf(v - 1, r, p))
    if delta == 0 or v == 0:
        return min(1.0, pure)
    lowest = max(0, math.floor(r * p - 12 * math.sqrt(r * p * (1 - p)) - 12))  # below it lies no mass
    below = binom.pmf(np.arange(v - 1, min(lowest, v - 1) - 1, -1), r, p)
    steepest = float((np.cumsum(below) / np.arange(1, len(below) + 1)).max())
    return min(1.0, pure + 2 * m * delta * steepest)


def lower_bound(m: int, r: int, v: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """The largest ε that v right guesses of r refute; 0 where they refute none."""
    if p_value(m, r, v, 0.0, delta) > 1 - confidence:
        return 0.0
    low, high = 0.0, 1.0
    while high < LARGEST and p_value(m, r, v, high, delta) <= 1 - confidence:
        low, high = high, 2 * high
    for _ in range(34):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(m, r, v, middle, delta) <= 1 - confidence else (low, middle)
    return low


def judged(scores: np.ndarray, took_part: np.ndarray, guesses: int, delta: float, confidence: float = CONFIDENCE) -> Bound:
    """The bound from `scores` [m], higher where a canary seems to have taken part.

    Two tests share the chance of error.  The surest `guesses`, farthest from the median score, are best for an honest run;
    guesses about all m, parted at the widest gap, show the largest faults.
    """
    m = len(scores)
    tests = [
        (guesses, _right(scores - np.median(scores), took_part, guesses), 1 - (1 - confidence) * (1 - FOR_FAULTS)),
        (m, _right(scores - _gap(scores), took_part, m), 1 - (1 - confidence) * FOR_FAULTS),
    ]
    epsilon, neg, right = max((lower_bound(m, r, right, delta, sure), -r, right) for r, right, sure in tests)
    most = max(lower_bound(m, r, r, delta, sure) for r, _, sure in tests)
    return Bound(epsilon, delta, confidence, m, -neg, right, most)


def _right(scores: np.ndarray, took_part: np.ndarray, guesses: int) -> int:
    """How many of the surest guesses, above 0 = took part, are right."""
    surest = np.argsort(-np.abs(scores), kind="stable")[:guesses]
    return int(((scores > 0) == took_part)[surest].sum())


def _gap(scores: np.ndarray) -> float:
    """The middle of the widest gap between neighbouring scores, in the middle half of them."""
    ordered = np.sort(scores)[len(scores) // 4 : len(scores) - len(scores) // 4]
    at = int(np.argmax(np.diff(ordered)))
    return float(ordered[at] + ordered[at + 1]) / 2


# --------------------------------------------------------------------------------------- what a canary leaves behind


@dataclass(frozen=True)
class Traces:
    """What one canary of norm C leaves in noisy sums, in units of C: N(x, σ²) with x = 1 where it is in the sample of a step,
    and 0, or −1 where neighbours differ in one replaced, where it is not one that takes part.

    replaced: whether a canary that does not take part is replaced by its opposite (relation replace_one).
    """

    noise_multiplier: float
    sampling_rate: float
    replaced: bool = False

    def ratios(self, seen: np.ndarray) -> np.ndarray:
        """log P[seen | takes part] − log P[seen | does not], a step's share of the score (Neyman and Pearson)."""
        here = self._sampled(seen)
        return here - self._sampled(-seen) if self.replaced else here

    def _sampled(self, seen: np.ndarray) -> np.ndarray:
        q = self.sampling_rate
        alone = (seen - 0.5) / self.noise_multiplier**2
        return alone if q >= 1 else np.logaddexp(math.log1p(-q), math.log(q) + alone)

    def drawn(self, took_part: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
        """Scores [m] of honest traces, for rehearsals and tests."""
        scores = np.zeros(len(took_part))
        value = np.where(took_part, 1.0, -1.0 if self.replaced else 0.0)
        for _ in range(steps):
            sampled = rng.random(len(scores)) < self.sampling_rate
            scores += self.ratios(value * sampled + self.noise_multiplier * rng.standard_normal(len(scores)))
        return scores


def planned_guesses(traces: Traces, steps: int, canaries: int, delta: float, confidence: float = CONFIDENCE) -> int:
    """How many guesses to make: of the shares whose expected bound on an honest run is nearly the best, the largest."""
    rng = np.random.Generator(np.random.Philox(key=1))
    took_part = np.arange(REHEARSED) % 2 == 0
    scores = _rehearsed(traces, took_part, steps, rng)
    scores -= np.median(scores)
    order = np.argsort(-np.abs(scores))
    accuracy = np.cumsum(((scores > 0) == took_part)[order]) / np.arange(1, REHEARSED + 1)
    counts = sorted({max(1, round(share * canaries)) for share in SHARES}, reverse=True)
    expected = [_expected(canaries, r, accuracy[max(0, round(r / canaries * REHEARSED) - 1)], delta, confidence) for r in counts]
    enough = CLOSE * max(expected)
    return next(r for r, bound in zip(counts, expected, strict=True) if bound >= enough)


def _rehearsed(traces: Traces, took_part: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
    if steps <= EXACT_STEPS:
        return traces.drawn(took_part, steps, rng)
    one = traces.drawn(took_part, 1, rng)
    scores = np.empty(len(one))
    for group in (took_part, ~took_part):
        scores[group] = steps * one[group].mean() + math.sqrt(steps) * one[group].std() * rng.standard_normal(int(group.sum()))
    return scores


def _expected(m: int, r: int, accuracy: float, delta: float, confidence: float) -> float:
    """The mean bound of r guesses that are each right with chance `accuracy`: at its middle and a deviation to each side."""
    spread = math.sqrt(r * accuracy * (1 - accuracy))
    rights: Sequence[int] = [min(r, max(0, round(r * accuracy + side * spread))) for side in (-1.2, 0, 1.2)]
    return float(np.average([lower_bound(m, r, v, delta, confidence) for v in rights], weights=(1, 2, 1)))
