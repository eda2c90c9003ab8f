"""What works with what in one experiment: each complaint names both keys, their values, and the way out."""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedvision.algorithms import AT_HOME, UNIFORM, Afl, FedBuff, Krum, MultiKrum, sees_single
from fedvision.brought import is_brought
from fedvision.holdings import OWN_IMAGES
from fedvision.learning import METRICS
from fedvision.models import OURS
from fedvision.protections import UNDER_PRIVACY, Central, DpSgd
from fedvision.trainable import training_complaints

if TYPE_CHECKING:
    from fedvision.experiment import Experiment


def complaints(e: "Experiment") -> Iterator[str]:
    """What works with what: each sentence names both keys, their values, and the way out."""
    yield from _privacy_complaints(e)
    yield from training_complaints(e)
    f, sites = e.federation, e.partition.sites
    if f.sampling == "fixed" and f.cohort is None:
        yield "federation.sampling = fixed needs federation.cohort, the number of sites asked a round"
    if f.sampling != "fixed" and f.cohort is not None:
        yield f"federation.cohort = {f.cohort} and federation.sampling = {f.sampling} exclude each other; set sampling to fixed, or cohort to null"
    if f.sampling == "poisson" and f.rate is None:
        yield "federation.sampling = poisson needs federation.rate, the chance of each site to be asked"
    if f.sampling != "poisson" and f.rate is not None:
        yield f"federation.rate = {f.rate} and federation.sampling = {f.sampling} exclude each other; set sampling to poisson, or rate to null"
    if sites is not None and f.cohort is not None and f.cohort > sites:
        yield f"federation.cohort = {f.cohort} is more than partition.sites = {sites}"
    most = f.cohort or sites
    if most is not None and f.min_replies > most:
        yield f"federation.min_replies = {f.min_replies} can never be reached: at most {most} sites are asked a round"
    yield from _strategy_complaints(e)
    if (
        e.model.name not in OURS
        and not e.model.name.startswith(("torchvision/", "timm/", "detection/"))
        and not is_brought(e.model.name, "models")
    ):
        near = difflib.get_close_matches(e.model.name, [*OURS, f"torchvision/{e.model.name}", f"timm/{e.model.name}"], 1, 0.4)
        yield f"model.name = {e.model.name!r}: allowed are {', '.join(OURS)}, detection/NAME, torchvision/NAME, timm/NAME, FILE.py:NAME and PACKAGE.MODULE:NAME; did you mean {(near or ['cnn'])[0]}?"
    if e.model.options and e.model.name in {"cnn", "mlp"}:
        yield (
            f"model.options = {e.model.options} and model.name = {e.model.name} exclude each other: options are for torchvision/NAME, timm/NAME and "
            "models of your own (FILE.py:NAME)"
        )
    if e.evaluation.soft_nms is not None and e.task != "detection":
        yield f"evaluation.soft_nms = {e.evaluation.soft_nms:g} and task = {e.task} exclude each other: set task to detection, or soft_nms to null"
    if e.task != "segmentation" and e.segmentation is not None:
        yield f"segmentation and task = {e.task} exclude each other: set task to segmentation, or segmentation to null"
    if e.task in METRICS and e.evaluation.best not in METRICS[e.task]:
        near = difflib.get_close_matches(e.evaluation.best, METRICS[e.task], 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        yield f"evaluation.best = {e.evaluation.best!r}: allowed are {', '.join(METRICS[e.task])}{meant}"
    if e.evaluation.sites == "none" and e.evaluation.server is None:
        yield "evaluation.sites = none and evaluation.server = null leave nothing to measure; set one of them"
    if e.evaluation.patience is not None and (e.evaluation.server is None or not e.evaluation.server.validation):
        yield (
            f"evaluation.patience = {e.evaluation.patience} stops by the server's validation data, and there is none: set "
            "evaluation.server.validation, or patience to null"
        )
    yield from _engine_complaints(e)
    yield from _acceptance_complaints(e)
    yield from _fault_complaints(e)
    if e.engine.name == "vmap":
        yield from _vmap_complaints(e)
    if e.secure_aggregation.enabled:
        yield from _masking_complaints(e)


def _engine_complaints(e: "Experiment") -> Iterator[str]:
    """What an engine has no use for, or cannot do."""
    if e.engine.address is not None and e.engine.name != "ray":
        yield f"engine.address = {e.engine.address!r} and engine.name = {e.engine.name} exclude each other; an address is for ray"
    if e.engine.site_seconds is not None and e.engine.name != "ray":
        yield (
            f"engine.site_seconds = {e.engine.site_seconds:g} and engine.name = {e.engine.name} exclude each other: it cannot be left in the middle of "
            "a site; use ray, or set site_seconds to null and wait"
        )
    if e.engine.name in {"inline", "vmap"} and e.engine.workers != 1:
        yield f"engine.workers = {e.engine.workers} and engine.name = {e.engine.name} exclude each other: it has one worker; use ray or flower"
    if e.engine.gpus_per_worker and e.engine.name in {"inline", "vmap"}:
        yield (
            f"engine.gpus_per_worker = {e.engine.gpus_per_worker:g} and engine.name = {e.engine.name} exclude each other: its one worker has the "
            "whole GPU; use ray or flower to share it, or set gpus_per_worker to 0"
        )
    if e.engine.gpus_per_worker and e.engine.device == "cpu":
        yield (
            f"engine.gpus_per_worker = {e.engine.gpus_per_worker:g} and engine.device = cpu exclude each other: a share of a GPU would lie idle; set "
            "device to auto or cuda, or gpus_per_worker to 0"
        )


def _acceptance_complaints(e: "Experiment") -> Iterator[str]:
    """What a round cannot be judged by, and where it cannot be asked again."""
    a, looks = e.acceptance, e.acceptance.loss_factor is not None or e.acceptance.max_mean_norm is not None
    if a.loss_factor is not None and (e.evaluation.server is None or not e.evaluation.server.validation):
        yield (
            f"acceptance.loss_factor = {a.loss_factor:g} needs data that the coordinator holds out: set evaluation.server.validation, or loss_factor to null"
        )
    if looks and e.strategy.name == "fedbuff":
        yield "acceptance and strategy.name = fedbuff exclude each other: what is rejected would be in updates that are under way; set both limits to null"
    if a.max_mean_norm is not None and sees_single(e.strategy):
        yield f"acceptance.max_mean_norm and strategy.name = {e.strategy.name} exclude each other: it makes no mean; set max_mean_norm to null"
    if a.max_mean_norm is not None and isinstance(e.privacy, Central):
        yield (
            "acceptance.max_mean_norm and privacy.mechanism = central exclude each other: it looks at the sum before its noise; use loss_factor, which "
            "looks at the model after it"
        )
    if looks and a.on_rejected == "retry" and e.secure_aggregation.enabled:
        yield (
            "acceptance.on_rejected = retry and secure_aggregation.enabled = true exclude each other: a second sum of a round is given for the same "
            "sites only, and would be the same; use skip or stop"
        )
    if looks and a.on_rejected == "retry" and isinstance(e.privacy, Central):
        yield (
            "acceptance.on_rejected = retry and privacy.mechanism = central exclude each other: the plan pays for one noisy sum a round; use skip or stop"
        )


def _fault_complaints(e: "Experiment") -> Iterator[str]:
    """Which simulated faults an engine cannot show."""
    for site, kind in e.conditions.misbehaving.items():
        if kind in {"hang", "hang_once", "die", "die_once"}:
            if e.engine.name != "ray":
                yield (
                    f"conditions.misbehaving = {{{site}: {kind}}} and engine.name = {e.engine.name} exclude each other: it is done to the process that "
                    "works for the site, and here that cannot be replaced; use ray"
                )
            elif kind.startswith("hang") and e.engine.site_seconds is None:
                yield f"conditions.misbehaving = {{{site}: {kind}}} needs engine.site_seconds, after which the worker is ended"


def _strategy_complaints(e: "Experiment") -> Iterator[str]:
    """What an algorithm cannot be run with."""
    s, t, f = e.strategy, e.training, e.federation
    this = f"strategy.name = {s.name}"
    if s.name == "scaffold" and (t.optimizer != "sgd" or t.momentum):
        yield (
            f"{this} and training.optimizer = {t.optimizer} with momentum {t.momentum:g} exclude each other: "
            "its control variate is a mean gradient only under plain sgd (optimizer = sgd, momentum = 0)"
        )
    if s.name == "scaffold" and t.gradient_clip is not None:
        yield f"{this} and training.gradient_clip exclude each other: the clipped step is not the gradient; set gradient_clip to null"
    if s.name == "fednova" and t.optimizer != "sgd":
        yield f"{this} and training.optimizer = {t.optimizer} exclude each other: it must know how a step is made of gradients; set optimizer to sgd"
    if s.name in UNIFORM and f.weighting != "uniform":
        yield f"{this} and federation.weighting = {f.weighting} exclude each other: it counts each site once; set weighting to uniform"
    if s.name == "afl" and f.sampling != "all":
        yield f"{this} and federation.sampling = {f.sampling} exclude each other: it weighs all sites by their losses in every round; set sampling to all"
    if isinstance(s, Krum | MultiKrum) and f.min_replies < 2 * s.byzantine + 3:
        yield (
            f"strategy.byzantine = {s.byzantine} and federation.min_replies = {f.min_replies} exclude each other: {s.name} tolerates f such sites "
            f"among 2f + 3 replies or more; set min_replies to {2 * s.byzantine + 3}"
        )
    if isinstance(s, FedBuff):
        yield from _asynchronous_complaints(e, s)
    if s.name in AT_HOME and e.evaluation.server is not None:
        kept = "BatchNorm layers" if s.name == "fedbn" else "heads"
        yield (
            f"{this} and evaluation.server exclude each other: the {kept} stay at the sites, so the coordinator has no whole model to test; "
            "set evaluation.server to null"
        )
    if s.name == "fedbn" and e.model.norm in {"none", "group"}:
        yield f"{this} and model.norm = {e.model.norm} exclude each other: there would be no BatchNorm to keep; set model.norm to batch"
    if s.name == "fedbn" and e.model.norm is None and e.model.name in {"cnn", "mlp"}:
        yield f"{this} needs BatchNorm, and model.name = {e.model.name} has none as built; set model.norm to batch"


def _asynchronous_complaints(e: "Experiment", s: FedBuff) -> Iterator[str]:
    """What asynchronous rounds do not go with."""
    f, this, sites = e.federation, "strategy.name = fedbuff", e.partition.sites
    if f.sampling != "all":
        yield f"{this} and federation.sampling = {f.sampling} exclude each other: whoever is free may be asked at any time; set sampling to all"
    if f.on_missing != "retry":
        yield f"{this} and federation.on_missing = {f.on_missing} exclude each other: another site follows one that is missing; set it to retry"
    if e.conditions.deadline is not None:
        yield f"{this} and conditions.deadline = {e.conditions.deadline:g} exclude each other: nobody is waited for; set deadline to null"
    if f.min_replies > s.buffer:
        yield f"federation.min_replies = {f.min_replies} can never be reached: strategy.buffer = {s.buffer} updates make a round"
    if sites is not None and s.concurrency + s.buffer - 1 > sites:
        yield too_busy(s, sites)


def too_busy(s: FedBuff, sites: int) -> str:
    """Why so many sites cannot be kept busy."""
    return (
        f"strategy.concurrency = {s.concurrency} and strategy.buffer = {s.buffer} keep up to {s.concurrency + s.buffer - 1} sites busy in a round, "
        f"and there are {sites}: take fewer"
    )


BATCHED = {  # of training, what the vmap engine does for many sites at once
    "learning_rate", "momentum", "weight_decay", "batch_size", "epochs", "steps", "schedule", "warmup", "schedule_step", "schedule_factor", "gradient_clip",
}  # fmt: skip


def _vmap_complaints(e: "Experiment") -> Iterator[str]:
    """What is not done for many sites at once."""
    vmap = "engine.name = vmap"
    if e.privacy is not None:
        yield f"privacy.mechanism = {e.privacy.mechanism} and {vmap} exclude each other: a site draws its noise alone; use inline or ray"
    if e.secure_aggregation.enabled:
        yield f"secure_aggregation.enabled = true and {vmap} exclude each other: a site masks its update alone; use inline or ray"
    if e.encoding.rounding != "nearest":
        yield f"encoding.rounding = {e.encoding.rounding} and {vmap} exclude each other: set rounding to nearest, or use inline or ray"
    if e.segmentation is not None and e.segmentation.losses.get("boundary"):
        yield (
            f"segmentation.losses.boundary = {e.segmentation.losses['boundary']} and {vmap} exclude each other: the distances from each "
            "border are found mask by mask, outside torch; leave the loss out, or use inline or ray"
        )
    for key, own in type(e.training).model_fields.items():
        value = getattr(e.training, key)
        if key not in BATCHED and value != own.get_default(call_default_factory=True):
            yield f"training.{key} = {value} and {vmap} exclude each other: it is not done for many sites at once; use inline or ray"


IN_THE_CLEAR = {"nan", "inf", "wrong_shape", "wrong_names", "wrong_dtype"}  # misbehaviours that a masked vector cannot show


def _masking_complaints(e: "Experiment") -> Iterator[str]:
    """What secure aggregation does not go with, or does not leave room for."""
    s, f, masked = e.secure_aggregation, e.federation, "secure_aggregation.enabled = true"
    if sees_single(e.strategy):
        yield f"strategy.name = {e.strategy.name} and {masked} exclude each other: it must see each site's update, and the coordinator sees their sum"
    if e.strategy.name == "fedbuff":
        yield f"strategy.name = fedbuff and {masked} exclude each other: a masked sum is over sites that were asked together; use fedavg"
    if isinstance(e.strategy, Afl) and not e.strategy.losses_known:
        yield (
            f"strategy.name = afl and {masked}: the sum holds each site's training loss in a slot of its own, which the coordinator then knows; "
            "set strategy.losses_known to true if the sites agree to that, or use qfedavg, which sums them"
        )
    if e.evaluation.sites != "none":
        yield (
            f"evaluation.sites = {e.evaluation.sites} and {masked} exclude each other: a site's figures would go in the clear; set it to none, and "
            "evaluation.server to public data"
        )
    for site, kind in e.conditions.misbehaving.items():
        if kind in IN_THE_CLEAR:
            yield (
                f"conditions.misbehaving = {{{site}: {kind}}} and {masked} exclude each other: what is masked are whole numbers of the run's layout; use "
                "huge, huge_weight, negative_weight, opposite or raise"
            )
    if f.sampling == "poisson":  # how many are drawn is chance: what matters is seen when they are
        fewest = max(s.min_cohort, s.threshold or 0)
        if f.min_replies < fewest:
            yield f"federation.min_replies = {f.min_replies} and {masked} exclude each other: no sum is over fewer than {fewest} sites; set it to {fewest}"
        return
    sites = min(n for n in (f.cohort, e.partition.sites, 2**31) if n is not None)
    if sites == 2**31:
        return
    least = max(2 * sites // 3 + 1, s.threshold or 0, s.min_cohort)
    if least > sites - s.planned_dropouts:
        yield (
            f"secure_aggregation: {sites} sites a round and planned_dropouts = {s.planned_dropouts} leave {sites - s.planned_dropouts}, and {least} must "
            "remain (floor(2n/3) + 1, threshold, min_cohort): ask more sites, or plan fewer dropouts"
        )
    if f.min_replies < least:
        yield f"federation.min_replies = {f.min_replies} and {masked} exclude each other: no sum is over fewer than {least} of {sites} sites; set it to {least}"


def _privacy_complaints(e: "Experiment") -> Iterator[str]:
    """What cannot be combined with a promise, because it would not be covered by it."""
    p, t, f = e.privacy, e.training, e.federation
    if p is None and e.conditions.budgets:
        yield "conditions.budgets and privacy = null exclude each other: nothing is spent; set budgets to {}, or give a privacy block"
    if isinstance(p, Central) and p.amplified:
        yield from _amplified_complaints(e)
    elif f.min_replies == 0:
        yield "federation.min_replies = 0 is for privacy.amplified = true, where also a round of no sites releases noise; set it to 1 or more"
    if not isinstance(p, DpSgd) and t.batch_size is None:
        yield "training.batch_size = null is for privacy.mechanism = dp_sgd, which samples; give a number"
    if p is None:
        return
    allowed, why = UNDER_PRIVACY[e.strategy.name][p.mechanism]
    if not allowed:
        fine = ", ".join(name for name, kinds in UNDER_PRIVACY.items() if kinds[p.mechanism][0])
        yield f"strategy.name = {e.strategy.name} and privacy.mechanism = {p.mechanism} exclude each other: {why}; use one of {fine}"
    if isinstance(p, DpSgd) and (t.batch_size is not None or t.epochs is not None):
        size, batch, epochs = f.max_examples, t.batch_size or 32, t.epochs or 1
        yield (
            f"training.batch_size = {t.batch_size} and training.epochs = {t.epochs} depend on how much a site holds, which is private: under "
            "privacy.mechanism = dp_sgd set both to null, and give public numbers. With federation.max_examples "
            f"= {size} as the public size of a site they would be privacy.sampling_rate = {min(1.0, batch / size):.4g}, "
            f"training.steps = {max(1, -(-epochs * size // batch))}, privacy.divisor = {min(batch, size)}"
        )
    if f.weighting != "uniform":
        yield f"federation.weighting = {f.weighting} tells how much a site holds, which privacy keeps to itself; set weighting to uniform"
    if e.evaluation.sites != "none":
        yield (
            f"evaluation.sites = {e.evaluation.sites} sends figures of private images in the clear, and privacy is on: set it to none, and "
            "evaluation.server to public data"
        )
    if t.gradient_clip is not None and isinstance(p, DpSgd):
        yield f"training.gradient_clip = {t.gradient_clip:g} and privacy exclude each other: privacy.clip bounds each unit; set gradient_clip to null"
    if e.model.norm_statistics == "averaged" and e.model.norm == "batch":
        yield (
            "model.norm = batch with model.norm_statistics = averaged reads private images without clip or noise: set model.norm to group, or "
            "norm_statistics to frozen"
        )
    if isinstance(p, Central) and p.clip > e.encoding.range_weights:
        yield (
            f"privacy.clip = {p.clip:g} is over encoding.range_weights = {e.encoding.range_weights:g}: a site whose update does not fit would decline, "
            "and so tell of it; lower clip or raise range_weights"
        )
    if isinstance(p, Central) and p.audit is not None and p.audit.kind == "images":
        yield "privacy.audit.kind = images and privacy.mechanism = central exclude each other: a canary would be a whole site; set kind to gradients"
    if isinstance(p, DpSgd) and p.audit is not None and p.audit.kind == "images" and e.task != "classification":
        yield f"privacy.audit.kind = images and task = {e.task} exclude each other: its canaries have labels of classes; set kind to gradients"
    if p.simulation_only_seed is not None and e.data.dataset in OWN_IMAGES:
        yield (
            f"privacy.simulation_only_seed = {p.simulation_only_seed} and data.dataset = {e.data.dataset} exclude each other: noise that can be "
            "repeated protects nobody's images; set simulation_only_seed to null"
        )


def _amplified_complaints(e: "Experiment") -> Iterator[str]:
    """What a secret draw of sites cannot be combined with."""
    f, amplified = e.federation, "privacy.amplified = true"
    if e.secure_aggregation.enabled:
        yield (
            f"{amplified} and secure_aggregation.enabled = true exclude each other: the draw must stay secret, and the sites sign a list of who is in "
            "the sum; set amplified to false and pay the full price of each round, or enabled to false"
        )
    if f.sampling != "poisson":
        yield (
            f"{amplified} and federation.sampling = {f.sampling} exclude each other: the price is that of a draw of each site by itself; set sampling to "
            "poisson and federation.rate to the chance"
        )
    if f.min_replies != 0:
        yield (
            f"{amplified} and federation.min_replies = {f.min_replies} exclude each other: a minimum, and a further try, would tell of the draw; set "
            "min_replies to 0: a round of no sites releases noise"
        )
