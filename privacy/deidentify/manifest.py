"""What an output folder holds, a line a file, without a word on where it came from: rows that are ready to be signed.

`manifest.jsonl` has one JSON object a line, keys sorted, ordered by name: name, sha256, bytes, class, series (a keyed
name), elements (how many were kept, changed, emptied, removed, private), pixels (unchanged; series sampled: one image
in 16 was looked at for text; checked: every frame was, and held none; blanked), text (boxes blanked, share of the
image), codes (CID 7050), warnings.  `summary.json` has what holds for all of them: rules, policy, counts of all
inputs by state and code, and the SHA-256 of the manifest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fedvision.errors import DataError

MANIFEST, SUMMARY = "manifest.jsonl", "summary.json"
KEYS = {"name", "sha256", "bytes", "class", "series", "elements", "pixels", "text", "codes", "warnings"}


def write(out: Path, rows: Iterable[dict[str, Any]]) -> tuple[str, int]:
    """Write the manifest whole or not at all; its SHA-256 and number of rows."""
    digest, count = hashlib.sha256(), 0
    fresh = out / ".partial" / MANIFEST
    with open(fresh, "wb") as file:
        for row in rows:
            line = json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, out / MANIFEST)
    return digest.hexdigest(), count


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Write the run's counts beside the manifest, whole or not at all."""
    fresh = out / ".partial" / SUMMARY
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, out / SUMMARY)


def read(out: Path) -> Iterator[dict[str, Any]]:
    """The manifest's rows.  DataError where it is absent or a line is no row."""
    try:
        with open(out / MANIFEST, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except ValueError:
                    raise DataError(f"{out / MANIFEST}, line {number}: this is no JSON; the file was damaged or edited") from None
                if not isinstance(row, dict) or set(row) != KEYS:
                    raise DataError(f"{out / MANIFEST}, line {number}: a row has the keys {', '.join(sorted(KEYS))}")
                yield row
    except FileNotFoundError:
        raise DataError(f"there is no {out / MANIFEST}: {out} is no finished output of `fedvision dicom deidentify`") from None


def read_summary(out: Path) -> dict[str, Any]:
    """DataError where there is none."""
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"there is no {out / SUMMARY}: {out} is no finished output of `fedvision dicom deidentify`") from None
    except ValueError:
        raise DataError(f"{out / SUMMARY} is no JSON; the file was damaged or edited") from None
    if not isinstance(summary, dict):
        raise DataError(f"{out / SUMMARY} is no summary")
    return summary
