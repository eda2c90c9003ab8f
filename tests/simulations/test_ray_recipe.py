"""Every option of a training recipe ends at the same bytes on workers as in a loop: what it draws, it draws by name."""

from collections.abc import Callable
from typing import Any

import pytest
from ray_runs import workers

pytestmark = pytest.mark.ray
RECIPE = {
    "task": "multilabel",
    "data": {"dataset": "digits", "transforms": [{"name": "CLAHE", "tiles": 2}]},
    "model": {"name": "cnn", "width": 4, "hidden": 16, "norm": "batch", "dropout": 0.2},
    "training": {
        "schedule": "cosine", "schedule_per": "step", "warmup": 0.5, "layer_decay": 0.8, "label_smoothing": 0.1, "mixup": 0.4,
        "cutmix": 1.0, "transforms": [{"name": "RandomHorizontalFlip"}, {"name": "RandomRotation", "degrees": 10}], "ema": 0.9, "precision": "bf16",
        "accumulate": 2, "channels_last": True, "gradient_clip": 1.0,
    },
    "evaluation": {"server": {"validation": 0.1, "test": 0.1}, "patience": 3},
}  # fmt: skip


def test_a_recipe_of_everything_ends_at_the_same_bytes_on_two_workers(a_ray: Any, run: Callable[..., Any]) -> None:
    _, loop = run("loop", {"name": "inline"}, **RECIPE)
    _, two = run("two", workers(2), **RECIPE)
    assert two["model_sha256"] == loop["model_sha256"] and two["metrics"] == loop["metrics"]
