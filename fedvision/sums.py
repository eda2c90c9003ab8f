"""Exact, order-free sums of updates: fixed point, so that no arrangement of workers changes a bit.

A site's contribution is one vector of integers, round(w · x · 2^s) for each declared number x, where w in (0, 1] is the
site's weight over a public maximum and 2^s the scale of the number's field.  Integers add up to the same total in any
order and in any grouping, in the clear and under masks.  Nothing saturates: a number beyond its field's limit raises
`OutOfRange`, and the site declines.  The limits, the bits and the largest cohort bound every sum below the wrap.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fedvision.errors import ConfigError, OutOfRange, UpdateRefused

CHUNK = 1 << 16  # numbers at a time: the buffers stay in the processor's second-level cache
_HALF = 1.5 * 2.0**52  # adding it to |x| < 2^51 leaves round-half-even(x) in the low bits of the double
_HALF_BITS = int(np.float64(_HALF).view(np.int64))
MOST_BITS = 50  # |x · scale| ≤ 2^50, one bit inside what the rounding trick needs


@dataclass(frozen=True)
class Field:
    """Numbers that are summed alike.  `tensors`: name -> shape; `limit`: largest |number| before weighting;
    `weighted`: multiplied by the site's weight; `whole`: integers, summed at scale 1; `wide`: never in fewer than 32 bits."""

    name: str
    tensors: Mapping[str, tuple[int, ...]]
    limit: float
    weighted: bool = True
    whole: bool = False
    wide: bool = False

    @property
    def size(self) -> int:
        """How many numbers."""
        return sum(math.prod(shape) for shape in self.tensors.values())


