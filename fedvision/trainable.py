"""What of `training` works with what: each complaint names both keys, their values, and the way out."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedvision.holdings import ImageFolder
from fedvision.learning import METRICS, Training
from fedvision.models import COUPLED, DENSE, OURS
from fedvision.protections import DpSgd

if TYPE_CHECKING:
    from fedvision.experiment import Experiment

PLAIN = Training()
_COUPLES = "it mixes examples, and the gradient of each must depend on it alone"
_COUNTS = "it reads how much a site holds of each class, which is private; give public training.class_weights"
_STEPS = "a private step is made of per-example gradients, in a loop of its own"
UNDER_DP_SGD = {  # why an option is refused
    "mixup": _COUPLES,
    "cutmix": _COUPLES,
    "balance": _COUNTS,
    "transforms": f"{_STEPS}; set privacy.views, privacy.shift and privacy.flip",
    "ema": f"{_STEPS}; set privacy.ema, the average over rounds",
    "accumulate": f"{_STEPS}; set privacy.physical_batch",
    "precision": "clip norms are proved for fp32",
    "channels_last": f"{_STEPS}",
    "compile": "per-example gradients are taken by hooks, which a compiled model does not call",
    "schedule_per": f"{_STEPS}, at one rate a round",
}


def training_complaints(e: "Experiment") -> Iterator[str]:
    """The complaints about `training`, `task` and `model`."""
    t = e.training
    if t.warmup > e.federation.rounds:
        yield f"training.warmup = {t.warmup:g} is not over before federation.rounds = {e.federation.rounds} are; shorten it, or run longer"
    if t.precision == "fp16" and e.engine.device == "cpu":
        yield "training.precision = fp16 and engine.device = cpu exclude each other: its gradients are scaled for a GPU; set precision to bf16 or fp32"
    if t.balance == "loss" and t.class_weights is not None:
        yield f"training.balance = loss and training.class_weights = {t.class_weights} exclude each other: both weigh the classes; set one"
    if t.focal and t.label_smoothing and e.task == "classification":
        yield f"training.focal = {t.focal:g} and training.label_smoothing = {t.label_smoothing:g} exclude each other: set one to 0"
    yield from _task_complaints(e)
    yield from _rule_complaints(e.strategy.name, t)
    if isinstance(e.privacy, DpSgd) and e.task == "segmentation" and (e.privacy.shift or e.privacy.flip):
        yield (
            f"privacy.shift = {e.privacy.shift} or privacy.flip = {e.privacy.flip} and task = segmentation exclude each other: a view would move and its "
            "mask would not; set shift to 0 and flip to false"
        )
    if isinstance(e.privacy, DpSgd):
        yield from (
            f"training.{key} = {getattr(t, key)} and privacy.mechanism = dp_sgd exclude each other: {why}"
            for key, why in UNDER_DP_SGD.items()
            if getattr(t, key) != getattr(PLAIN, key)
        )


def _task_complaints(e: "Experiment") -> Iterator[str]:
    t = e.training
    if e.task == "regression":
        for key in ("label_smoothing", "focal", "class_weights", "balance", "cutmix"):
            if getattr(t, key) != getattr(PLAIN, key):
                yield f"training.{key} = {getattr(t, key)} and task = regression exclude each other: there are no classes; leave {key} out"
    yield from _detector_complaints(e)
    yield from _coupled_complaints(e)
    dense = e.model.name in DENSE
    if e.task in METRICS and dense != (e.task == "segmentation") and e.model.name in OURS:
        fits = ", ".join(name for name in OURS if (name in DENSE) == (e.task == "segmentation"))
        yield f"model.name = {e.model.name} and task = {e.task} exclude each other: it says a class {'for each pixel' if dense else 'an image'}; use {fits}"
    if e.task == "segmentation" and e.model.name.startswith("timm/"):
        yield (
            f"model.name = {e.model.name} and task = segmentation exclude each other: it says a class an image; put a head over it with "
            f"model.name = deeplabv3 (or {', '.join(DENSE[1:])}) and model.options = {{backbone: {e.model.name}}}"
        )
    if e.task == "segmentation" and t.cutmix:
        yield f"training.cutmix = {t.cutmix:g} and task = segmentation exclude each other: the masks would have to be pasted too; set cutmix to 0"
    if e.task == "multilabel" and t.balance == "sampling":
        yield "training.balance = sampling and task = multilabel exclude each other: an image has many labels; set balance to loss"
    if isinstance(e.data, ImageFolder) and e.data.targets and e.task == "classification":
        yield f"data.targets = {e.data.targets} and task = classification exclude each other; set task to multilabel or regression, or targets to []"


SAYS = {"": "no boxes", "detection": "boxes", "instances": "boxes and masks"}  # what a model says that task is for


def _detector_complaints(e: "Experiment") -> Iterator[str]:
    """Which of detection's tasks and models go together, and what a detector has no use for."""
    its = "instances" if e.model.name == "detection/mask_rcnn" else "detection" if e.model.name.startswith("detection/") else ""
    wanted = e.task if e.task in SAYS else ""
    if e.task in METRICS and its != wanted:
        use = {"detection": "use detection/NAME, e.g. detection/fcos", "instances": "use detection/mask_rcnn"}
        way = use.get(wanted, f"set task to {its}, or use another model")
        yield f"model.name = {e.model.name} and task = {e.task} exclude each other: it says {SAYS[its]}; {way}"
    if wanted:
        for key in ("label_smoothing", "focal", "class_weights", "balance", "cutmix"):
            if getattr(e.training, key) != getattr(PLAIN, key):
                said = f"training.{key} = {getattr(e.training, key)} and task = {e.task} exclude each other"
                yield f"{said}: a detector has a loss of its own; leave {key} out"


