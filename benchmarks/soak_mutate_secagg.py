"""Remove each check of secure aggregation from the source, one at a time, and see a test fail.

    python benchmarks/soak_mutate_secagg.py [--only TEXT] [--minutes M] [--again] [--out benchmarks/results/soak_mutate_secagg.json]

A mutation works on a copy of the source: it takes out one call of a check (`CALLS`), or one guard (an `if` that does nothing but raise,
or return None or False), or takes one part of a conjunction for true; and the protocol's tests run against the copy, in a fork of this
process, until one fails.  A mutation that no test notices is a finding, and the exit code is 1, unless `HARMLESS` says why nothing could
notice it.  The file is written after every mutation, and a second call goes on where the first one stopped; what changed since is run
again.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mutants import ROOT, Copy, load

PACKAGE = Path("privacy/secure_aggregation")
CALLS = {
    "require", "_require", "_signed", "_require_new", "_check_signatures", "_check_history", "_check_cohort", "_check_keys", "_judge", "_least",
    "_blame", "_check_own",
}  # fmt: skip


def _tests(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/{PACKAGE}/test_secagg_{name}.py" for name in names)


PROTOCOL = _tests(
    "refusals", "coordinator", "protocol", "rosters", "primitives", "masks", "forgetting", "graph", "lists", "kills", "liar", "what_parties_see"
)  # fmt: skip
FIRST = {  # where a file's checks are tested most
    "state": "forgetting", "thresholds": "protocol", "coordinator": "coordinator", "codec": "primitives", "masks": "masks", "messages": "protocol",
}  # fmt: skip
RUNS = _tests("collecting", "rosters", "runs", "engines", "algorithms")
FILES: dict[Path, tuple[str, ...]] = {
    **{
        PACKAGE / f"{name}.py": (*_tests(FIRST.get(name, "refusals")), *PROTOCOL)
        for name in ("roster", "thresholds", "state", "messages", "masks", "codec", "coordinator", "site")
    },
    Path("privacy/membership.py"): ("tests/privacy/test_membership.py", *_tests("rosters")),
    Path("server/acceptance.py"): ("tests/server/test_acceptance.py", *_tests("runs")),
    Path("clients/masked.py"): RUNS,
    Path("server/masked.py"): RUNS,
}
CHARGED = "contribution is not None and bench.protection is not None and (request.train is not None)"
AHEAD = "self._ahead.session == session and set(self._ahead.sites) == set(sites) and (self._ahead.protocol is not None)"
TRAINED = "isinstance(message, Masked) and attempt is not None and (train is not None)"
ASKED = "attempt is not None and requests[reply.site].train is not None"
HARMLESS: dict[str, str] = {  # text of a mutation -> why nothing can notice it
    "len(kinds) == 2 :: len(kinds) == 2 and kinds[1] is ...": "an assertion on the types of our own messages, all of which hold it",
    "kinds[1] is ... :: len(kinds) == 2 and kinds[1] is ...": "an assertion on the types of our own messages, all of which hold it",
    f"contribution is not None :: {CHARGED}": "asked for more often, the same line of the ledger is found",
    f"request.train is not None :: {CHARGED}": "for the type checker: there is a contribution only where there is something to train on",
    "isinstance(reply, ClientUpdate) :: lie in LIES and isinstance(reply, ClientUpdate)": "a simulated liar that cannot train declines either way",
    "len(share.value) == shamir.SHARE :: len(share.value) == shamir.SHARE and share_digest(self.session, share.dealer, holder, share.value) == expected": "a longer share that its dealer committed to is a number all the same, and one that rebuilds nothing is blamed on its dealer",
    f"attempt is not None :: {TRAINED}": "there is an attempt wherever there is something to train on: for the type checker",
    f"train is not None :: {TRAINED}": "there is something to train on wherever there is a vector and an attempt: for the type checker",
    f"attempt is not None :: {ASKED}": "there is an attempt wherever there is something to train on: for the type checker",
    f"self._ahead.protocol is not None :: {AHEAD}": "for the type checker: what is ahead has a session only where it has a protocol",
    f"set(self._ahead.sites) == set(sites) :: {AHEAD}": "in a simulation the sites that a round asks first are those it was opened for ahead",
}


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


def mutations() -> Iterator[tuple[Path, str, str, str]]:
    """(file, key, what is taken out, the source without it), one after the other."""
    for file in FILES:
        source = (ROOT / file).read_text()
        times: Counter[str] = Counter()
        for text, mutant in (*calls(source), *guards(source), *conjuncts(source)):
            times[text] += 1
            named = file.name if file.parent == PACKAGE else file.as_posix()
            short = re.sub(r"\s+", " ", text)[:100]
            yield file, f"{named}:{hashlib.sha256(text.encode()).hexdigest()[:8]}.{times[text]} {short}", text, mutant


def main() -> int:
    """Go through the mutations, keep what each came to, and say which nobody noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only mutations whose file or text holds this")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; a second call goes on")
    parser.add_argument("--again", action="store_true", help="run also those that a test has noticed before, that test first")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak_mutate_secagg.json")
    arguments = parser.parse_args()
    load()
    kept: dict[str, str] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    found: dict[str, str] = {}
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        copy.sound(some for file, tests in FILES.items() if arguments.only in f"{file} " for some in tests)
        for file, key, text, mutant in mutations():
            if arguments.only not in f"{file} {text}" or time.monotonic() > end:
                found[key] = kept.get(key, "")
                continue
            before = kept.get(key, "")
            settled = HARMLESS.get(text) or ("" if arguments.again else before)
            found[key] = settled or copy.noticed(file, mutant, FILES[file], before)
            print(f"{found[key] or 'NOBODY NOTICED'}  <-  {key}", flush=True)
            arguments.out.write_text(json.dumps(kept | found, indent=1) + "\n")
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    unnoticed = [key for key, by in found.items() if not by]
    print(f"{len(found)} mutations, {len(unnoticed)} of them not noticed, or not tried yet")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
