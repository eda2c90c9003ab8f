"""What works with what in one experiment: each complaint names both keys, their values, and the way out."""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedvision.algorithms import SEES_SINGLE_UPDATES
from fedvision.holdings import ImageFolder
from fedvision.learning import METRICS
from fedvision.protections import UNDER_PRIVACY, Central, DpSgd

if TYPE_CHECKING:
    from fedvision.experiment import Experiment


def complaints(e: "Experiment") -> Iterator[str]:
    """What works with what: each sentence names both keys, their values, and the way out."""
    yield from _privacy_complaints(e)
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
    if e.strategy.name == "scaffold" and (e.training.optimizer != "sgd" or e.training.momentum):
        yield (
            f"strategy.name = scaffold and training.optimizer = {e.training.optimizer} with momentum {e.training.momentum:g} exclude each other: "
            "its control variate is a mean gradient only under plain sgd (optimizer = sgd, momentum = 0)"
        )
    if e.strategy.name == "scaffold" and e.training.gradient_clip is not None:
        yield "strategy.name = scaffold and training.gradient_clip exclude each other: the clipped step is not the gradient; set gradient_clip to null"
    if e.strategy.name == "median" and f.weighting != "uniform":
        yield f"strategy.name = median and federation.weighting = {f.weighting} exclude each other: a median counts each site once; set weighting to uniform"
    if e.strategy.name == "fedbn" and e.evaluation.server is not None:
        yield (
            "strategy.name = fedbn and evaluation.server exclude each other: the BatchNorm layers stay at the sites, so the coordinator has no "
            "whole model to test; set evaluation.server to null"
        )
    if e.strategy.name == "fedbn" and e.model.norm in {"none", "group"}:
        yield f"strategy.name = fedbn and model.norm = {e.model.norm} exclude each other: there would be no BatchNorm to keep; set model.norm to batch"
    if e.strategy.name == "fedbn" and e.model.norm is None and e.model.name in {"cnn", "mlp"}:
        yield f"strategy.name = fedbn needs BatchNorm, and model.name = {e.model.name} has none as built; set model.norm to batch"
    if e.model.name not in {"cnn", "mlp"} and not e.model.name.startswith(("torchvision/", "timm/")):
        near = difflib.get_close_matches(e.model.name, ["cnn", "mlp", f"torchvision/{e.model.name}", f"timm/{e.model.name}"], 1, 0.4)
        yield f"model.name = {e.model.name!r}: allowed are cnn, mlp, torchvision/NAME and timm/NAME; did you mean {(near or ['cnn'])[0]}?"
    if e.evaluation.best not in METRICS[e.task]:
        near = difflib.get_close_matches(e.evaluation.best, METRICS[e.task], 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        yield f"evaluation.best = {e.evaluation.best!r}: allowed are {', '.join(METRICS[e.task])}{meant}"
    if e.evaluation.sites == "none" and e.evaluation.server is None:
        yield "evaluation.sites = none and evaluation.server = null leave nothing to measure; set one of them"
    if e.engine.address is not None and e.engine.name != "ray":
        yield f"engine.address = {e.engine.address!r} and engine.name = {e.engine.name} exclude each other; an address is for ray"
    if e.engine.name == "inline" and e.engine.workers != 1:
        yield f"engine.workers = {e.engine.workers} and engine.name = inline exclude each other: a loop has one worker; use ray or flower"
    if e.secure_aggregation.enabled:
        yield from _masking_complaints(e)


def _masking_complaints(e: "Experiment") -> Iterator[str]:
    """What secure aggregation does not go with, or does not leave room for."""
    s, f, masked = e.secure_aggregation, e.federation, "secure_aggregation.enabled = true"
    if e.strategy.name in SEES_SINGLE_UPDATES:
        yield f"strategy.name = {e.strategy.name} and {masked} exclude each other: it must see each site's update, and the coordinator sees their sum"
    if f.sampling == "poisson":
        yield f"federation.sampling = poisson and {masked} exclude each other: the draw is secret, and the sites sign who takes part; use all or fixed"
    if f.on_missing == "wait":
        yield f"federation.on_missing = wait and {masked} exclude each other: an attempt has one list of survivors; use retry, skip or stop"
    if e.evaluation.sites != "none":
        yield (
            f"evaluation.sites = {e.evaluation.sites} and {masked} exclude each other: a site's figures would go in the clear; set it to none, and "
            "evaluation.server to public data"
        )
    if e.conditions.misbehaving or e.conditions.deadline is not None:
        yield f"conditions.misbehaving or deadline and {masked} exclude each other: a masked reply tells neither numbers nor work; leave them out"
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
    if p.simulation_only_seed is not None and isinstance(e.data, ImageFolder):
        yield (
            f"privacy.simulation_only_seed = {p.simulation_only_seed} and data.dataset = image_folder exclude each other: noise that can be "
            "repeated protects nobody's images; set simulation_only_seed to null"
        )