@dataclass(frozen=True)
class Slot:
    """Where one tensor stands in the vector."""

    start: int
    stop: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What a site's vector holds, in which order, at which scales.

    bits: of one number, 16, 20, 24, 32 or 64.  most: the largest number of vectors that are ever added up.
    """

    fields: tuple[Field, ...]
    bits: int
    most: int
    divisor: int = 1

    def __post_init__(self) -> None:
        for f in self.fields:
            if f.whole and self.most * f.limit >= 2 ** (self.bits_of(f) - 1):
                raise ConfigError(
                    f"encoding.bits = {self.bits} cannot hold the sum of {self.most} sites' {f.name} of up to {f.limit:g}: "
                    "take encoding.bits = 64, or a smaller cohort or federation.max_examples"
                )
            if not f.whole and self.scale(f.name) * f.limit < 2**8:
                raise ConfigError(
                    f"encoding.bits = {self.bits} leaves steps of {1 / self.scale(f.name):g} for {f.name} in ± {f.limit:g} over {self.most} sites: "
                    "take encoding.bits = 64, a smaller range or a smaller cohort"
                )

    @property
    def dtype(self) -> np.dtype:
        """Of a site's vector."""
        return np.dtype(np.int64 if self.bits == 64 else np.int32)

    def bits_of(self, f: Field) -> int:
        """Of a number of this field in the sum."""
        return max(self.bits, 32) if f.wide else self.bits

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """The fields by name."""
        return {f.name: f for f in self.fields}

    @cached_property
    def slots(self) -> dict[str, dict[str, Slot]]:
        """Field name -> tensor name -> where it stands."""
        slots: dict[str, dict[str, Slot]] = {}
        start = 0
        for f in self.fields:
            slots[f.name] = {}
            for name, shape in f.tensors.items():
                slots[f.name][name] = Slot(start, start + math.prod(shape), tuple(shape))
                start += math.prod(shape)
        return slots

    @cached_property
    def size(self) -> int:
        """Length of the vector."""
        return sum(f.size for f in self.fields)

    def span(self, name: str) -> slice:
        """Where a whole field stands."""
        slots = list(self.slots[name].values())
        return slice(slots[0].start, slots[-1].stop) if slots else slice(0, 0)

    @cached_property
    def _scales(self) -> dict[str, float]:
        return {f.name: self._scale(f) for f in self.fields}

    def _scale(self, f: Field) -> float:
        if f.whole:
            return 1.0
        room = self.bits_of(f) - 2 - math.ceil(math.log2(max(self.most, 1)))  # one bit for the sign, one for rounding
        return 2.0 ** (min(room, MOST_BITS) - math.ceil(math.log2(f.limit)))

    def scale(self, name: str) -> float:
        """2^s, a power of two: scaling loses nothing.  most · limit · 2^s < 2^(bits − 1), so sums never wrap."""
        return self._scales[name]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes, limits, scales and bits: two parties with the same digest mean the same numbers."""
        said = [
            [f.name, {n: list(s) for n, s in f.tensors.items()}, f.limit, f.weighted, f.whole, self.scale(f.name), self.bits_of(f)]
            for f in self.fields
        ]
        return hashlib.sha256(json.dumps([self.bits, self.most, self.divisor, said]).encode()).hexdigest()


Values = Mapping[str, Mapping[str, np.ndarray | tuple[np.ndarray, np.ndarray]]]


class Encoder:
    """Writes a site's numbers as integers.  Holds the buffers; one for each worker."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self._single = np.empty(CHUNK, np.float32)
        self._double = np.empty(CHUNK, np.float64)

    def encode(self, values: Values, count: int, chance: np.random.Generator | None = None) -> np.ndarray:
        """The vector [layout.size] of `values`: field -> tensor -> numbers, or a pair (after, before) to be subtracted.

        count: the site's weight times the layout's divisor (its number of examples, or 1).
        chance: a named stream for stochastic rounding.
        Raises OutOfRange where a number is beyond its field's limit, NaN or infinite.
        """
        out = np.empty(self.layout.size, self.layout.dtype)
        weight = count / self.layout.divisor
        for f in self.layout.fields:
            scale, factor = self.layout.scale(f.name), weight if f.weighted else 1.0
            for name, slot in self.layout.slots[f.name].items():
                value = values[f.name][name]
                after, before = value if isinstance(value, tuple) else (value, None)
                if after.shape != slot.shape:
                    raise OutOfRange(f"{f.name} {name} has shape {after.shape}, and the run's layout has {slot.shape}")
                target = out[slot.start : slot.stop]
                self._write(
                    target,
                    after.reshape(-1),
                    None if before is None else before.reshape(-1),
                    factor * scale,
                    f.limit,
                    chance,
                    f"{f.name} {name}",
                )
        return out

    def _write(
        self,
        out: np.ndarray,
        after: np.ndarray,
        before: np.ndarray | None,
        factor: float,
        limit: float,
        chance: np.random.Generator | None,
        what: str,
    ) -> None:
        for start in range(0, len(out), CHUNK):
            part = after[start : start + CHUNK]
            double = self._double[: len(part)]
            if before is None:
                np.multiply(part, factor, out=double, dtype=np.float64)
            else:
                single = np.subtract(part, before[start : start + CHUNK], out=self._single[: len(part)])
                np.multiply(single, factor, out=double, dtype=np.float64)
            largest = max(-float(double.min()), float(double.max()))
            if not largest <= limit * factor:  # also where it is NaN
                raise OutOfRange(f"{what}: {largest / factor:g} is beyond ± {limit:g}, the range that the run's encoding allows")
            if chance is not None:
                double += chance.random(len(part)) - 0.5
            double += _HALF
            np.subtract(double.view(np.int64), _HALF_BITS, out=out[start : start + CHUNK], casting="unsafe")


