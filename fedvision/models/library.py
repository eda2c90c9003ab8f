"""Networks of torchvision and timm by name, for any number of input channels, with BatchNorm as built or GroupNorm."""

import difflib
from collections.abc import Callable

from torch import nn

from fedvision.errors import ConfigError
from fedvision.models.small import groups


def torchvision_model(name: str, channels: int, outputs: int) -> nn.Module:
    """torchvision's classifier of that name, its first convolution rebuilt for `channels`.  No weights are fetched."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"model.name = 'torchvision/{name}': torchvision has no such classifier{_close(name, known)}")
    model = models.get_model(name, weights=None, num_classes=outputs)
    return model if channels == 3 else _first_convolution(model, channels)


def timm_model(name: str, channels: int, outputs: int, size: int) -> nn.Module:
    """timm's model of that name.  No weights are fetched."""
    import timm

    if name not in timm.list_models():
        raise ConfigError(f"model.name = 'timm/{name}': timm has no such model{_close(name, timm.list_models())}")
    try:
        return timm.create_model(name, pretrained=False, in_chans=channels, num_classes=outputs, img_size=size)
    except TypeError:  # a convolutional network takes any size and no img_size
        return timm.create_model(name, pretrained=False, in_chans=channels, num_classes=outputs)


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


def _first_convolution(model: nn.Module, channels: int) -> nn.Module:
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
    if norm == "group":
        return replace(model, nn.BatchNorm2d, lambda layer: nn.GroupNorm(groups(layer.num_features), layer.num_features))  # type: ignore[arg-type]
    if norm == "none":
        return replace(model, nn.BatchNorm2d, lambda layer: nn.Identity())
    if norm == "batch" and not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        raise ConfigError(f"model.norm = 'batch': {type(model).__name__} is built without BatchNorm; set model.norm to null")
    return model
