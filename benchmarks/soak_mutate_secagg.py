"""Remove each check of secure aggregation from the source, one at a time, and see a test fail.

    python benchmarks/soak_mutate_secagg.py [--only TEXT] [--out benchmarks/results/soak_mutate_secagg.json]

A mutation takes one call of `require` (or `self._require`, or `self._signed`) out of a copy of the package and runs the protocol's tests
against the copy.  A mutation that no test notices is a finding, and the exit code is 1.  The file is written after every mutation, and a
second call goes on where the first one stopped; what changed since is run again.
"""

import argparse
import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("privacy/secure_aggregation")
FILES = ("site.py", "roster.py", "thresholds.py", "coordinator.py")
CALLS = {"require", "_require", "_signed", "_require_new", "_check_signatures", "_check_history", "_check_cohort", "_check_keys", "_judge"}
TESTS = (
    "test_secagg_coordinator.py",
    "test_secagg_refusals.py",
    "test_secagg_protocol.py",
    "test_secagg_what_parties_see.py",
    "test_secagg_graph.py",
)


def checks(source: str) -> Iterator[ast.Expr]:
    """The statements that are one call of a check."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            name = function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
            if name in CALLS:
                yield node


def without(source: str, node: ast.Expr) -> str:
    """The source with `pass` in the place of the statement."""
    lines = source.splitlines(keepends=True)
    indent = " " * node.col_offset
    return "".join((*lines[: node.lineno - 1], f"{indent}pass\n", *lines[node.end_lineno or node.lineno :]))


def noticed(file: str, content: str) -> str:
    """The first test that fails with `content` in the place of `file`; "" where none does."""
    with tempfile.TemporaryDirectory() as folder:
        for package in ("fedvision", "privacy", "clients", "server", "simulations"):
            shutil.copytree(ROOT / package, Path(folder) / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests" / PACKAGE, Path(folder) / "tests" / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "docs", Path(folder) / "docs")
        shutil.copy(ROOT / "pyproject.toml", folder)
        (Path(folder) / PACKAGE / file).write_text(content)
        tests = [f"tests/{PACKAGE}/{name}" for name in TESTS]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests],
            cwd=folder, env=os.environ | {"PYTHONPATH": folder}, capture_output=True, text=True,
        )  # fmt: skip
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode == 0:
        return ""
    return failed[0].split("::", 1)[-1].split(" - ")[0] if failed else f"exit code {done.returncode}"


def main() -> int:
    """Go through the mutations, keep what each came to, and say which nobody noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only statements that hold this text")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak_mutate_secagg.json")
    arguments = parser.parse_args()
    kept: dict[str, str] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    found: dict[str, str] = {}
    for file in FILES:
        source = (ROOT / PACKAGE / file).read_text()
        times: Counter[str] = Counter()
        for node in checks(source):
            text = ast.unparse(node)
            times[text] += 1
            key = f"{file}:{hashlib.sha256(text.encode()).hexdigest()[:8]}.{times[text]} {text[:100]}"
            if arguments.only not in text:
                continue
            found[key] = kept.get(key) or noticed(file, without(source, node))
            print(f"{found[key] or 'NOBODY NOTICED'}  <-  {key}", flush=True)
            arguments.out.parent.mkdir(exist_ok=True)
            arguments.out.write_text(json.dumps(kept | found, indent=1) + "\n")
    arguments.out.write_text(json.dumps(found if not arguments.only else kept | found, indent=1) + "\n")
    return 1 if not all(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
