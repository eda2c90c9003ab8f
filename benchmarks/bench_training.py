"""What each option of `training` costs beside the plain loop, and what it brings on a small, skewed problem.

Cost: a site's steps of one round with the option and without it, in turn, in one process and thread; the median of the
ratios of their CPU seconds, on three workloads.  Gain: the server's test accuracy after a short federated run with the
option, less that of the plain run of the same seed; mean and standard error over the seeds.  Prints one JSON object.

    python benchmarks/bench_training.py [--seeds 3] [--only cost|gain|long|table]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clients.learn import learn
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.experiment import Experiment
from fedvision.schema import validate
from simulations.run import simulate

SHIFTS = [{"name": "RandomAffine", "degrees": 10, "translate": [0.08, 0.08], "scale": [0.9, 1.1]}]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "warmup": {"warmup": 2.0},
    "cosine": {"schedule": "cosine"},
    "cosine_per_step": {"schedule": "cosine", "schedule_per": "step"},
    "layer_decay": {"layer_decay": 0.7},
    "ema": {"ema": 0.99},
    "label_smoothing": {"label_smoothing": 0.1},
    "focal": {"focal": 2.0},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "transforms": {"transforms": SHIFTS},
    "balance_loss": {"balance": "loss"},
    "balance_sampling": {"balance": "sampling"},
    "gradient_clip": {"gradient_clip": 1.0},
    "bf16": {"precision": "bf16"},
    "accumulate_4": {"accumulate": 4},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
}
ONLY_COST = {"bf16", "accumulate_4", "channels_last", "compile"}  # the same steps, by other means
WORKLOADS: dict[str, dict[str, Any]] = {
    "mlp, digits, batch 10": {
        "data": {"dataset": "digits"}, "model": {"name": "mlp", "width": 32}, "partition": {"scheme": "iid", "sites": 10}, "batch": 10,
    },
    "cnn of 0.1 M, 28 x 28, batch 32": {
        "data": {"dataset": "mnist5k"}, "model": {"name": "cnn", "width": 16, "hidden": 64}, "partition": {"scheme": "iid", "sites": 20}, "batch": 32,
    },
    "resnet10t, 64 x 64, batch 16": {
        "data": {"dataset": "mnist5k", "image_size": 64}, "model": {"name": "timm/resnet10t"}, "partition": {"scheme": "iid", "sites": 50}, "batch": 16,
    },
}  # fmt: skip
COMPILED = "resnet10t, 64 x 64, batch 16"  # the only one that is worth a minute of compiling
CLOSE = 1e-3  # of a compiled model's weights to the plain ones', after a round
STEPS, TURNS = 3, 6
SHORT, LONG = 15, 60  # rounds
LONG_OPTIONS = ("plain", "cosine_per_step", "ema", "label_smoothing", "mixup", "cutmix", "transforms", "balance_sampling", "gradient_clip")
LEARNED = {  # 400 images over ten sites that see few classes each
    "data": {"dataset": "mnist5k", "test": 0.0, "image_size": 14}, "partition": {"scheme": "dirichlet", "sites": 10, "alpha": 0.3, "min_examples": 5},
    "federation": {"rounds": SHORT, "sampling": "fixed", "cohort": 5}, "model": {"name": "cnn", "width": 8, "hidden": 32},
    "evaluation": {"every": LONG, "sites": "none", "server": {"test": 0.92}}, "tracking": {"mlflow": None, "report": False},
}  # fmt: skip


def site_of(workload: dict[str, Any], training: dict[str, Any]) -> tuple[Workbench, Any, dict[str, torch.Tensor]]:
    """A workbench for the workload, its first site's training data, and the weights to begin with."""
    blocks = {key: value for key, value in workload.items() if key != "batch"}
    plain = {"epochs": None, "steps": STEPS, "batch_size": workload["batch"], "learning_rate": 0.01}
    experiment = validate(Experiment, {**blocks, "federation": {"rounds": 5}, "training": {**plain, **training}}, "bench")
    data = open_federated(experiment)
    bench = Workbench.set_up(experiment, data.shape, data.classes, len(data.sites), Path(tempfile.mkdtemp()))
    return bench, data.site(data.sites[0]).train, {n: t.clone() for n, t in bench.model.state_dict().items()}


def once(bench: Workbench, examples: Any, start: dict[str, torch.Tensor], number: int) -> float:
    """CPU seconds of one round's steps."""
    bench.load(start, {})
    torch.manual_seed(number)
    began = time.thread_time()
    learn(bench, examples, ("bench", number), 1, None)
    return time.thread_time() - began


