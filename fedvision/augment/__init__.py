"""Changes of images by name: torchvision's v2 transforms, and filters of our own in their style.

`training.transforms` are drawn anew for each training image; `data.transforms`, filters alone, are part of reading an
image, in training and in evaluation alike.

A target that lies in the image (a mask, boxes) moves with it: it goes through the transforms beside its image, as the tv_tensor that
its task's `geometry` names, and is changed by those that move pixels and left alone by those that change their values.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedvision.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Pipeline = Callable[["Tensor"], "Tensor"]  # uint8 [B,C,H,W] -> uint8, or float on the scale 0..1, of the same shape
Changes = Callable[["Tensor", "Tensor"], "tuple[Tensor, Tensor]"]  # the same of images and their targets [B,...] together
UNKNOWN = 255  # what a mask holds where an image was moved away and nothing is known

FILTERS = {
    "CLAHE": "contrast limited adaptive histogram equalisation (Zuiderveld 1994); clip_limit, tiles",
    "GreyWorld": "each colour channel scaled to the same mean (Buchsbaum 1980)",
    "Gaussian": "Gaussian blur; sigma in pixels",
    "Median": "median of a square; size in pixels, odd",
    "UnsharpMask": "the image plus what a Gaussian blur takes away; sigma in pixels, amount",
    "Sobel": "magnitude of the gradient",
    "TopHat": "what is narrower than a square: brighter than around it, or darker (bright = false); size in pixels, odd",
    "Gamma": "each value to a power, on the scale 0..1; gamma",
}


def pipeline(specs: Sequence[Mapping[str, Any]], shape: tuple[int, ...], key: str) -> Pipeline | None:
    """Random changes, drawn anew for each image from torch's generator; None where there are none.

    specs: a mapping each, its name and the options of the transform.  shape: [C,H,W], which they must keep.
    ConfigError, which names the `key` of the config, for what is not known or does not work on such images.
    """
    if not specs:
        return None
    import torch
    from torchvision.transforms import v2

    change = v2.Compose([_made(spec, f"{key}[{number}]") for number, spec in enumerate(specs)])

    def each(images: "Tensor") -> "Tensor":
        return torch.stack([change(image) for image in images])

    with torch.random.fork_rng(devices=[]):
        _check(each, shape, key)
    return each


def changes(specs: Sequence[Mapping[str, Any]], shape: tuple[int, ...], key: str, geometry: str = "") -> Changes | None:
    """As `pipeline`, of images and targets.  geometry: what a target is in its image, of `_WRAPPED`; "" = it stays as it is."""
    if not geometry:
        of_images = pipeline(specs, shape, key)
        return None if of_images is None else lambda images, targets: (of_images(images), targets)
    if not specs:
        return None
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    if geometry == "boxes":
        return _changes_of_boxes(specs, shape, key)
    change = v2.Compose([_made(spec, f"{key}[{number}]", geometry) for number, spec in enumerate(specs)])
    wrapped = _WRAPPED[geometry]

    def together(images: "Tensor", targets: "Tensor") -> "tuple[Tensor, Tensor]":
        pairs = [change(tv_tensors.Image(image), wrapped(target)) for image, target in zip(images, targets, strict=True)]
        return torch.stack([image.as_subclass(torch.Tensor) for image, _ in pairs]), torch.stack(
            [target.as_subclass(torch.Tensor) for _, target in pairs]
        )

    possible = torch.zeros(2, *shape[1:], dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        _check(lambda images: together(images, possible)[0], shape, key)
        if together(torch.zeros(2, *shape, dtype=torch.uint8), possible)[1].shape != possible.shape:
            raise ConfigError(f"{key} makes masks of another size than their images; resize images and masks alike")
    return together


def _changes_of_boxes(specs: Sequence[Mapping[str, Any]], shape: tuple[int, ...], key: str) -> Changes:
    """As `changes`, where targets are boxes [B,M,5], or with masks [B,M,5 + P]; a mosaic, if there is one, comes first."""
    import torch
    from torchvision.transforms import v2

    from fedvision.augment.boxes import Mosaic, moved

    mosaic: Mosaic | None = None
    if specs[0]["name"] == "Mosaic":
        options = {option: value for option, value in specs[0].items() if option != "name"}
        try:
            mosaic, specs = Mosaic(**options), specs[1:]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{key}[0]: Mosaic cannot be made of {options}: {error}") from None
    change = v2.Compose([_made(spec, f"{key}[{number}]", "boxes") for number, spec in enumerate(specs)]) if specs else None

    def together(images: "Tensor", targets: "Tensor") -> "tuple[Tensor, Tensor]":
        if mosaic is not None:
            images, targets = mosaic(images, targets)
        return (images, targets) if change is None else moved(change, images, targets)

    with torch.random.fork_rng(devices=[]):
        _check(lambda images: together(images, torch.tensor([[[0.0, 1, 1, 8, 8]]]).expand(2, 1, 5))[0], shape, key)
    return together


def _mask(target: "Tensor") -> Any:
    from torchvision import tv_tensors

    return tv_tensors.Mask(target)


_WRAPPED: dict[str, Callable[["Tensor"], Any]] = {"masks": _mask}


def filters(specs: Sequence[Mapping[str, Any]], shape: tuple[int, ...], key: str) -> Pipeline | None:
    """Filters in their order, on whole batches; None where there are none.  They draw nothing, so that an image is the same
    bytes on every reading."""
    if not specs:
        return None
    from torchvision.transforms import v2

    for number, spec in enumerate(specs):
        if spec["name"] not in FILTERS:
            raise ConfigError(
                f"{key}[{number}].name = {spec['name']!r}: an image is read alike every time, so that it is one of the filters "
                f"{', '.join(FILTERS)}{_near(spec['name'], FILTERS)}; random changes go to training.transforms"
            )
    change = v2.Compose([_made(spec, f"{key}[{number}]") for number, spec in enumerate(specs)])
    _check(change, shape, key)
    return change


def _made(spec: Mapping[str, Any], key: str, geometry: str = "") -> Any:
    """The transform that `spec` names; transforms inside others (RandomApply, RandomChoice) are made too."""
    from torchvision.transforms import v2

    from fedvision.augment import classical

    name, options = spec["name"], {option: value for option, value in spec.items() if option != "name"}
    kind = getattr(classical, name, None) if name in FILTERS else getattr(v2, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
        known = [*FILTERS, *(n for n in dir(v2) if isinstance(getattr(v2, n), type) and issubclass(getattr(v2, n), v2.Transform))]
        raise ConfigError(f"{key}.name = {name!r}: torchvision.transforms.v2 has no such transform{_near(str(name), known)}")
    if isinstance(options.get("transforms"), list):
        options["transforms"] = [
            _made(inner, f"{key}.transforms[{number}]", geometry) for number, inner in enumerate(options["transforms"])
        ]
    if geometry and "fill" in inspect.signature(kind).parameters:
        options["fill"] = _fills(options.get("fill", 0), UNKNOWN if geometry == "masks" else 0)
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {name} cannot be made of {options}: {error}") from None


def _fills(given: Any, outside: int) -> dict[Any, Any]:
    """What comes in from outside: `given` in the image, and in the mask `outside`: what is not known, or, of an object's own, nothing."""
    from torchvision import tv_tensors

    return {tv_tensors.Image: given, tv_tensors.Mask: outside}


def _check(change: Pipeline, shape: tuple[int, ...], key: str) -> None:
    """Try `change` on two images; ConfigError where it fails or gives anything but images of their shape."""
    import torch

    images = torch.arange(2 * math.prod(shape)).remainder(256).to(torch.uint8).reshape(2, *shape)
    try:
        found = change(images)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(f"{key} does not work on images of {list(shape)}: {str(error).splitlines()[0]}") from None
    if found.shape != images.shape:
        raise ConfigError(f"{key} makes images of {list(found.shape[1:])} out of {list(shape)}, and the model takes those: resize last")
    if found.dtype != torch.uint8 and not found.is_floating_point():
        raise ConfigError(f"{key} makes images of {found.dtype}; it must be uint8, or a float on the scale 0..1")


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), 1, 0.4)
    return f"; did you mean {close[0]}?" if close else ""
