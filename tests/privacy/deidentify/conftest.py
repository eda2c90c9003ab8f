import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from privacy.deidentify.instance import Deidentifier, Outcome
from privacy.deidentify.policy import Policy

KEY = bytes(range(32))


class Bench:
    """A de-identifier with a known key over a folder of its own; `run(bytes)` gives outcome and what was written."""

    def __init__(self, folder: Path, **policy):
        self.folder = folder
        (folder / ".partial").mkdir(parents=True, exist_ok=True)
        policy.setdefault("options", ["113107"])
        self.deidentifier = Deidentifier(KEY, Policy(**policy), folder)

    def run(self, source: bytes) -> tuple[Outcome, bytes]:
        path = self.folder / "input"
        path.write_bytes(source)
        outcome = self.deidentifier(str(path).encode())
        written = (self.folder / ".partial" / outcome.partial).read_bytes() if outcome.partial else b""
        return outcome, written


@pytest.fixture
def bench(tmp_path):
    def make(**policy) -> Bench:
        return Bench(tmp_path / "bench", **policy)

    return make
