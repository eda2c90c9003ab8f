"""A config made complete: its opening comment as it is, then every key with its value and its unit.

    python -m fedvision.complete configs/*.yaml

rewrites files in place.  What they mean does not change; a key that is new gets its default, and comments between the
keys are replaced by the keys' own.
"""

import itertools
import sys
from pathlib import Path

from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.schema import read_yaml, render, validate
from fedvision.tracking.folder import write_atomically


def complete(path: Path) -> str:
    """The complete text of the config at `path`; ConfigError where it is none.  Relative paths in it stay relative."""
    experiment = validate(Experiment, read_yaml(path), str(path))
    opening = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines(keepends=True))
    return "".join(opening) + render(experiment)


def main(paths: list[str]) -> int:
    """Complete each file; the exit code."""
    try:
        for name in paths:
            path = Path(name)
            write_atomically(path, complete(path).encode())
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
