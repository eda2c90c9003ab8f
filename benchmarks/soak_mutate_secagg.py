"""Remove each check of secure aggregation from the source, one at a time, and see a test fail.

    python benchmarks/soak_mutate_secagg.py [--only TEXT] [--out benchmarks/results/soak_mutate_secagg.json]

A mutation works on a copy of the source: it takes out one call of a check (`CALLS`), or one guard (an `if` that does nothing but raise,
or return None or False), or takes one part of a conjunction for true; and the protocol's tests run against the copy.  A mutation that no
test notices is a finding, and the exit code is 1, unless `HARMLESS` says why nothing could notice it.  The file is written after every
mutation, and a second call goes on where the first one stopped; what changed since is run again.
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
CALLS = {
    "require", "_require", "_signed", "_require_new", "_check_signatures", "_check_history", "_check_cohort", "_check_keys", "_judge", "_least",
    "_blame",
}  # fmt: skip
PROTOCOL = tuple(
    f"tests/{PACKAGE}/test_secagg_{name}.py"
    for name in ("coordinator", "refusals", "protocol", "forgetting", "what_parties_see", "graph", "primitives", "masks")
)
RUNS = tuple(f"tests/{PACKAGE}/test_secagg_{name}.py" for name in ("runs", "engines"))
FILES: dict[Path, tuple[str, ...]] = {
    **{PACKAGE / f"{name}.py": PROTOCOL for name in ("site", "roster", "thresholds", "coordinator", "state", "messages", "masks", "codec")},
    Path("server/masked.py"): RUNS,
    Path("clients/masked.py"): RUNS,
}
HARMLESS: dict[str, str] = {}  # text of a mutation -> why nothing can notice it


def calls(source: str) -> Iterator[tuple[str, str]]:
    """(what is taken out, the source without it) for each statement that is one call of a check."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            name = function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
            if name in CALLS:
                yield ast.unparse(node), put(source, node, "pass")


def guards(source: str) -> Iterator[tuple[str, str]]:
    """The same for each `if` whose one statement refuses."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and not node.orelse and len(node.body) == 1:
            does = node.body[0]
            nothing = isinstance(does, ast.Return) and (does.value is None or ast.unparse(does.value) in ("None", "False"))
            if isinstance(does, ast.Raise) or nothing:
                yield " ".join(ast.unparse(node).split()), put(source, node, "pass")


def conjuncts(source: str) -> Iterator[tuple[str, str]]:
    """The same for each part of each conjunction, taken for true."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            for part in node.values:
                yield f"{ast.unparse(part)} :: {ast.unparse(node)}", put(source, part, "True")


def put(source: str, node: ast.stmt | ast.expr, other: str) -> str:
    """The source with `other` in the place of a node; columns are bytes of UTF-8."""
    lines = source.encode().splitlines(keepends=True)
    assert node.end_lineno is not None
    before = b"".join((*lines[: node.lineno - 1], lines[node.lineno - 1][: node.col_offset]))
    after = b"".join((lines[node.end_lineno - 1][node.end_col_offset :], *lines[node.end_lineno :]))
    return (before + other.encode() + after).decode()


def noticed(file: Path, content: str) -> str:
    """The first test that fails with `content` in the place of `file`; "" where none does."""
    with tempfile.TemporaryDirectory() as folder:
        for package in ("fedvision", "privacy", "clients", "server", "simulations", "configs", "docs", f"tests/{PACKAGE}"):
            shutil.copytree(ROOT / package, Path(folder) / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        (Path(folder) / file).write_text(content)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *FILES[file]],
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
        source = (ROOT / file).read_text()
        times: Counter[str] = Counter()
        for text, mutant in (*calls(source), *guards(source), *conjuncts(source)):
            times[text] += 1
            named = file.name if file.parent == PACKAGE else file.as_posix()
            key = f"{named}:{hashlib.sha256(text.encode()).hexdigest()[:8]}.{times[text]} {text[:100]}"
            if arguments.only not in text:
                continue
            found[key] = HARMLESS.get(text, "") or kept.get(key, "") or noticed(file, mutant)
            print(f"{found[key] or 'NOBODY NOTICED'}  <-  {key}", flush=True)
            arguments.out.parent.mkdir(exist_ok=True)
            arguments.out.write_text(json.dumps(kept | found, indent=1) + "\n")
    arguments.out.write_text(json.dumps(found if not arguments.only else kept | found, indent=1) + "\n")
    return 1 if not all(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
