"""Measuring a model on examples: sums over them, the same at a site and at the coordinator."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fedvision.data.site import Examples
from fedvision.errors import UpdateRefused
from fedvision.tracking.figures import lower_is_better

Sums = Mapping[str, np.ndarray]
LARGEST_SUM = 2**50  # of one site; 2^13 sites of it do not wrap 64 bits


def measure(model: nn.Module, task: Any, examples: Examples, batch_size: int, device: torch.device) -> dict[str, np.ndarray]:
    """The task's sums over all of `examples`; {} where there are none."""
    total: dict[str, np.ndarray] = {}
    training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(examples), batch_size):
            batch = examples.batch(np.arange(start, min(start + batch_size, len(examples))))
            total = add(total, task.sums(predicted(model, task, batch.inputs.to(device)), batch.targets.to(device)))
    model.train(training)
    return total


def predicted(model: nn.Module, task: Any, inputs: torch.Tensor) -> Any:
    """What a model says of `inputs`, as it is measured and shown: refined where its task refines."""
    outputs = model(inputs)
    return task.refine(outputs, inputs) if hasattr(task, "refine") else outputs


def add(a: Sums, b: Sums) -> dict[str, np.ndarray]:
    """The sums over two sets of examples together; {} stands for none."""
    return {name: a[name] + b[name] for name in a} if a and b else dict(a or b)


class OverSites:
    """What the sites' own sums say, taken in one at a time: only the pooled sums and each site's figures are kept."""

    def __init__(self, task: Any, main: str = "accuracy"):
        self.task, self.main = task, main
        self.pooled: dict[str, np.ndarray] = {}
        self.per_site: dict[str, dict[str, float]] = {}

    def add(self, site: str, sums: Sums) -> None:
        """One site's sums, or UpdateRefused; a site without examples of its own adds nothing."""
        if sums:
            self._check(sums)
            self.per_site[site] = self.task.metrics(sums)
            self.pooled = add(self.pooled, sums)

    def _check(self, sums: Sums) -> None:
        """Counts of the task's names and shapes, none below zero, none so large that a sum could wrap."""
        wanted = self.task.shapes
        if set(sums) != set(wanted):
            raise UpdateRefused("wrong_names", f"sums of {', '.join(sorted(sums))}, and the task has {', '.join(sorted(wanted))}")
        for name, numbers in sums.items():
            if not isinstance(numbers, np.ndarray) or numbers.dtype != np.int64 or numbers.shape != wanted[name]:
                said = f"{getattr(numbers, 'dtype', type(numbers).__name__)} {getattr(numbers, 'shape', '')}"
                raise UpdateRefused("wrong_shape", f"{name} is {said}, and the task has int64 {wanted[name]}")
            if numbers.min() < 0 or numbers.max() > LARGEST_SUM:
                raise UpdateRefused("out_of_range", f"{name} holds a count outside 0..{LARGEST_SUM}")

    def figures(self) -> dict[str, Any]:
        """`pooled` (all examples alike), and of the sites' metrics `mean`, `worst`, `spread` (standard deviation over
        sites) and `per_site`; the order in which sites came does not show."""
        per_site = dict(sorted(self.per_site.items()))
        pooled = self.task.metrics(self.pooled) if self.pooled else {}
        values = {n: [m[n] for m in per_site.values() if n in m] for n in pooled}
        worst: dict[str, Any] = {n: (max if lower_is_better(n) else min)(v) for n, v in values.items() if v}
        holders = {site: m[self.main] for site, m in per_site.items() if self.main in m}
        if holders:
            worst[f"{self.main}_site"] = (max if lower_is_better(self.main) else min)(holders, key=holders.__getitem__)
        return {
            "pooled": pooled,
            "mean": {n: float(np.mean(v)) for n, v in values.items() if v},
            "worst": worst,
            "spread": {n: float(np.std(v)) for n, v in values.items() if v},
            "per_site": per_site,
        }


def flat(evaluation: Mapping[str, Any] | None) -> dict[str, float]:
    """One name, one number: the headline figures are the server's test set's where it has one, else the sites' pooled;
    site_* are over the sites' own test data; shared_* are the shared model's there, where each site has one of its own too."""
    result: dict[str, float] = {}
    if evaluation is None:
        return result
    server, sites = evaluation.get("server") or {}, evaluation.get("sites") or {}
    headline = server.get("test") or server.get("validation") or sites.get("pooled") or {}
    result |= headline
    for kind in ("mean", "worst", "spread"):
        for name, value in (sites.get(kind) or {}).items():
            if isinstance(value, float):
                result[f"site_{kind}_{name}"] = value
    shared = evaluation.get("shared") or {}
    for prefix, kind in (("shared", "pooled"), ("shared_mean", "mean"), ("shared_worst", "worst")):
        result |= {f"{prefix}_{name}": value for name, value in (shared.get(kind) or {}).items() if isinstance(value, float)}
    return result


def criterion(evaluation: Mapping[str, Any] | None, name: str) -> float | None:
    """The figure that picks the best checkpoint: the server's validation set's, else its test set's, else the sites' mean."""
    if evaluation is None:
        return None
    server, sites = evaluation.get("server") or {}, evaluation.get("sites") or {}
    candidates: Iterable[Mapping[str, float] | None] = (server.get("validation"), server.get("test"), sites.get("mean"))
    return next((c[name] for c in candidates if c and name in c), None)
