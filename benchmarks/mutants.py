"""A copy of the source with one mistake in it, and the first test that notices."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("fedvision", "privacy", "clients", "server", "simulations", "configs", "docs", "tools", "tests/privacy", "tests/server")
LONGEST = 600  # seconds of tests, after which a mutation that ends in a loop is taken for noticed


def load() -> None:
    """Import what is heavy and not ours, once for all forks."""
    import hypothesis  # noqa: F401
    import pydantic  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401


class Copy:
    """A copy of the source in a folder of its own, in which one file at a time is another; tests run against it in forks."""

    def __init__(self, folder: Path):
        self.folder = folder
        for part in COPIED:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "tests/conftest.py", "tests/flower_runs.py"):
            shutil.copy(ROOT / name, folder / name)

    def noticed(self, file: Path, content: str, tests: Sequence[str], before: str) -> str:
        """The first of `tests` that fails with `content` in the place of `file`; "" where none does.  before: the one that did last time."""
        at = self.folder / file
        own = at.read_text()
        name = before.split("[")[0]
        first = [f"{test}::{before}" for test in tests if name and f"def {name}(" in (ROOT / test).read_text()]
        try:
            at.write_text(content)
            return next((failed for some in dict.fromkeys((*first, *tests)) if (failed := self._failed(file, some))), "")
        finally:
            at.write_text(own)

    def sound(self, tests: Iterable[str]) -> None:
        """SystemExit where one of `tests` fails with nothing changed: it would notice everything."""
        for some in dict.fromkeys(tests):
            if failed := self._failed(Path("fedvision/types.py"), some):
                raise SystemExit(f"{some} fails without any mistake: {failed}")

    def _failed(self, file: Path, tests: str) -> str:
        for stale in (self.folder / file).parent.glob(f"__pycache__/{file.stem}.*"):
            stale.unlink()
        said = self.folder / "said.txt"
        child = os.fork()  # with all that is heavy imported, and nothing of ours
        if child == 0:
            self._test(said, tests)
        code, end = None, time.monotonic() + LONGEST
        while code is None and time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if done else None
            time.sleep(0.02)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no end in {LONGEST} s"
        failed = [line for line in said.read_text().splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]
        if code in (0, 5) or (code == 4 and "::" in tests):  # passed, or there is no such test (any more)
            return ""
        if code == 4:
            raise SystemExit(f"{tests} cannot be run: {said.read_text()[-2000:]}")
        return failed[0].split("::", 1)[-1].split(" - ")[0] if failed else f"exit code {code}"

    def _test(self, said: Path, tests: str) -> None:
        import pytest

        with said.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(self.folder)
        os.environ["PYTHONPATH"] = str(self.folder)
        sys.path.insert(0, str(self.folder))
        code = pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-m", "not ray and not flower", tests])
        sys.stdout.flush()
        os._exit(int(code))
