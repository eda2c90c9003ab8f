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
from itertools import islice
from typing import Any

import numpy as np

from fedvision.errors import ConfigError, OutOfRange, UpdateRefused

CHUNK = 1 << 16  # numbers at a time: the buffers stay in the processor's second-level cache
_HALF = 1.5 * 2.0**52  # adding it to |x| < 2^51 leaves round-half-even(x) in the low bits of the double
_HALF_BITS = int(np.float64(_HALF).view(np.int64))
_DOT = 1 << 13  # numbers of one dot product
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

    @cached_property
    def _spans(self) -> dict[str, slice]:
        ends = np.cumsum([0, *(f.size for f in self.fields)]).tolist()
        return {f.name: slice(start, stop) for f, start, stop in zip(self.fields, ends[:-1], ends[1:], strict=True)}

    def span(self, name: str) -> slice:
        """Where a whole field stands."""
        return self._spans[name]

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


Values = Mapping[str, float | Mapping[str, np.ndarray | tuple[np.ndarray, np.ndarray]]]


class Encoder:
    """Writes a site's numbers as integers.  Holds the buffers; one for each worker."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self._single = np.empty(CHUNK, np.float32)
        self._double = np.empty(CHUNK, np.float64)
        self._rounded = np.empty(CHUNK, np.float64)

    def encode(self, values: Values, count: int, chance: np.random.Generator | None = None) -> np.ndarray:
        """The vector [layout.size] of `values`: for each field its one number, or by tensor its numbers or a pair
        (after, before) to be subtracted.

        count: the site's weight times the layout's divisor (its number of examples, or 1).
        chance: a named stream for stochastic rounding.
        Raises OutOfRange where a number is beyond its field's limit, NaN or infinite.
        """
        out = np.empty(self.layout.size, self.layout.dtype)
        for _, part, numbers, _ in self.pieces(values, count, chance):
            out[part] = numbers
        return out

    def pieces(
        self, values: Values, count: int, chance: np.random.Generator | None = None
    ) -> Iterator[tuple[Field, slice, np.ndarray | int, float]]:
        """(field, where, the integers v there, Σ v²) until the vector is covered; the integers are good until the next."""
        weight = count / self.layout.divisor
        for f in self.layout.fields:
            factor = self.layout.scale(f.name) * (weight if f.weighted else 1.0)
            value, span = values[f.name], self.layout.span(f.name)
            if isinstance(value, Mapping):
                start = span.start
                for filled in self._gathered(f, value):
                    numbers, squares = self._round(filled, f, factor, chance)
                    yield f, slice(start, start + filled), numbers, squares
                    start += filled
            elif abs(value) <= f.limit:
                number = round(value * factor)
                yield f, span, number, float(number) ** 2
            else:
                raise OutOfRange(_beyond(f, value))

    def encode_rows(self, values: Mapping[str, np.ndarray], counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Many sites' vectors at once: int64 [S, layout.size], the L2 norms of their updates [S], and whether every number of a row
        was within its field's limit [S]; a row that was not holds nothing of use.

        values: for each field float [S, its size], or [S] where it is one number.  counts: int64 [S], as in `encode`.
        """
        rows, weights = len(counts), counts / self.layout.divisor
        out, norms, sound = np.empty((rows, self.layout.size), np.int64), np.zeros(rows), np.ones(rows, bool)
        for f in self.layout.fields:
            factors = self.layout.scale(f.name) * (weights if f.weighted else np.ones(rows))
            numbers, span = values[f.name].reshape(rows, -1), self.layout.span(f.name)
            for part in pieces(rows, max(1, CHUNK // f.size)):
                double = numbers[part] * factors[part, None]
                squares = np.einsum("ij,ij->i", double, double)
                if not (squares <= (f.limit * factors[part]) ** 2).all():
                    sound[part] &= np.abs(numbers[part]).max(axis=1) <= f.limit  # False where it is NaN
                double += _HALF
                np.subtract(double.view(np.int64), _HALF_BITS, out=out[part, span])
                if f.name in UPDATE_FIELDS:
                    norms[part] += squares / factors[part] ** 2
        return out, np.sqrt(norms), sound

    def _gathered(self, f: Field, tensors: Mapping[str, Any]) -> Iterator[int]:
        """How many numbers the buffer holds, again and again: small tensors are gathered, so that many cost no more than a large one."""
        filled = 0
        for name, shape in f.tensors.items():
            value = tensors[name]
            after, before = value if isinstance(value, tuple) else (value, None)
            if after.shape != shape:
                raise OutOfRange(f"{f.name} {name} has shape {after.shape}, and the run's layout has {shape}")
            after = after.reshape(-1)
            before = None if before is None else before.reshape(-1)
            taken = 0
            while taken < len(after):
                size = min(CHUNK - filled, len(after) - taken)
                target, source = self._single[filled : filled + size], after[taken : taken + size]
                if before is None:
                    target[:] = source
                else:
                    np.subtract(source, before[taken : taken + size], out=target)
                taken, filled = taken + size, filled + size
                if filled == CHUNK:
                    yield filled
                    filled = 0
        if filled:
            yield filled

    def _round(self, filled: int, f: Field, factor: float, chance: np.random.Generator | None) -> tuple[np.ndarray, float]:
        """The gathered numbers scaled and rounded half to even, int64 [filled], and the sum of their squares."""
        single, double, rounded = self._single[:filled], self._double[:filled], self._rounded[:filled]
        double[:] = single
        double *= factor
        if chance is not None:
            double += chance.random(filled) - 0.5
        double += _HALF
        np.subtract(double, _HALF, out=rounded)
        squares = sum_of_squares(rounded)
        if not squares <= (f.limit * factor) ** 2:  # also where it is NaN; most need no look at each number
            largest = max(-float(single.min()), float(single.max()))
            if not largest <= f.limit:
                raise OutOfRange(_beyond(f, largest))
        integers = double.view(np.int64)
        np.subtract(integers, _HALF_BITS, out=integers)
        return integers, squares


@dataclass(frozen=True)
class Unwritten:
    """A site's vector that is written only as it is added up, for a loop whose caller adds one before it asks for the next:
    its numbers go through the memory once.  Good until its worker's next site."""

    encoder: Encoder
    values: Values
    count: int

    def written(self) -> np.ndarray:
        """The vector; OutOfRange where a number is beyond its field's limit."""
        return self.encoder.encode(self.values, self.count)

    def add_to(self, sum: np.ndarray) -> dict[str, float]:
        """Add it to `sum`; Σ v² by field.  OutOfRange, and no change, where a number is beyond its field's limit."""
        squares, added = dict.fromkeys(self.encoder.layout.by_name, 0.0), 0
        try:
            for f, part, numbers, its in self.encoder.pieces(self.values, self.count):
                sum[part] += numbers
                squares[f.name] += its
                added += 1
        except OutOfRange:
            for _, part, numbers, _ in islice(self.encoder.pieces(self.values, self.count), added):
                sum[part] -= numbers
            raise
        return squares


def _beyond(f: Field, value: float) -> str:
    return f"{f.name}: {value:g} is beyond ± {f.limit:g}, the range that the run's encoding allows"


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

    def add(self, vector: np.ndarray | Unwritten) -> float:
        """Add one site's vector and return the L2 norm of its update; UpdateRefused, and no change, where it is not sound.

        OutOfRange where it is `Unwritten`, and its site would have declined."""
        if isinstance(vector, Unwritten):
            squares = vector.add_to(self.sum)
        else:
            check_form(vector, self.layout)
            squares = {f.name: self._fold(vector, self.layout.span(f.name)) for f in self.layout.fields}
        try:
            norm = check_size(vector, squares, self.layout, self.max_norm)
        except UpdateRefused:
            self.sum -= vector if isinstance(vector, np.ndarray) else vector.written()  # exact, also where it wrapped
            raise
        self.count += 1
        return norm

    def _fold(self, vector: np.ndarray, span: slice) -> float:
        """Add a field and return Σ v², chunk by chunk, so that the numbers come from memory once."""
        squares = 0.0
        for start in range(span.start, span.stop, CHUNK):
            part = slice(start, min(start + CHUNK, span.stop))
            numbers, total = vector[part], self.sum[part]
            np.add(total, numbers, out=total)
            double = self._double[: len(numbers)]
            double[:] = numbers
            squares += sum_of_squares(double)
        return squares

    def include(self, sum: np.ndarray, count: int) -> None:
        """Add the sum over `count` sites whose vectors were checked one by one by the same code, in a worker."""
        np.add(self.sum, sum, out=self.sum)
        self.count += count

    def put(self, vector: np.ndarray, count: int) -> None:
        """Take the sum over `count` sites, which nobody has seen one by one; UpdateRefused where it is beyond what they may send."""
        for f in self.layout.fields:
            part = vector[self.layout.span(f.name)]
            lowest, highest = int(part.min()), int(part.max())
            most = count * (f.limit * self.layout.scale(f.name) + 1)  # + 1: rounding at the limit itself
            if max(-lowest, highest) > most:
                raise UpdateRefused("sum_out_of_range", f"{f.name} sums to {lowest} to {highest}, beyond what {count} sites can send")
        weight = int(vector[self.layout.span(COUNT).start])
        if weight < count:
            raise UpdateRefused("sum_out_of_range", f"{COUNT} sums to {weight}, and each of {count} sites sends 1 or more")
        np.copyto(self.sum, vector)
        self.count = count
        norm = self.mean_norm()
        if norm > self.max_norm * (1 + 1e-9):  # a mean of vectors is never longer than the longest; the rest is rounding
            raise UpdateRefused("sum_out_of_range", f"a mean update of norm {norm:g}, and each site's is {self.max_norm:g} at most")

    def mean_norm(self) -> float:
        """L2 norm of the sites' mean update."""
        weight, squares = self.whole(COUNT) / self.layout.divisor, 0.0
        for f in self.layout.fields:
            if f.name in UPDATE_FIELDS:
                part, over = self.sum[self.layout.span(f.name)], self.layout.scale(f.name) * (weight if f.weighted else self.count)
                squares += sum(sum_of_squares(part[piece] / over) for piece in pieces(len(part), CHUNK))
        return math.sqrt(squares)

    def whole(self, field_name: str) -> int:
        """The sum of a field that is one whole number."""
        return int(self.sum[self.layout.span(field_name).start])

    def tensor(self, field_name: str, name: str, over: float = 1.0) -> np.ndarray:
        """The sum of one tensor divided by `over`, float64 [shape], w_i-weighted if its field is."""
        slot = self.layout.slots[field_name][name]
        return np.multiply(self.sum[slot.start : slot.stop], 1.0 / (self.layout.scale(field_name) * over)).reshape(slot.shape)

    def blocks(self, field_name: str, name: str, over: float = 1.0) -> Iterator[tuple[slice, np.ndarray]]:
        """(slice of the flat tensor, `tensor` there), so that no copy of a large one is held."""
        slot, factor = self.layout.slots[field_name][name], 1.0 / (self.layout.scale(field_name) * over)
        for piece in pieces(slot.stop - slot.start, CHUNK):
            yield piece, np.multiply(self.sum[slot.start + piece.start : slot.start + piece.stop], factor)


UPDATE_FIELDS = ("weights", "buffers")  # whose norm is bounded
COUNT = "count"  # the whole number that is a site's weight times the divisor


def check_form(vector: np.ndarray, layout: Layout) -> None:
    """UpdateRefused unless `vector` has the run's type and length and a weight that a site may have."""
    if not isinstance(vector, np.ndarray) or vector.dtype != layout.dtype:
        raise UpdateRefused(
            "wrong_dtype", f"numbers of type {getattr(vector, 'dtype', type(vector).__name__)}, and the run sums {layout.dtype}"
        )
    if vector.shape != (layout.size,):
        raise UpdateRefused("wrong_shape", f"a vector of shape {vector.shape}, and the run's layout has ({layout.size},)")
    count = int(vector[layout.span(COUNT).start])
    if not 1 <= count <= layout.by_name[COUNT].limit:
        raise UpdateRefused(
            "bad_weight", f"a weight of {count}, and it must lie in 1..{layout.by_name[COUNT].limit:g} (federation.max_examples)"
        )


def check_size(vector: np.ndarray | Unwritten, squares: Mapping[str, float], layout: Layout, max_norm: float) -> float:
    """The L2 norm of a vector's update, once every number is in its range and the norm is not absurd; else UpdateRefused.

    squares: Σ v² of each field; it bounds every |v|, so that most vectors need no look at each number."""
    count = vector.count if isinstance(vector, Unwritten) else int(vector[layout.span(COUNT).start])
    weight, total = count / layout.divisor, 0.0
    for f in layout.fields:
        factor = layout.scale(f.name) * (weight if f.weighted else 1.0)
        if squares[f.name] > (f.limit * factor) ** 2 and isinstance(vector, np.ndarray):
            part = vector[layout.span(f.name)]
            largest = max(-int(part.min()), int(part.max()))
            if largest > f.limit * factor + 1:  # + 1: rounding at the limit itself
                raise UpdateRefused("out_of_range", f"{f.name} holds {largest / factor:g}, beyond its range of ± {f.limit:g}")
        if f.name in UPDATE_FIELDS:
            total += squares[f.name] / factor**2
    norm = math.sqrt(total)
    if norm > max_norm:
        raise UpdateRefused("norm_too_large", f"an update of norm {norm:g}, over federation.max_update_norm = {max_norm:g}")
    return norm


def check(vector: np.ndarray, layout: Layout, max_norm: float) -> float:
    """The L2 norm of one site's update, once its vector is sound in form and size; else UpdateRefused."""
    check_form(vector, layout)
    squares = dict.fromkeys(layout.by_name, 0.0)
    for f in layout.fields:
        part = vector[layout.span(f.name)]
        for piece in pieces(len(part), CHUNK):
            squares[f.name] += sum_of_squares(part[piece].astype(np.float64))
    return check_size(vector, squares, layout, max_norm)


def sum_of_squares(double: np.ndarray) -> float:
    """Σ v², float64, by dot products so short that the library behind them starts no threads, which would spin beside torch's."""
    if len(double) <= _DOT:
        return float(np.dot(double, double))
    return sum(float(np.dot(part, part)) for part in (double[piece] for piece in pieces(len(double), _DOT)))


def pieces(size: int, most: int) -> Iterator[slice]:
    """Slices of at most `most` that cover `size`, for work block by block."""
    for start in range(0, size, most):
        yield slice(start, min(start + most, size))
