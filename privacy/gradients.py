"""Clipped sums of per-unit gradients in one backward pass, by book-keeping.

The forward pass runs with parameters that ask for no gradient, so that backward makes the gradients of activations alone;
hooks hand each layer's input and output gradient to its kernel.  The norms of whole units are known when backward ends;
only then are the units weighted and summed.
"""

import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedvision.errors import ModelRefused
from privacy.allocation import keep_freed
from privacy.kernels import Kept, Piece, any_layer, by_unit, kernel_of, product

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> [rows]
NORM_MARGIN = 1e-5  # relative; single precision makes a norm no more wrong than this
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


class _Root(torch.autograd.Function):
    """Where the graph begins: the first trained layer's output, as something that has a gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, anchor: Tensor) -> Tensor:
        ctx.mark_dirty(y)  # the same memory: what comes after may change it in place, as it could before
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


@dataclass(frozen=True)
class Clipping:
    """How a unit's gradient is brought to a norm of at most `norm` (C).  kind: flat, per_layer or automatic."""

    norm: float
    kind: str = "flat"
    stability: float = 0.01

    def weights(self, squares: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameter -> [units]: what each unit's gradient is multiplied by.  squares: parameter -> squared norms [units]."""
        if self.kind != "per_layer":
            norm = torch.stack([s.double() for s in squares.values()]).sum(0).sqrt()
            return dict.fromkeys(squares, self._factor(norm, self.norm))
        layers: dict[str, Tensor] = {}
        for name, s in squares.items():
            layer = name.rpartition(".")[0]
            layers[layer] = layers.get(layer, 0) + s.double()
        share = self.norm / len(layers) ** 0.5
        factors = {layer: self._factor(s.sqrt(), share) for layer, s in layers.items()}
        return {name: factors[name.rpartition(".")[0]] for name in squares}

    def _factor(self, norm: Tensor, most: float) -> Tensor:
        most *= 1 - NORM_MARGIN
        return most / (norm + self.stability) if self.kind == "automatic" else most / norm.clamp(min=most)


class UnitGradients:
    """A model made ready for per-unit gradients of its trained parameters; ModelRefused where a layer cannot be.

    The model itself is untouched outside of `clipped_sum`.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]):
        keep_freed()
        self.model, self.names = model, list(names)
        own = {name: model.get_parameter(name) for name in names}
        times = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
        canonical = {id(p): name for name, p in own.items()}
        self._shared = {name for name, p in own.items() if times[id(p)] > 1}
        self._bare: list[str] = []
        self._layers: list[tuple[nn.Module, str, dict[str, str]]] = []  # module, kind, its parameters' names -> the model's
        self._assign(model, "", canonical)
        covered = {full for _, _, names_ in self._layers for full in names_.values()} | set(self._bare)
        missing = [name for name in self.names if name not in covered]
        if missing:
            raise ModelRefused(f"parameter {missing[0]} belongs to no layer that per-unit gradients can be taken of")
        self.sizes = {name: own[name].numel() for name in names}
        self.total = sum(self.sizes.values())
        self._calls: Counter[int] = Counter()
        self._pieces: dict[str, Piece] = {}
        self._weighers: list[tuple[Piece, dict[str, str]]] = []
        self._recording = False
        self._anchor = torch.zeros((), requires_grad=True)

    def _assign(self, module: nn.Module, prefix: str, canonical: dict[int, str]) -> None:
        """Decide, from the outside in, which kernel answers for which parameters."""
        own = {n: canonical[id(p)] for n, p in module.named_parameters(recurse=False) if id(p) in canonical}
        inside = {n: canonical[id(p)] for n, p in module.named_parameters() if id(p) in canonical}
        if isinstance(module, _BATCH_NORM) and _reads_the_batch(module):
            raise ModelRefused(
                f"{prefix} is a BatchNorm in training mode: it normalises each image by the others; set model.norm to group, or "
                "model.norm_statistics to frozen"
            )
        if isinstance(module, nn.MultiheadAttention):
            self._attention(module, prefix, own, canonical)
            return
        children = list(module.children())
        if any(isinstance(child, nn.ParameterList | nn.ParameterDict) for child in children) and inside:  # lists are never called
            self._layers.append((module, "block", inside))
            return
        if own and children:
            bare = [n for n, p in module.named_parameters(recurse=False) if n in own and p.shape[:1] == (1,) and p.dim() > 1]
            if len(bare) < len(own):  # parameters beside layers that are not one per image: the whole block is done again
                self._layers.append((module, "block", inside))
                return
            self._bare += [own[n] for n in bare]
        elif own:
            self._layers.append((module, "layer", own))
        for name, child in module.named_children():
            self._assign(child, f"{prefix}.{name}" if prefix else name, canonical)

    def _attention(self, module: nn.MultiheadAttention, prefix: str, own: dict[str, str], canonical: dict[int, str]) -> None:
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise ModelRefused(f"{prefix} is an attention with separate or added keys; write it with one Linear for q, k and v")
        if own:
            self._layers.append((module, "attention", own))
        self._assign(module.out_proj, f"{prefix}.out_proj", canonical)

    # ------------------------------------------------------------------------------------------------ one pass

    def clipped_sum(
        self, inputs: Tensor, targets: Tensor, loss: Loss, rows: Tensor, units: int, clipping: Clipping, into: Tensor
    ) -> Tensor:
        """Add Σ_u clip(g_u) to `into` [total], and give the norms of the g_u [units] before clipping.

        g_u: gradient of Σ rows_r · loss_r over the rows of unit u.  rows: weight of each row's loss, 0 = not there.
        A unit whose gradient is not finite adds nothing.
        """
        norms, bad = self._pass(inputs, targets, loss, rows, units, clipping, into)
        if bad is not None:  # nothing was added: once more, with those units blanked
            each = inputs.shape[0] // units
            gone = bad.repeat_interleave(each)
            inputs = torch.where(gone.view(-1, *[1] * (inputs.dim() - 1)), torch.zeros_like(inputs), inputs)
            norms, still = self._pass(inputs, targets, loss, rows.masked_fill(gone, 0.0), units, clipping, into)
            if still is not None:
                raise ModelRefused("the gradients are not finite even for blank images: the model's weights are spoilt")
            norms = norms.masked_fill(bad, torch.inf)
        return norms

    def _pass(
        self, inputs: Tensor, targets: Tensor, loss: Loss, rows: Tensor, units: int, clipping: Clipping, into: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        # a GPU's convolutions would else round to 10 bits (TF32), and not the same in norms and sums
        with self._watched(units), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            expanded = {
                n: self.model.get_parameter(n).detach().expand(inputs.shape[0], *self.model.get_parameter(n).shape[1:]) for n in self._bare
            }
            expanded = {n: p.clone().requires_grad_() for n, p in expanded.items()}
            outputs = torch.func.functional_call(self.model, expanded, (inputs,)) if expanded else self.model(inputs)
            losses = loss(outputs, targets)
            if losses.shape != rows.shape:
                raise ModelRefused(f"the loss gives {tuple(losses.shape)} numbers for {len(rows)} images; privacy needs one an image")
            torch.where(rows > 0, losses * rows, torch.zeros_like(losses)).sum().backward()
            self._recording = False
            with torch.no_grad():
                for name, p in expanded.items():
                    if p.grad is not None:
                        self._add(Kept.of({name: by_unit(p.grad, units).sum(1).unsqueeze(1)}), {name: name})
                return self._summed(units, clipping, into)

    def _summed(self, units: int, clipping: Clipping, into: Tensor) -> tuple[Tensor, Tensor | None]:
        pieces = [*self._weighers, *((p, {n: n for n in p.squares}) for p in self._pieces.values())]
        squares = {names[n]: s for piece, names in pieces for n, s in piece.squares.items()}
        norms = torch.stack([s.double() for s in squares.values()]).sum(0).sqrt()
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            return norms, ~finite
        factors = clipping.weights(squares)
        places = self._places(into)
        for piece, names in pieces:
            for group in _same_factor(piece, names, factors):
                for n, summed in piece.weighted(factors[names[group[0]]]).items():
                    if n in group:
                        places[names[n]].add_(summed)
        return norms, None

    def _places(self, flat: Tensor) -> dict[str, Tensor]:
        """Each parameter's part of a flat vector, in its own shape."""
        parts = flat.split(list(self.sizes.values()))
        return {n: part.view(self.model.get_parameter(n).shape) for n, part in zip(self.names, parts, strict=True)}

    def give(self, flat: Tensor) -> None:
        """Make the flat vector the parameters' gradients."""
        for name, part in self._places(flat).items():
            self.model.get_parameter(name).grad = part

    # --------------------------------------------------------------------------------------------- book-keeping

    @contextmanager
    def _watched(self, units: int) -> Iterator[None]:
        """Parameters ask for no gradient, and every trained layer reports."""
        asked = [p for p in self.model.parameters() if p.requires_grad]
        handles = []
        self._calls.clear()
        self._pieces, self._weighers, self._recording = {}, [], True
        for p in asked:
            p.requires_grad_(False)
        patched: list[nn.Module] = []
        try:
            for module, kind, names in self._layers:
                if kind == "attention":
                    module.forward = types.MethodType(partial(_attend, self, units, names), module)  # type: ignore[method-assign]
                    patched.append(module)
                else:
                    handles.append(module.register_forward_hook(partial(self._seen, units, kind, names)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in patched:
                del module.forward
            for p in asked:
                p.requires_grad_(True)
            self._pieces, self._weighers, self._recording = {}, [], False

    def _seen(self, units: int, kind: str, names: dict[str, str], module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if not self._recording:
            return None
        if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(out, Tensor):
            raise ModelRefused(f"layer {type(module).__name__} with {next(iter(names.values()))} takes or gives more than one tensor")
        made = any_layer if kind == "block" else kernel_of(module)
        return self.watch(out, args[0], id(module), lambda a, g, whole: made(module, a, g, units, set(names), whole), names)

    def watch(self, out: Tensor, a: Tensor, key: int, made: Callable[[Tensor, Tensor, bool], Piece], names: dict[str, str]) -> Tensor:
        """`out` as something whose gradient is handed to `made`, with the input `a`."""
        self._calls[key] += 1
        a, version = a.detach(), a._version
        if not out.requires_grad:
            out = _Root.apply(out.clone() if out._is_view() else out, self._anchor.to(out.device))  # type: ignore[no-untyped-call]

        def arrived(g: Tensor) -> None:
            if a._version != version:
                raise ModelRefused(f"the input of the layer with {next(iter(names.values()))} was changed in place after it was used")
            recording, self._recording = self._recording, False
            with torch.no_grad():
                whole = self._calls[key] > 1 or bool(self._shared.intersection(names.values()))
                self._add(made(a, g, whole), names)
            self._recording = recording

        out.register_hook(arrived)
        return out

    def _add(self, piece: Piece, names: dict[str, str]) -> None:
        """Keep a piece; those of one parameter add up before any norm is taken."""
        known = {n for kept in self._pieces.values() for n in kept.squares} | {names_[n] for p, names_ in self._weighers for n in p.squares}
        again = any(full in known for full in names.values())
        counted_once = not again and not any(full in self._shared for full in names.values()) and not isinstance(piece, Kept)
        if counted_once:
            self._weighers.append((piece, names))
            return
        if not isinstance(piece, Kept):
            raise ModelRefused(f"{next(iter(names.values()))} is used more than once, and its gradients were not kept")
        for n in piece.gradients:
            full = names[n]
            mine = piece.alone(n, full)
            before = self._pieces.get(full)
            self._pieces[full] = before.plus(mine) if isinstance(before, Kept) else mine


def _same_factor(piece: Piece, names: dict[str, str], factors: dict[str, Tensor]) -> list[list[str]]:
    """The piece's parameters, those with the same weights together: one product does for all of them."""
    groups: dict[int, list[str]] = {}
    for n in piece.squares:
        groups.setdefault(id(factors[names[n]]), []).append(n)
    return list(groups.values())


def _reads_the_batch(module: nn.Module) -> bool:
    """Whether a BatchNorm goes into training mode together with its model, or has no statistics of its own."""
    return module.train.__name__ != "<lambda>" or module.running_mean is None


def _attend(
    watcher: UnitGradients, units: int, names: dict[str, str], module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *,
    key_padding_mask: Tensor | None = None, need_weights: bool = False, attn_mask: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, None]:  # fmt: skip
    """Self-attention as torch computes it, written so that q, k and v come from one product that can be watched."""
    if query is not key or key is not value or key_padding_mask is not None or attn_mask is not None or is_causal:
        raise ModelRefused(f"the attention with {next(iter(names.values()))} is not plain self-attention, which is all that privacy knows")
    x = query if module.batch_first else query.transpose(0, 1)
    b, t, d = x.shape
    qkv = functional.linear(x, module.in_proj_weight, module.in_proj_bias)
    qkv = watcher.watch(
        qkv, x, id(module), lambda a, g, whole: product(a, g, units, set(names), whole, "in_proj_weight", "in_proj_bias"), names
    )
    q, k, v = qkv.view(b, t, 3, module.num_heads, d // module.num_heads).permute(2, 0, 3, 1, 4)
    seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=module.dropout if module.training else 0.0)
    out = module.out_proj(seen.transpose(1, 2).reshape(b, t, d))
    return (out if module.batch_first else out.transpose(0, 1)), None
