"""Per-unit gradients of single layers, from what went in and the gradient of what came out.

In one backward pass each layer's input a and output gradient g are known, and the gradient of its parameters for each unit
is a product of the two that ordinary training never forms apart (Goodfellow 2015; Lee, Kifer 2021; book-keeping: Bu et al.
2023).  A kernel turns (a, g) into a `Piece`: the squared norm of every unit's gradient, and the sum of the units' gradients
under weights that are known only later.

Rows are images; a unit owns `rows / units` consecutive ones (an example's views, a subject's images), whose gradients add
up before the norm is taken.  Tensors have their rows first: a layer that mixes windows or tokens into that dimension
keeps the rows outermost.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedvision.errors import ModelRefused

KEPT_BYTES = 24 << 20  # per-unit gradients of a layer up to this size are kept for the weighted sum; larger ones are formed twice
CACHED_BYTES = 8 << 20  # of what is made on the way, at a time: it stays in the processor's cache, and in memory that is there already


@dataclass
class Piece:
    """What one call of a layer adds to the gradient.  squares: parameter -> [units].  weighted: c [units] -> parameter -> Σ c_u g_u."""

    squares: dict[str, Tensor]
    weighted: Callable[[Tensor], dict[str, Tensor]]


@dataclass
class Kept(Piece):
    """Per-unit gradients held whole: parameter -> [units, *shape]."""

    gradients: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, gradients: dict[str, Tensor]) -> "Kept":
        """The piece of gradients that are there."""

        return cls._with({name: _squares(g) for name, g in gradients.items()}, gradients)

    @classmethod
    def _with(cls, squares: dict[str, Tensor], gradients: dict[str, Tensor]) -> "Kept":
        def weighted(c: Tensor) -> dict[str, Tensor]:
            return {name: torch.mv(g.flatten(1).T, c.to(g.dtype)).view(g.shape[1:]) for name, g in gradients.items()}

        return cls(squares, weighted, gradients)

    def alone(self, name: str, called: str) -> "Kept":
        """The piece of one parameter, under another name."""
        return self._with({called: self.squares[name]}, {called: self.gradients[name]})

    def plus(self, other: "Kept") -> "Kept":
        """Two calls of one layer, or two layers of one parameter: gradients add up before the norm."""
        both = dict(self.gradients)
        for name, g in other.gradients.items():
            both[name] = both[name] + g if name in both else g
        return Kept.of(both)


def _squares(g: Tensor) -> Tensor:
    return torch.linalg.vector_norm(g.flatten(1), dim=1).square()


def by_unit(x: Tensor, units: int) -> Tensor:
    """[units, rows of a unit, ...] of [rows, ...]; ModelRefused where the first dimension is not made of units."""
    if x.dim() == 0 or x.shape[0] % units:
        raise ModelRefused(
            f"a layer saw a tensor of shape {tuple(x.shape)} for {units} units: its first dimension is not the images'; privacy needs layers "
            "that keep the images first"
        )
    return x.reshape(units, x.shape[0] // units, *x.shape[1:])


def trained(layer: nn.Module, names: set[str]) -> dict[str, Tensor]:
    """The layer's own parameters among `names`."""
    return {name: p for name, p in layer.named_parameters() if name in names}


# ------------------------------------------------------------------------------------------------------ linear layers


def linear(layer: nn.Module, a: Tensor, g: Tensor, units: int, names: set[str], whole: bool) -> Piece:
    """y = x Wᵀ + b.  a [rows, ..., in], g [rows, ..., out]."""
    return product(a, g, units, names, whole, "weight", "bias")