def _coupled_complaints(e: "Experiment") -> Iterator[str]:
    """What a model without a loss an example cannot be combined with."""
    if e.model.name not in COUPLED:
        return
    said = f"model.name = {e.model.name}"
    if isinstance(e.privacy, DpSgd):
        boxes = "detection/fcos" if e.task == "detection" else "task = detection with detection/fcos"
        yield (
            f"{said} and privacy.mechanism = dp_sgd exclude each other: {COUPLED[e.model.name]}; no image has a gradient of its own: "
            f"use {boxes}, or privacy.mechanism = central"
        )
    if e.engine.name == "vmap":
        yield f"{said} and engine.name = vmap exclude each other: {COUPLED[e.model.name]}, which is not done for many sites at once; use inline or ray"
    for key in ("mixup", "accumulate", "compile", "precision"):
        if getattr(e.training, key) != getattr(PLAIN, key):
            yield f"{said} and training.{key} = {getattr(e.training, key)} exclude each other: {COUPLED[e.model.name]}; leave {key} out"
    if e.strategy.name in {"qfedavg", "afl"}:
        yield f"{said} and strategy.name = {e.strategy.name} exclude each other: it goes by the mean loss of a site's examples; use fedavg"
    if e.evaluation.best == "loss" or e.evaluation.soft_nms is not None:
        yield f"{said}: it has no loss to be measured, and suppresses what it says twice itself: leave evaluation.best out, and set soft_nms to null"


_ENDS = "what it would send is not where its steps ended"
_ONE_RATE = "its steps would not share one rate"
_LEFT_OUT = "a step whose gradients overflow is left out; use bf16"
RULES: dict[str, dict[str, str]] = {  # strategies whose sites' half knows what a step is, and what it then cannot be
    "scaffold": {"ema": _ENDS, "layer_decay": _ONE_RATE, "rate_factors": _ONE_RATE, "precision": _LEFT_OUT},
    "fednova": {"ema": _ENDS, "schedule_per": _ONE_RATE, "precision": _LEFT_OUT},
    "feddyn": {"ema": _ENDS},
    "qfedavg": {"schedule_per": "its 1/L is the rate of the whole round"},
}


def _rule_complaints(name: str, t: Training) -> Iterator[str]:
    for key, why in RULES.get(name, {}).items():
        value = getattr(t, key)
        if value != getattr(PLAIN, key) and value != "bf16":
            yield f"strategy.name = {name} and training.{key} = {value} exclude each other: {why}; leave {key} out"
