"""Networks by name, each said to be safe under per-example gradients or not."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvision.algorithms import FedRep
from fedvision.brought import is_brought, make
from fedvision.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from fedvision.experiment import Experiment

MODELS = {
    "cnn": "two convolutions, two linear layers (McMahan et al. 2017); norm: none, batch or group",
    "mlp": "one hidden layer",
    "unet": "segmentation of images or volumes; width: of the first level; norm: group where null; options: levels",
    "fcn": "segmentation; width: of the head; options: backbone (torchvision/NAME or timm/NAME), stride (8, 16, 32); so the three below",
    "deeplabv3": "segmentation; atrous spatial pyramid pooling",
    "pspnet": "segmentation; pyramid pooling",
    "lraspp": "segmentation; light, of a finer and the last map",
    "detection/NAME": "fcos, retinanet, ssdlite, onestage, detr, deformable_detr or faster_rcnn, for boxes, mask_rcnn for instances; width, norm (null = group); options: backbone, channels, convs, ...",
    "torchvision/NAME": "any classifier of torchvision, e.g. torchvision/resnet18",
    "timm/NAME": "any model of timm, e.g. timm/mobilenetv3_small_050",
    "FILE.py:NAME": "your own: NAME(shape, outputs, **model.options) -> nn.Module; or PACKAGE.MODULE:NAME",
}
DENSE = ("unet", "fcn", "deeplabv3", "pspnet", "lraspp")  # a class for each pixel
OURS = ("cnn", "mlp", *DENSE)
VOLUMES = ("unet",)  # in space too
_SAMPLES = "it samples proposals from all images of a batch, and divides its losses by the batch's"
COUPLED = {"detection/faster_rcnn": _SAMPLES, "detection/mask_rcnn": _SAMPLES}  # models without a loss an example, and why
LIBRARIES = ("torchvision", "timm")


def build(experiment: "Experiment", shape: tuple[int, ...], outputs: int) -> "nn.Module":
    """The experiment's network for images of `shape` [C,H,W], its weights drawn by name or read from model.weights."""
    import torch
    from torch import nn

    from fedvision.models import library, small
    from fedvision.models.dense import dense, torchvision_dense
    from fedvision.models.weights import read_weights
    from fedvision.seeds import named

    spec = experiment.model
    check_shape(spec.name, experiment.task, shape)
    kind, _, name = spec.name.partition("/")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(named(experiment.seed, "model"))
        if spec.name == "cnn":
            model: nn.Module = small.Cnn(shape, outputs, spec.width, spec.hidden, spec.dropout, spec.norm)
        elif spec.name == "mlp":
            model = small.Mlp(shape, outputs, spec.width, spec.dropout)
        elif spec.name in DENSE:
            model = dense(spec.name, shape, outputs, spec.width, spec.dropout, spec.norm, spec.options)
        elif kind == "torchvision" and experiment.task == "segmentation":
            model = library.with_norm(torchvision_dense(name, shape[0], outputs, spec.options), spec.norm)
        elif kind == "detection":
            from fedvision.models.detectors import detector  # imports torchvision, which other models need not wait for

            model = detector(name, (shape[0], shape[1], shape[2]), outputs, spec)
        elif kind in LIBRARIES and name:
            make_one = library.torchvision_model if kind == "torchvision" else library.timm_model
            model = library.with_norm(make_one(name, shape[0], outputs, shape[1], spec.options), spec.norm)
        elif is_brought(spec.name, "models"):
            model = library.with_norm(brought_model(spec.name, shape, outputs, spec.options), spec.norm)
        else:
            raise ConfigError(f"model.name = {spec.name!r}: allowed are {', '.join(MODELS)}")
    if spec.norm_statistics == "frozen":
        freeze_statistics(model)
    if spec.weights is not None:
        read_weights(model, Path(spec.weights), spec.weights_sha256, spec.weights_except)
    return model


def check_shape(name: str, task: str, shape: tuple[int, ...]) -> None:
    """ConfigError where the network takes no images, or no volumes, of such a shape."""
    if len(shape) == 4 and name not in VOLUMES and not is_brought(name, "models"):
        raise ConfigError(f"model.name = {name!r} takes images, and the data are volumes of {list(shape)}: use {', '.join(VOLUMES)}")


def brought_model(name: str, shape: tuple[int, ...], outputs: int, options: dict[str, Any]) -> "nn.Module":
    """The network that NAME(shape, outputs, **options) returns, where model.name is FILE.py:NAME or the like."""
    from torch import nn

    model = make(name, "model.name", "models", shape, outputs, **options)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name = {name!r} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


def freeze_statistics(model: "nn.Module") -> None:
    """Keep every BatchNorm in evaluation mode, also while the model trains: its statistics are constants."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign,misc,assignment]


@dataclass(frozen=True)
class Parts:
    """Which tensors of a model's state do what in a federation.

    weights: trained, their updates are averaged.  buffers: running statistics, averaged on purpose, as updates with a range
    of their own.  home: stay at the site (FedBN's layers, FedRep's head).  fixed: never change (counters, frozen statistics).
    """

    weights: tuple[str, ...]
    buffers: tuple[str, ...]
    home: tuple[str, ...]
    fixed: tuple[str, ...]


def parts(model: "nn.Module", experiment: "Experiment") -> Parts:
    """The parts of `model` under `experiment`; ConfigError where nothing could stay at the sites, or nothing travel."""
    from torch.nn.modules.batchnorm import _BatchNorm

    state = model.state_dict()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    norms = {n for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
    at_home: set[str] = set()
    if isinstance(experiment.strategy, FedRep):
        at_home = _head(model, experiment.strategy.head_layers)
    elif experiment.strategy.name == "fedbn":
        at_home = {name for name in state if name.rpartition(".")[0] in norms}
        if not at_home:
            raise ConfigError(f"strategy.name = fedbn: {experiment.model.name} has no BatchNorm to keep at the sites")
    running = {n for n in state if n not in trained and state[n].is_floating_point() and n not in at_home}
    averaged = running if experiment.model.norm_statistics == "averaged" else set()
    return Parts(
        weights=tuple(n for n in state if n in trained and n not in at_home),
        buffers=tuple(n for n in state if n in averaged),
        home=tuple(n for n in state if n in at_home),
        fixed=tuple(n for n in state if n not in trained and n not in averaged and n not in at_home),
    )


def _head(model: "nn.Module", layers: int) -> set[str]:
    """The tensors of the last `layers` layers that have any, in the order in which the model registers them."""
    owners = list(dict.fromkeys(name.rpartition(".")[0] for name in model.state_dict()))
    if layers >= len(owners):
        raise ConfigError(f"strategy.head_layers = {layers}: this model has {len(owners)} layers, and one at least must be shared")
    return {name for name in model.state_dict() if name.rpartition(".")[0] in owners[-layers:]}


def per_example_safe(model: "nn.Module") -> str | None:
    """None where the gradient of one example depends on that example alone; else what couples them."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.train.__name__ != "<lambda>":
            return f"{name} is a BatchNorm in training mode: it normalises each example by the others (model.norm = group, or frozen statistics)"
    return None