def product(a: Tensor, g: Tensor, units: int, names: set[str], whole: bool, weight: str, bias: str) -> Piece:
    """The piece of W with y = x Wᵀ + b, whatever its two parameters are called."""
    x, y = by_unit(a, units).reshape(units, -1, a.shape[-1]), by_unit(g, units).reshape(units, -1, g.shape[-1])
    t, i, o = x.shape[1], x.shape[2], y.shape[2]
    formed = t > 1 and 2 * t * (i + o) > i * o  # else the products of positions are fewer than the weights
    if whole or (formed and weight in names and units * i * o * 4 <= KEPT_BYTES):
        gradients = {}
        if weight in names:
            gradients[weight] = torch.bmm(y.mT, x)
        if bias in names:
            gradients[bias] = y.sum(1)
        return Kept.of(gradients)
    squares = {}
    if weight in names:
        squares[weight] = _squares_by_unit(x, y) if formed else _squares_by_position(x, y)
    if bias in names:
        squares[bias] = _squares(y.sum(1))

    def weighted(c: Tensor) -> dict[str, Tensor]:
        scaled = (y * c.to(y.dtype)[:, None, None]).reshape(-1, o)
        sums = {}
        if weight in names:
            sums[weight] = scaled.T @ x.reshape(-1, i)
        if bias in names:
            sums[bias] = scaled.sum(0)
        return sums

    return Piece(squares, weighted)


def _squares_by_position(x: Tensor, y: Tensor) -> Tensor:
    """‖Σ_t y_t x_tᵀ‖² = Σ_ts (x_t·x_s)(y_t·y_s), in double precision, because positions may nearly cancel."""
    if x.shape[1] == 1:
        return (torch.linalg.vector_norm(x, dim=(1, 2)) * torch.linalg.vector_norm(y, dim=(1, 2))).square()
    x, y = x.double(), y.double()
    return (torch.bmm(x, x.mT) * torch.bmm(y, y.mT)).sum((1, 2)).clamp_(min=0)


