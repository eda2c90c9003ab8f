"""Networks of torchvision and timm by name, for any number of input channels, with BatchNorm as built or GroupNorm."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fedvision.errors import ConfigError
from fedvision.models.small import groups

NOT_OPTIONS = {"weights", "weights_backbone", "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
_AUXILIARY = {"googlenet", "inception_v3"}  # give two more outputs in training, unless told not to


def torchvision_model(name: str, channels: int, outputs: int, size: int, options: Mapping[str, Any]) -> nn.Module:
    """torchvision's classifier of that name for images of `size` pixels a side, its first convolution rebuilt for `channels`.

    options: further keywords of its constructor.  No weights are fetched."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"model.name = 'torchvision/{name}': torchvision has no such classifier{_close(name, known)}")
    made: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name in _AUXILIARY else {}
    if name.startswith(("vit_", "maxvit_")):
        made["image_size" if name.startswith("vit_") else "input_size"] = size if name.startswith("vit_") else (size, size)
    make = models.get_model_builder(name)
    try:
        model = make(weights=None, num_classes=outputs, **(made | dict(options)))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise _cannot(f"torchvision/{name}", size, options, error) from None
    return model if channels == 3 else first_convolution(model, channels)


def timm_model(name: str, channels: int, outputs: int, size: int, options: Mapping[str, Any]) -> nn.Module:
    """timm's model of that name for images of `size` pixels a side.  options: further keywords of its constructor.

    No weights are fetched."""
    import timm

    if name not in timm.list_models():
        raise ConfigError(f"model.name = 'timm/{name}': timm has no such model{_close(name, timm.list_models())}")
    made = {"pretrained": False, "in_chans": channels, "num_classes": outputs, **options}
    try:
        try:
            return timm.create_model(name, **made, img_size=size)
        except TypeError as error:  # a convolutional network takes any size and no img_size
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, **made)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise _cannot(f"timm/{name}", size, options, error) from None


def _cannot(name: str, size: int, options: Mapping[str, Any], error: Exception) -> ConfigError:
    said = f" with model.options = {dict(options)}" if options else ""
    return ConfigError(f"model.name = {name!r} cannot be built{said} for images of {size} pixels: {str(error).splitlines()[0]}")


def _close(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 3, 0.4)
    return f"; did you mean {', '.join(near)}?" if near else "; `fedvision list models` shows what there is"


def replace(model: nn.Module, wanted: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """`model` with each layer of type `wanted` replaced by make(layer)."""
    if isinstance(model, wanted):
        return make(model)
    for name, child in model.named_children():
        setattr(model, name, replace(child, wanted, make))
    return model


def first_convolution(model: nn.Module, channels: int) -> nn.Module:
    """`model`, its first convolution made anew for `channels`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            new = nn.Conv2d(
                channels, module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation,  # type: ignore[arg-type]
                bias=module.bias is not None, padding_mode=module.padding_mode,
            )  # fmt: skip
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new)
            return model
    raise ConfigError(f"{type(model).__name__} has no convolution to rebuild for {channels} channels; set data.channels to 3")


def with_norm(model: nn.Module, norm: str | None) -> nn.Module:
    """`model` with its BatchNorm layers as built (None, "batch"), turned into GroupNorm, or taken out ("none")."""
    if norm in {"group", "none"}:
        return replace(model, nn.BatchNorm2d, lambda layer: _instead(layer, norm))
    if norm == "batch" and not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        raise ConfigError(f"model.norm = 'batch': {type(model).__name__} is built without BatchNorm; set model.norm to null")
    return model


def _instead(layer: nn.Module, norm: str) -> nn.Module:
    """What stands for a BatchNorm `layer`; timm's BatchNormAct2d also drops and activates, and what follows relies on it."""
    channels = int(layer.num_features)  # type: ignore[arg-type]
    made = nn.GroupNorm(groups(channels), channels) if norm == "group" else nn.Identity()
    more = [part for part in (getattr(layer, "drop", None), getattr(layer, "act", None)) if isinstance(part, nn.Module)]
    return nn.Sequential(made, *more) if more else made
