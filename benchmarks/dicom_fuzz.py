"""Mutation fuzz of the de-identifier: `python benchmarks/dicom_fuzz.py [--count 100000] [--seed 0]`.

Every mutant must end in a state.  An exception is a crash, an outcome SELF_CHECK an output that the check had to
stop; both end the run with exit code 1 and leave the mutant in the folder --keep.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "privacy" / "deidentify"))


def main() -> None:
    """Try every mutant; print how many ended how."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    arguments = parser.parse_args()

    from mutations import mutants
    from test_mutations_and_real_files import seeds

    from privacy.deidentify.instance import Deidentifier
    from privacy.deidentify.policy import Policy

    counts: Counter[str] = Counter()
    begin, slowest, bad = time.monotonic(), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / ".partial").mkdir()
        policy = Policy(options=["113107"], head_volumes="allow", head_volumes_reason="fuzz")
        deidentifier = Deidentifier(bytes(range(32)), policy, out)
        for number, mutant in enumerate(mutants(seeds(), arguments.count, arguments.seed)):
            (out / "mutant").write_bytes(mutant)
            start = time.process_time()
            try:
                outcome = deidentifier(str(out / "mutant").encode())
                counts[outcome.code or str(outcome.state)] += 1
                finding = outcome.note if outcome.code == "SELF_CHECK" else ""
                if outcome.partial:
                    (out / ".partial" / outcome.partial).unlink()
            except Exception as error:  # whatever it is, it is what this program looks for
                finding = f"{type(error).__name__}: {error}"
            slowest = max(slowest, time.process_time() - start)
            if finding:
                bad += 1
                arguments.keep.mkdir(exist_ok=True)
                (arguments.keep / f"{arguments.seed}-{number}.dcm").write_bytes(mutant)
                print(f"mutant {number}: {finding}")
    seconds = time.monotonic() - begin
    print(f"{arguments.count:,} mutants in {seconds:,.0f} s, slowest {slowest:.2f} s CPU, {bad} findings")
    for code, count in counts.most_common():
        print(f"  {count:8,} {code}")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
