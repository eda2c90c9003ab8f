"""One Ray for all tests of a session, and runs on digits that are over in a second."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_runs import CPUS, digits

from fedvision.tracking.folder import RunFolder
from simulations.ray_bare import start
from simulations.run import simulate


@pytest.fixture(scope="session")
def a_ray() -> Iterator[Any]:
    """Ray with room for CPUS workers and a GPU to share out, whatever the machine has."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    import ray

    start(num_cpus=CPUS, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    yield ray
    ray.shutdown()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[RunFolder, dict[str, Any]]]:
    """Simulate digits over six sites; `engine` is its block, the rest replaces top-level blocks."""

    def go(name: str, engine: dict[str, Any], **blocks: Any) -> tuple[RunFolder, dict[str, Any]]:
        return simulate(digits(engine, **blocks), tmp_path / name, None, quiet=True)

    return go


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A shell gives its background jobs an ignored SIGINT, and a child inherits it: our own handler is not inherited so."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
