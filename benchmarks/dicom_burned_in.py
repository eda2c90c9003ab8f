"""Is text that is burned into real images still there after de-identification?

    python benchmarks/dicom_burned_in.py FILE... [--results FILE]

For each file: what rapidocr and tesseract (where it is installed) read in the original's first, middle and last frame,
as far as it has four letters or digits, is the truth, with the boxes it was read in.  A string is left if one that
either reads in the copy is within one edit of it.  A pixel is left if it is text in a box (at least 40 of 255 from the
box's median) and is not black in the copy.  Also said: the share of the image that was blanked, and CPU seconds.  Exit
code 1 where anything is left.  The figures are kept in benchmarks/results.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from privacy.deidentify import burned_in, lettering, pixels
from privacy.deidentify.instance import Deidentifier
from privacy.deidentify.policy import Policy
from privacy.deidentify.reader import parse

RESULTS = Path(__file__).parent / "results" / "dicom_burned_in.json"
Read = tuple[str, lettering.Box]  # a string, and where it was read


def near(one: str, other: str) -> bool:
    """Whether two strings are within one edit of each other."""
    if abs(len(one) - len(other)) > 1:
        return False
    if len(one) > len(other):
        one, other = other, one
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return one[at:] == other[at + 1 :] or one[at + 1 :] == other[at + 1 :]


def plain(text: str) -> str:
    """Its letters and digits, in capitals."""
    return re.sub(r"[^0-9A-Z]", "", text.upper())


def frames(path: Path) -> list[Any]:
    """The first, the middle and the last frame as they are seen, [rows, columns, 3] uint8."""
    parsed = parse(path.read_bytes())
    element = pixels.find(parsed)
    assert element is not None
    shape = pixels.shape(parsed, 10**10)
    stored, about = burned_in.decoded(parsed, element, shape)
    seen = burned_in.Views(parsed, shape, about)
    return [seen.of(stored[number])[0] for number in sorted({0, len(stored) // 2, len(stored) - 1})]


def rapidocr(image: Any) -> list[Read]:
    """Lines, as rapidocr by its own choices reads them."""
    model = lettering.engine()
    model.text_det.limit_side_len = lettering.FIRST_SIDE
    model.text_det.postprocess_op.thresh, model.text_det.postprocess_op.box_thresh = lettering.SURE
    read = model(image[..., ::-1].copy(), use_det=True, use_cls=False, use_rec=True)
    found: list[Read] = []
    for text, corners in zip(read.txts or [], read.boxes if read.boxes is not None else [], strict=True):
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        found.append((text, (int(left), int(top), int(right) + 1, int(bottom) + 1)))
    return found


def tesseract(image: Any) -> list[Read]:
    """Words, as tesseract reads them in the image at twice its size; none where it is not installed."""
    if shutil.which("tesseract") is None:
        return []
    from PIL import Image

    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        picture = Image.fromarray(image)
        picture.resize((2 * picture.width, 2 * picture.height)).save(file.name)
        command = ["tesseract", file.name, "-", "--psm", "11", "tsv"]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[1:]
    found: list[Read] = []
    for line in lines:
        left, top, width, height, confidence, text = line.split("\t")[6:12]
        if float(confidence) >= 30:
            box = (int(left), int(top), int(left) + int(width), int(top) + int(height))
            found.append((text, tuple(number // 2 for number in box)))  # type: ignore[arg-type]
    return found


def read(image: Any) -> list[Read]:
    """What either reads that has four letters or digits."""
    return [(plain(text), box) for text, box in rapidocr(image) + tesseract(image) if len(plain(text)) >= 4]


def pixels_left(before: Any, after: Any, reads: list[Read]) -> int:
    """How many pixels of the text that was read in `before` are not black in `after`."""
    left = np.zeros(before.shape[:2], bool)
    for _, (x, y, right, bottom) in reads:
        part = before[y:bottom, x:right].astype(int)
        if part.size:
            text = (abs(part - np.median(part, axis=(0, 1))) >= 40).any(axis=2)
            text[-1:], text[:, -1:] = False, False  # a box ends a pixel after its letters
            left[y:bottom, x:right] |= text & (after[y:bottom, x:right].max(axis=2) > 2)
    return int(left.sum())


def judged(path: Path, copy: Path) -> dict[str, Any]:
    """Strings and pixels of a file, and what is left of them in its copy."""
    truth: set[str] = set()
    again: set[str] = set()
    left = 0
    for before, after in zip(frames(path), frames(copy), strict=True):
        reads = read(before)
        truth |= {text for text, _ in reads}
        again |= {text for text, _ in read(after)}
        left += pixels_left(before, after, reads)
    remaining = sorted(word for word in truth if any(near(word, other) for other in again))
    return {"strings": len(truth), "strings left": remaining, "text pixels left": left, "read in the copy": sorted(again)}


def main() -> None:
    """De-identify each file, judge its copy, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / ".partial").mkdir()
        policy = Policy(head_volumes="allow", head_volumes_reason="benchmark")
        deidentifier = Deidentifier(bytes(range(32)), policy, out)
        for path in arguments.files:
            begin = time.process_time()
            outcome = deidentifier(str(path.resolve()).encode())
            row: dict[str, Any] = {"state": str(outcome.state), "code": outcome.code, "CPU seconds": round(time.process_time() - begin, 1)}
            if outcome.partial:
                row |= judged(path, out / ".partial" / outcome.partial) | {"blanked": outcome.row["text"]["share"]}  # type: ignore[index]
            found[path.name] = row
            print(path.name, json.dumps(row), flush=True)
    arguments.results.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(row.get("strings left") or row.get("text pixels left") for row in found.values()))


if __name__ == "__main__":
    main()
