"""Run folders as a run would leave them, made in milliseconds: curves that rise, sites that differ, faults."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.seeds import stream
from fedvision.tracking.folder import RunFolder, write_atomically

CAMERA = ("white_balance", "gamma", "noise", "blur", "jpeg")


def experiment_of(sites: int = 20, rounds: int = 30, **changes: Any) -> Experiment:
    """A plausible experiment; `changes` are top-level blocks that replace ours."""
    cohort = max(1, min(sites, 100) * 3 // 5)
    values: dict[str, Any] = {
        "name": "mnist-dirichlet",
        "data": {"dataset": "mnist5k"},
        "partition": {"scheme": "dirichlet", "sites": sites, "alpha": 0.5},
        "federation": {"rounds": rounds, "sampling": "fixed", "cohort": cohort},
        "evaluation": {"server": {"validation": 0.1, "test": 0.2}},
    }
    return validate(Experiment, values | changes, "test")


def partition_of(sites: list[str], classes: list[str], camera: bool = False) -> dict[str, Any]:
    """Counts per class of a Dirichlet split, as `Partition.summary()` tells them."""
    random = stream(0, "partition")
    counts = {}
    for site in sites:
        train = random.multinomial(int(random.lognormal(5, 0.6)) + 5, random.dirichlet([0.5] * len(classes)))
        counts[site] = {
            "train": train.tolist(),
            "validation": (train // 10).tolist(),
            "test": (train // 5).tolist(),
            "camera": {name: round(float(random.uniform(0, 0.5)), 3) for name in CAMERA} if camera else None,
        }
    each = [100] * len(classes)
    return {
        "sites": counts,
        "server": {"validation": each, "test": each},
        "classes": classes,
        "notes": ["split by image inside a site"],
    }


def _metrics(quality: float) -> dict[str, float]:
    quality = float(np.clip(quality, 0.02, 0.995))
    return {"accuracy": quality, "balanced_accuracy": quality * 0.97, "loss": -float(np.log(quality)) * 1.4}


def _evaluation(number: int, rounds: int, sites: list[str]) -> dict[str, Any]:
    random = stream(1, "evaluation", number)
    level = 0.97 - 0.85 * float(np.exp(-5.0 * (number + 1) / rounds)) + float(random.normal(0, 0.006))
    per_site = {site: _metrics(level - 0.12 * abs(float(stream(1, site).normal())) + float(random.normal(0, 0.01))) for site in sites}
    columns = {name: [metrics[name] for metrics in per_site.values()] for name in ("accuracy", "balanced_accuracy", "loss")}
    worst = min(per_site, key=lambda site: per_site[site]["accuracy"])
    return {
        "server": {"validation": _metrics(level - 0.004), "test": _metrics(level)},
        "sites": {
            "pooled": _metrics(level - 0.02),
            "mean": {name: float(np.mean(values)) for name, values in columns.items()},
            "worst": {
                **{n: float(max(v) if n == "loss" else min(v)) for n, v in columns.items()},
                "accuracy_site": worst,
            },
            "spread": {name: float(np.std(values)) for name, values in columns.items()},
            "per_site": per_site,
        },
    }


def record_of(number: int, rounds: int, sites: list[str], cohort: int, evaluated: bool = True) -> dict[str, Any]:
    """A line of rounds.jsonl, with absent sites, a refused one from round 5 on, and a skipped round 11."""
    random = stream(2, "round", number)
    asked = sorted(random.choice(sites, cohort, replace=False).tolist())
    missing = {site: ["absent", "dropout", "late"][int(random.integers(3))] for site in asked if random.random() < 0.06}
    left = [site for site in asked if site not in missing]
    refused = {site: "not_finite: conv1.weight holds 3 NaN" for site in left if site == sites[3] and number >= 5}
    declined = {
        site: "out_of_range: an update of 21.4 is beyond encoding.range_weights = 16"
        for site in left
        if site == sites[7 % len(sites)] and number % 9 == 4
    }
    answered = [site for site in left if site not in refused and site not in declined]
    train, send = 0.9 + 0.2 * random.random(), 0.05 + 0.02 * random.random()
    return {
        "round": number,
        "attempt": 1,
        "status": "skipped" if number == 11 else "counted",
        "asked": asked,
        "answered": answered,
        "declined": declined,
        "refused": refused,
        "missing": missing,
        "train": {
            "loss": 2.3 * float(np.exp(-4.0 * number / rounds)) + 0.08 + float(random.normal(0, 0.01)),
            "examples": 120 * len(answered),
        },
        "update_norm": float(3.0 / (1 + number / 4) + 0.1 * random.random()),
        "evaluation": _evaluation(number, rounds, sites) if evaluated else None,
        "seconds": {"send": send, "train": train, "sum": 0.04, "evaluate": 0.25, "total": send + train + 0.29},
        "simulated_seconds": 30 + float(random.normal(0, 4)),
    }


def make_run(
    path: Path,
    *,
    sites: int = 20,
    rounds: int = 30,
    done: int | None = None,
    kind: str = "simulate",
    evaluated: bool = True,
    status: str = "completed",
    names: Callable[[int], str] = lambda number: f"site-{number:03d}",
    classes: list[str] | None = None,
    camera: bool = False,
    **changes: Any,
) -> RunFolder:
    """A run folder at `path` that did `done` of `rounds` rounds over `sites` sites."""
    experiment = experiment_of(sites, rounds, **changes)
    ids = [names(number) for number in range(sites)]
    classes = classes or [str(digit) for digit in range(10)]
    folder = RunFolder.create(experiment, kind, path)
    folder.write_environment(
        {
            "python": "3.11.9",
            "versions": {
                "torch": "2.12.1",
                "torchvision": "0.27.1",
                "numpy": "2.4.6",
                "flwr": "1.41.0",
                "ray": "2.55.1",
                "fedvision": "0.1.0",
            },
            "cpu": "AMD EPYC 7B13",
            "cpu_capability": "AVX2",
            "machine": "x86_64",
            "cores": 2,
            "memory_bytes": 8 * 2**30,
            "device": "cpu",
            "threads": 1,
            "seed": experiment.seed,
        }
    )
    write_atomically(path / "partition.json", json.dumps(partition_of(ids, classes, camera)).encode())
    done = rounds if done is None else done
    if kind == "local":
        done = 0
    cohort = experiment.federation.cohort or sites
    records = [record_of(number, rounds, ids, cohort, evaluated) for number in range(done)]
    for record in records:
        if kind == "centralised":
            record |= {
                "asked": ["pooled"],
                "answered": ["pooled"],
                "declined": {},
                "refused": {},
                "missing": {},
                "status": "counted",
            }
            record["evaluation"] = record["evaluation"] | {"sites": None} if record["evaluation"] else None
        folder.append_round(record)
    last = _evaluation(max(done, rounds // 3) - 1, rounds, ids)
    sites_end = last["sites"]["per_site"] if evaluated and kind != "centralised" else {}
    weights = f"{kind} {path.name}".encode()
    (path / "model.safetensors").write_bytes(weights)
    folder.write_summary(
        folder.summary()
        | {
            "status": status,
            "error": "RoundFailed: round 13: 2 sites trained, and federation.min_replies is 5" if status == "failed" else None,
            "rounds": done,
            "metrics": {} if not evaluated else last["sites"]["mean"] if kind == "local" else last["server"]["test"],
            "sites": sites_end,
            "confusion": _confusion(len(classes)) if evaluated else None,
            "confusion_of": "server test",
            "classes": classes,
            "model_sha256": hashlib.sha256(weights).hexdigest() if status == "completed" else None,
            "model_parameters": 1_199_882,
            "seconds": 1.3 * done or 21.0,
            "finished": "2026-03-04T10:11:12+00:00",
            "notes": ["2 corrupt images were skipped: see run.log"],
            "counts": {
                "declined": {"out_of_range": 3},
                "refused": {"not_finite": 12},
                "missing": {"absent": 9, "late": 7},
            },
        }
    )
    return folder


def _confusion(classes: int) -> list[list[int]]:
    random = stream(3, "confusion")
    wrong = random.poisson(1.0, (classes, classes))
    return (wrong + np.diag(random.integers(70, 98, classes))).tolist()
