"""What all tests share: no test touches what is this user's."""

import os
from collections.abc import Iterator

import pytest
from flower_runs import FlowerRuns


@pytest.fixture(scope="session", autouse=True)
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keys and rosters of simulations go to a folder of the test session; the workers' processes inherit it."""
    before = os.environ.get("FEDVISION_STATE")
    os.environ["FEDVISION_STATE"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["FEDVISION_STATE"]
    else:
        os.environ["FEDVISION_STATE"] = before


@pytest.fixture(scope="session")
def on_flower() -> Iterator[FlowerRuns]:
    """Flower's runtime, started once."""
    with FlowerRuns() as runs:
        yield runs