def cost(workload: dict[str, Any], training: dict[str, Any]) -> dict[str, float]:
    """Plain and with the option, in turn."""
    plain, other = site_of(workload, {}), site_of(workload, training)
    pairs = [(once(*plain, number), once(*other, number)) for number in range(TURNS)][2:]
    return {"ms_a_step": float(np.median([b for _, b in pairs]) / STEPS * 1e3), "ratio": float(np.median([b / a for a, b in pairs]))}


def compiled_apart() -> float:
    """The largest difference between a round's weights with and without training.compile."""
    ends = []
    for training in ({}, {"compile": True}):
        bench, examples, start = site_of(WORKLOADS[COMPILED], training)
        once(bench, examples, start, 0)
        ends.append({n: t.clone() for n, t in bench.model.state_dict().items()})
    return max(float((ends[0][n] - t).abs().max()) for n, t in ends[1].items())


def accuracy(training: dict[str, Any], seed: int, rounds: int, folder: Path) -> float:
    """The server's test accuracy after a run of so many rounds."""
    plain = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05}
    experiment = validate(
        Experiment,
        {**LEARNED, "federation": LEARNED["federation"] | {"rounds": rounds}, "seed": seed, "training": {**plain, **training}},
        "bench",
    )
    _, summary = simulate(experiment, folder, None, quiet=True)
    return float(summary["metrics"]["accuracy"])


def costs() -> dict[str, Any]:
    """Of every option, on every workload."""
    found: dict[str, dict[str, Any]] = {}
    for name, training in OPTIONS.items():
        which = [COMPILED] if name == "compile" else list(WORKLOADS)
        found[name] = {workload: cost(WORKLOADS[workload], training) for workload in which}
    return {"capability": torch.backends.cpu.get_cpu_capability(), "cost": found, "compiled_weights_apart": compiled_apart()}


def gains(seeds: int, names: Iterable[str], rounds: int) -> dict[str, dict[str, float]]:
    """Of each named option: accuracy, and the difference to plain with its standard error."""
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as out:
        for name in names:
            runs = [accuracy(OPTIONS[name], seed, rounds, Path(out) / f"{name}-{seed}") for seed in range(seeds)]
            found[name] = np.array(runs)
    apart = {name: values - found["plain"] for name, values in found.items()}
    return {
        name: {"accuracy": float(values.mean()), "gain": float(apart[name].mean()), "error": float(apart[name].std(ddof=1) / seeds**0.5)}
        for name, values in found.items()
    }


def table(kept: dict[str, Any]) -> str:
    """The kept figures as docs/training.md shows them."""
    heads = [f"× {name}" for name in WORKLOADS]
    lines = [f"| | {' | '.join(heads)} | {SHORT} rounds | {LONG} rounds |", "|---" * (len(heads) + 3) + "|"]
    for name in OPTIONS:
        cost = kept["cost"][name]
        ratios = [f"{cost[w]['ratio']:.2f}" if w in cost else "" for w in WORKLOADS]
        said = [f"{100 * g['gain']:+.1f} ± {100 * g['error']:.1f}" if (g := kept[part].get(name)) else "" for part in ("gain", "gain_long")]
        if name == "plain":
            ratios = [f"{cost[w]['ms_a_step']:.2f} ms" for w in WORKLOADS]
            said = [f"{100 * kept[part][name]['accuracy']:.1f}" for part in ("gain", "gain_long")]
        lines.append("| " + " | ".join([f"`{name}`", *ratios, *said]) + " |")
    return "\n".join(lines)


def main() -> int:
    """All options; 1 where a compiled model does not do what it should."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["cost", "gain", "long", "table"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = Path(__file__).parent / "results" / "bench_training.json"
    kept = json.loads(path.read_text()) if path.exists() else {"bench": "training"}
    if asked.only == "table":
        print(table(kept))
        return 0
    alike = [name for name in OPTIONS if name not in ONLY_COST]
    if asked.only in {None, "gain"}:
        kept |= {"seeds": asked.seeds, "gain": gains(asked.seeds, alike, SHORT)}
    if asked.only in {None, "long"}:
        kept["gain_long"] = gains(asked.seeds, LONG_OPTIONS, LONG)
    if asked.only in {None, "cost"}:
        kept |= costs()
    path.write_text(json.dumps(kept) + "\n")
    print(json.dumps(kept))
    return 0 if kept.get("compiled_weights_apart", 0.0) < CLOSE else 1


if __name__ == "__main__":
    raise SystemExit(main())
