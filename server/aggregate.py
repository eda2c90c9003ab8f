"""What a strategy is shown of a round: a sum over the sites, or, for the rules that must, each update by itself."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedvision.sums import COUNT, Layout, Total, check, pieces

BLOCK = 1 << 20  # numbers of all sites together that a rule on single updates holds at a time


@dataclass(frozen=True)
class Aggregate:
    """The sum over `count` sites.  mean_loss, examples: of training; None where the sites do not tell (privacy)."""

    total: Total
    mean_loss: float | None
    examples: int | None

    @classmethod
    def of(cls, total: Total) -> "Aggregate":
        """From the finished sum."""
        if "loss" not in total.layout.by_name:
            return cls(total, None, None)
        weight = total.whole(COUNT) / total.layout.divisor
        loss = float(total.tensor("loss", "")) / weight if total.count else float("nan")
        return cls(total, loss, total.whole("examples") if total.count else 0)

    @property
    def count(self) -> int:
        """How many sites."""
        return self.total.count

    def mean(self, field: str, name: str) -> Tensor:
        """Σ w_i x_i / Σ w_i, float64; Σ x_i / n for a field that is not weighted."""
        return torch.from_numpy(self.total.tensor(field, name, self._over(field)))

    def take_mean(self, field: str, name: str) -> Tensor:
        """`mean`, in the memory of the sum, of which this part is used up."""
        return torch.from_numpy(self.total.take(field, name, self._over(field)))

    def _over(self, field: str) -> float:
        layout = self.total.layout
        return self.total.whole(COUNT) / layout.divisor if layout.by_name[field].weighted else self.count


class Updates:
    """Each site's vector by itself, on disk and in the order of the sites' names, so that arrival changes nothing."""

    def __init__(self, layout: Layout, most: int, max_norm: float, folder: Path | None = None):
        self.layout, self.max_norm = layout, max_norm
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by `close`)
        size = most * layout.size * layout.dtype.itemsize
        if hasattr(os, "posix_fallocate"):  # Linux: a full disk is an error here, and would be a fatal signal at a page
            os.posix_fallocate(self._file.fileno(), 0, size)
        else:
            self._file.truncate(size)
        self._vectors = np.memmap(self._file, layout.dtype, "r+", shape=(most, layout.size))
        self._sites: list[str] = []

    def add(self, site: str, vector: np.ndarray) -> float:
        """Keep one site's vector; the L2 norm of its update, or UpdateRefused."""
        norm = check(vector, self.layout, self.max_norm)
        self._vectors[len(self._sites)] = vector
        self._sites.append(site)
        return norm

    @property
    def count(self) -> int:
        """How many sites."""
        return len(self._sites)

    def whole(self, field: str) -> int:
        """The sum of a field that is one whole number."""
        return int(self._vectors[: self.count, self.layout.span(field).start].astype(np.int64).sum())

    def mean_loss(self) -> float:
        """The sites' mean training loss, each site once."""
        return float(self._numbers("loss", self.layout.span("loss")).mean())

    def _numbers(self, field: str, span: slice) -> np.ndarray:
        rows = np.argsort(np.array(self._sites))
        block = self._vectors[: self.count, span][rows] / self.layout.scale(field)
        if self.layout.by_name[field].weighted:
            counts = self._vectors[: self.count, self.layout.span(COUNT).start][rows]
            block /= (counts / self.layout.divisor)[:, None]
        return block

    def blocks(self, field: str, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """(slice of the flat tensor, float64 [sites, slice]) until the tensor is covered."""
        slot = self.layout.slots[field][name]
        for piece in pieces(slot.stop - slot.start, max(1, BLOCK // max(self.count, 1))):
            yield piece, self._numbers(field, slice(slot.start + piece.start, slot.start + piece.stop))

    def close(self) -> None:
        """Give the disk back; once is enough."""
        if not self._file.closed:
            del self._vectors
            self._file.close()
