"""A finished run for the tests of what is made of one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from finished_runs import make_run

from fedvision.tracking.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Makes run folders by name, under this test's own folder."""
    return lambda name="run", **options: make_run(tmp_path / name, **options)
