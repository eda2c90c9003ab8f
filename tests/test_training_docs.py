"""docs/training.md shows what the benchmark kept, and only keys that there are."""

import importlib.util
import json
import re
from pathlib import Path

from fedvision.experiment import Experiment
from fedvision.schema import leaves

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_table_of_costs_and_gains_is_that_of_the_kept_figures() -> None:
    spec = importlib.util.spec_from_file_location("bench_training", ROOT / "benchmarks" / "bench_training.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    kept = json.loads((ROOT / "benchmarks" / "results" / "bench_training.json").read_text())
    assert bench.table(kept) in PAGE and f"{kept['seeds']} seeds" in PAGE
    assert kept["compiled_weights_apart"] < bench.CLOSE


def test_every_key_of_training_is_told_and_every_key_that_is_told_is_there() -> None:
    keys = set(leaves(Experiment))
    told = set(re.findall(r"`((?:training|evaluation|model|data)\.[a-z_0-9]+)", PAGE))
    assert told <= keys, told - keys
    assert {key for key in keys if key.startswith("training.")} <= told