@dataclass
class Total:
    """The running sum of vectors, each checked as it comes: nothing that a site sends is trusted."""

    layout: Layout
    max_norm: float = math.inf
    count: int = 0
    sum: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.sum = np.zeros(self.layout.size, np.int64)
        self._double = np.empty(CHUNK, np.float64)

    def add(self, vector: np.ndarray) -> float:
        """Add one site's vector and return the L2 norm of its update; UpdateRefused, and no change, where it is not sound."""
        norm = check(vector, self.layout, self.max_norm, self._double)
        for start in range(0, self.layout.size, CHUNK):
            part = self.sum[start : start + CHUNK]
            np.add(part, vector[start : start + CHUNK], out=part)
        self.count += 1
        return norm

    def put(self, vector: np.ndarray, count: int) -> None:
        """Take the sum over `count` sites, which nobody has seen one by one; UpdateRefused where it is beyond what they may send."""
        for f in self.layout.fields:
            lowest, highest, _ = _extent(vector[self.layout.span(f.name)], self._double, squares=False)
            most = count * (f.limit * self.layout.scale(f.name) + 1)  # + 1: rounding at the limit itself
            if max(-lowest, highest) > most:
                raise UpdateRefused("sum_out_of_range", f"{f.name} sums to {lowest} to {highest}, beyond what {count} sites can send")
        weight = int(vector[self.layout.span(COUNT)][0])
        if weight < count:
            raise UpdateRefused("sum_out_of_range", f"{COUNT} sums to {weight}, and each of {count} sites sends 1 or more")
        np.copyto(self.sum, vector)
        self.count = count

    def whole(self, field_name: str) -> int:
        """The sum of a field that is one whole number."""
        return int(self.sum[self.layout.span(field_name)][0])

    def tensor(self, field_name: str, name: str) -> np.ndarray:
        """The sum of one tensor, float64 [shape], w_i-weighted if its field is."""
        slot = self.layout.slots[field_name][name]
        return (self.sum[slot.start : slot.stop] / self.layout.scale(field_name)).reshape(slot.shape)


UPDATE_FIELDS = ("weights", "buffers")  # whose norm is bounded
COUNT = "count"  # the whole number that is a site's weight times the divisor


def check(vector: np.ndarray, layout: Layout, max_norm: float, buffer: np.ndarray) -> float:
    """The L2 norm of a vector's update, once its form, its weight and the size of its numbers are sound; else UpdateRefused."""
    if not isinstance(vector, np.ndarray) or vector.dtype != layout.dtype:
        raise UpdateRefused(
            "wrong_dtype", f"numbers of type {getattr(vector, 'dtype', type(vector).__name__)}, and the run sums {layout.dtype}"
        )
    if vector.shape != (layout.size,):
        raise UpdateRefused("wrong_shape", f"a vector of shape {vector.shape}, and the run's layout has ({layout.size},)")
    count = int(vector[layout.span(COUNT)][0])
    if not 1 <= count <= layout.by_name[COUNT].limit:
        raise UpdateRefused(
            "bad_weight", f"a weight of {count}, and it must lie in 1..{layout.by_name[COUNT].limit:g} (federation.max_examples)"
        )
    weight, total = count / layout.divisor, 0.0
    for f in layout.fields:
        factor = layout.scale(f.name) * (weight if f.weighted else 1.0)
        lowest, highest, squares = _extent(vector[layout.span(f.name)], buffer, f.name in UPDATE_FIELDS)
        if max(-lowest, highest) > f.limit * factor + 1:  # + 1: rounding at the limit itself
            raise UpdateRefused("out_of_range", f"{f.name} holds {max(-lowest, highest) / factor:g}, beyond its range of ± {f.limit:g}")
        total += squares / factor**2
    norm = math.sqrt(total)
    if norm > max_norm:
        raise UpdateRefused("norm_too_large", f"an update of norm {norm:g}, over federation.max_update_norm = {max_norm:g}")
    return norm


def _extent(part: np.ndarray, buffer: np.ndarray, squares: bool) -> tuple[int, int, float]:
    lowest = highest = 0
    total = 0.0
    for start in range(0, len(part), CHUNK):
        piece = part[start : start + CHUNK]
        lowest, highest = min(lowest, int(piece.min())), max(highest, int(piece.max()))
        if squares:
            double = buffer[: len(piece)]
            np.copyto(double, piece, casting="unsafe")
            total += float(np.dot(double, double))
    return lowest, highest, total


def pieces(size: int, most: int) -> Iterator[slice]:
    """Slices of at most `most` that cover `size`, for work block by block."""
    for start in range(0, size, most):
        yield slice(start, min(start + most, size))