def _squares_by_unit(x: Tensor, y: Tensor) -> Tensor:
    """The same from the gradients themselves, a few units at a time."""
    most = max(1, KEPT_BYTES // (4 * x.shape[2] * y.shape[2]))
    return torch.cat([_squares(torch.bmm(q.mT, p)) for p, q in zip(x.split(most), y.split(most), strict=True)])


# ------------------------------------------------------------------------------------------------------- convolutions


def conv2d(layer: nn.Module, a: Tensor, g: Tensor, units: int, names: set[str], whole: bool) -> Piece:
    """Convolution of images [rows, C, H, W] of any stride, padding, dilation and groups, in any memory format."""
    assert isinstance(layer, nn.Conv2d)
    a, padding = _padded(layer, a)
    call = _Call(layer, a, g, units, padding)
    bias = Kept.of({"bias": by_unit(g.sum((2, 3)), units).sum(1)} if "bias" in names else {})
    if "weight" not in names:
        return bias
    if whole or (call.forms and layer.weight.numel() * 4 * units <= KEPT_BYTES):
        return Kept.of({"weight": call.all_gradients(), **bias.gradients})
    squares = call.squares()

    def weighted(c: Tensor) -> dict[str, Tensor]:
        scaled = g * c.to(g.dtype).repeat_interleave(g.shape[0] // units)[:, None, None, None]
        return {"weight": call.backward(a, scaled), **bias.weighted(c)}

    return Piece({"weight": squares} | bias.squares, weighted)


def _padded(layer: nn.Conv2d, a: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The input with any padding that is not plain zeros already put on, and the padding that is left to do."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return a, (int(layer.padding[0]), int(layer.padding[1]))
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(a, layer._reversed_padding_repeated_twice, mode=mode), (0, 0)


class _Call:
    """One call of a convolution, and the quickest way to its units' norms.

    way: how.  Two form the units' gradients by the library's own weight gradient, "units" one unit after the other and
    "grouped" several at once, as the groups of one convolution; "unfold" forms them by a product of unfolded images.  Two
    do not form them, which is quicker where the images are small and the layers wide: "positions" by products of unfolded
    images' positions, and "pixels" by products of the images' pixels, of which the positions' are sums.
    The constants are seconds measured on one core: for a call, a product, a number moved; they decide the speed alone.
    """

    def __init__(self, layer: nn.Conv2d, a: Tensor, g: Tensor, units: int, padding: tuple[int, int]):
        self.layer, self.a, self.g, self.units, self.padding = layer, a, g, units, padding
        by_unit(g, units)
        self.each = g.shape[0] // units
        self.inputs = layer.weight[0].numel()  # of one output channel
        self.positions = g.shape[2] * g.shape[3]
        weights, t = layer.weight.numel(), self.each * self.positions
        wide, window = self.inputs * layer.groups + layer.out_channels, layer.kernel_size[0] * layer.kernel_size[1]
        self.pixels = (a.shape[2] + 2 * padding[0]) * (a.shape[3] + 2 * padding[1])
        products, moved = 2.0 * weights * t, 4e-10 * t * self.inputs * layer.groups
        costs = {
            "units": 6e-5 + products / 1.8e11 + 1e-9 * weights,
            "grouped": 1e-5 + products / (1.9e11 if layer.in_channels % 16 == 0 else 7e10) + (4e-10 if weights < 8e4 else 5e-9) * weights,
            "unfold": moved + products / 8.5e10 + 2.5e-9 * weights,
            "positions": moved + 2.0 * t * t * wide / 4e10 + 1e-9 * t * wide + products / 2e11,
        }
        if self.each == 1 and layer.groups == 1:
            gram = 2.0 * self.pixels**2 * layer.in_channels + 2.0 * t * t * layer.out_channels
            costs["pixels"] = gram / 3.5e10 + 1.5e-9 * window * t * t + products / 2e11
        self.way = min(costs, key=costs.__getitem__)

    @property
    def forms(self) -> bool:
        """Whether the units' gradients are formed on the way to their norms."""
        return self.way in ("units", "grouped", "unfold")

    def backward(self, a: Tensor, g: Tensor) -> Tensor:
        """Σ over rows, as the library computes it."""
        layer = self.layer
        return torch.ops.aten.convolution_backward(
            g, a, layer.weight.detach(), None, layer.stride, self.padding, layer.dilation, False, [0, 0], layer.groups, [False, True, False]
        )[1]

    def _grouped(self, start: int, n: int) -> Tensor:
        """Gradients [n, *weight.shape] of n units at once: one convolution with a group for each of them."""
        layer, rows = self.layer, slice(start * self.each, (start + n) * self.each)
        a, g = (x[rows].unflatten(0, (n, self.each)).transpose(0, 1).flatten(1, 2) for x in (self.a, self.g))
        shape = g.new_empty(n * layer.out_channels, *layer.weight.shape[1:])  # its numbers are not read
        made = torch.ops.aten.convolution_backward(
            g, a, shape, None, layer.stride, self.padding, layer.dilation, False, [0, 0], n * layer.groups, [False, True, False]
        )[1]
        return made.view(n, *layer.weight.shape)

    def gradients(self) -> Iterator[Tensor]:
        """Per-unit gradients [n, *weight.shape], a few units at a time."""
        if self.way == "grouped":
            step = max(1, CACHED_BYTES // (4 * self.layer.weight.numel()))
            for start in range(0, self.units, step):
                yield self._grouped(start, min(step, self.units - start))
            return
        if self.way == "units":
            for start in range(0, len(self.g), self.each):
                rows = slice(start, start + self.each)
                yield self.backward(self.a[rows], self.g[rows]).unsqueeze(0)
            return
        for x, y in self._unfolded():
            yield torch.bmm(y.flatten(0, 1), x.flatten(0, 1).mT).view(len(x), *self.layer.weight.shape)

    def all_gradients(self) -> Tensor:
        """Per-unit gradients [units, *weight.shape]."""
        if self.way == "grouped":
            return self._grouped(0, self.units)
        made = self.g.new_empty(self.units, *self.layer.weight.shape)
        start = 0
        for part in self.gradients():
            made[start : start + len(part)] = part
            start += len(part)
        return made

    def squares(self) -> Tensor:
        """Squared norms [units], of gradients that are not kept."""
        if self.forms:
            return torch.cat([_squares(part) for part in self.gradients()])
        if self.way == "positions":
            return torch.cat(
                [_squares_by_position(x.flatten(0, 1).mT, y.flatten(0, 1).mT).view(x.shape[:2]).sum(1) for x, y in self._unfolded()]
            )
        step = max(1, CACHED_BYTES // (8 * (self.pixels**2 + 2 * self.positions**2)))
        parts = zip(self.a.split(step), self.g.split(step), strict=True)
        return torch.cat([self._squares_by_pixel(a, g) for a, g in parts]).clamp_(min=0)

    def _squares_by_pixel(self, a: Tensor, g: Tensor) -> Tensor:
        """Σ_ts (x_t·x_s)(y_t·y_s) of positions t, s, in double precision.  A position's input x_t is a window of pixels p, so
        that x_t·x_s is the sum over the window of p_(t+o)·p_(s+o): shifted pieces of one table of products."""
        (kh, kw), (sh, sw), (dh, dw), (ph, pw) = self.layer.kernel_size, self.layer.stride, self.layer.dilation, self.padding
        n, (h, w) = len(a), g.shape[2:]
        padded = functional.pad(a, (pw, pw, ph, ph)).double()
        flat, y = padded.flatten(2), g.double().flatten(2)
        table = torch.bmm(flat.mT, flat).view(n, *padded.shape[2:], *padded.shape[2:])
        inputs = torch.zeros(n, h, w, h, w, dtype=table.dtype, device=table.device)
        for i in range(0, kh * dh, dh):
            down = slice(i, i + sh * (h - 1) + 1, sh)
            for j in range(0, kw * dw, dw):
                right = slice(j, j + sw * (w - 1) + 1, sw)
                inputs += table[:, down, right, down, right]
        return torch.linalg.vecdot(inputs.flatten(1), torch.bmm(y.mT, y).flatten(1))

    def _unfolded(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, output gradients) [n, groups, channels, positions of a unit's rows], a few units at a time."""
        layer, each = self.layer, self.each
        step = max(1, CACHED_BYTES // max(1, 4 * self.inputs * layer.groups * self.positions * each))
        for start in range(0, self.units, step):
            n = min(step, self.units - start)
            rows = slice(start * each, (start + n) * each)
            x = self._windows(self.a[rows]).reshape(n, each, layer.groups, self.inputs, self.positions)
            y = self.g[rows].reshape(n, each, layer.groups, -1, self.positions)
            if each > 1:  # rows of one unit lie side by side as further positions
                x, y = x.permute(0, 2, 3, 1, 4).flatten(3), y.permute(0, 2, 3, 1, 4).flatten(3)
            yield (x, y) if each > 1 else (x[:, 0], y[:, 0])

    def _windows(self, a: Tensor) -> Tensor:
        """[rows, C·kh·kw, positions], as torch's unfold gives it; by views where there is no dilation, which is faster."""
        layer = self.layer
        (kh, kw), (sh, sw), (ph, pw) = layer.kernel_size, layer.stride, self.padding
        if layer.dilation != (1, 1):
            return functional.unfold(a, layer.kernel_size, layer.dilation, self.padding, layer.stride)
        if ph or pw:
            a = functional.pad(a, (pw, pw, ph, ph))
        windows = a.unfold(2, kh, sh).unfold(3, kw, sw)
        return windows.permute(0, 1, 4, 5, 2, 3).reshape(len(a), -1, self.positions)


# ------------------------------------------------------------------------------------------------------ normalisation


def _scaled(normal: Callable[[Tensor], Tensor], a: Tensor, g: Tensor, units: int, names: set[str], axes: tuple[int, ...]) -> Piece:
    """The piece of y = γ x̂ + β with x̂ = normal(a), summed over `axes`; some rows at a time."""
    by_unit(g, units)
    sums: dict[str, list[Tensor]] = {name: [] for name in ("weight", "bias") if name in names}
    step = max(1, CACHED_BYTES * len(g) // max(1, 8 * g.numel()))
    for x, y in zip(a.split(step), g.split(step), strict=True):
        if "weight" in sums:
            sums["weight"].append((normal(x) * y).sum(axes) if axes else normal(x) * y)
        if "bias" in sums:
            sums["bias"].append(y.sum(axes) if axes else y)
    return Kept.of({name: by_unit(torch.cat(parts), units).sum(1) for name, parts in sums.items()})


def group_norm(layer: nn.Module, a: Tensor, g: Tensor, units: int, names: set[str], whole: bool) -> Piece:
    """a [rows, C, ...]: each image normalised by itself, in groups of channels."""
    assert isinstance(layer, nn.GroupNorm)
    groups, eps = layer.num_groups, layer.eps
    return _scaled(lambda x: functional.group_norm(x, groups, None, None, eps), a, g, units, names, tuple(range(2, a.dim())))


def layer_norm(layer: nn.Module, a: Tensor, g: Tensor, units: int, names: set[str], whole: bool) -> Piece:
    """a [rows, ..., *normalized_shape]."""
    assert isinstance(layer, nn.LayerNorm)
    shape, eps = layer.normalized_shape, layer.eps
    return _scaled(lambda x: functional.layer_norm(x, shape, None, None, eps), a, g, units, names, tuple(range(1, a.dim() - len(shape))))


def frozen_batch_norm(layer: nn.Module, a: Tensor, g: Tensor, units: int, names: set[str], whole: bool) -> Piece:
    """a [rows, C, ...], normalised by constants: BatchNorm in evaluation mode."""
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    mean, var, eps = layer.running_mean, layer.running_var, layer.eps
    return _scaled(lambda x: functional.batch_norm(x, mean, var, None, None, False, 0.0, eps), a, g, units, names, tuple(range(2, a.dim())))


def embedding(layer: nn.Module, a: Tensor, g: Tensor, units: int, names: set[str], whole: bool) -> Piece:
    """Rows of a table by number.  a int [rows, ...], g [rows, ..., D]."""
    assert isinstance(layer, nn.Embedding)
    number, grad = by_unit(a, units).reshape(units, -1), by_unit(g, units).reshape(units, -1, g.shape[-1])
    if layer.padding_idx is not None:
        grad = grad * (number != layer.padding_idx)[..., None]
    table = torch.zeros(units * layer.num_embeddings, g.shape[-1], dtype=g.dtype, device=g.device)
    first = torch.arange(units, device=a.device)[:, None] * layer.num_embeddings
    table.index_add_(0, (number + first).flatten(), grad.flatten(0, 1))
    return Kept.of({"weight": table.view(units, *layer.weight.shape)})


# --------------------------------------------------------------------------------------------------- everything else


def any_layer(layer: nn.Module, a: Tensor, g: Tensor, units: int, names: set[str], whole: bool) -> Piece:
    """A layer of any kind with one tensor in and one out, by torch.func: its forward pass is done again, unit by unit."""
    parameters = trained(layer, names)

    def pulled(x: Tensor, y: Tensor) -> Any:
        back = torch.func.vjp(lambda p: torch.func.functional_call(layer, p, (x,)), parameters)[1]
        return back(y)[0]

    return Kept.of(dict(torch.func.vmap(pulled)(by_unit(a, units), by_unit(g, units))))


Kernel = Callable[[nn.Module, Tensor, Tensor, int, set[str], bool], Piece]
KERNELS: Mapping[type[nn.Module], Kernel] = {
    nn.Linear: linear,
    nn.Conv2d: conv2d,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.BatchNorm1d: frozen_batch_norm,
    nn.BatchNorm2d: frozen_batch_norm,
    nn.BatchNorm3d: frozen_batch_norm,
    nn.Embedding: embedding,
}


def kernel_of(layer: nn.Module) -> Kernel:
    """The kernel of a layer: of its class, or of a class whose forward pass it inherits unchanged; else `any_layer`."""
    for kind, kernel in KERNELS.items():
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            return kernel
    return any_layer
