"""Is text that is burned into real images still read after de-identification?

    python benchmarks/dicom_burned_in.py FILE...

For each file: what rapidocr and tesseract (where installed) read in the original's first, middle and last frame is
the truth, as far as it has four letters or digits; what they read in the copy is what is left.  A string is left if
one that is read in the copy is within one edit of it.  Also said: the share of the image that was blanked, and CPU
seconds.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from privacy.deidentify import burned_in, lettering, pixels
from privacy.deidentify.instance import Deidentifier
from privacy.deidentify.policy import Policy
from privacy.deidentify.reader import parse


def near(one: str, other: str) -> bool:
    """Whether two strings are within one edit of each other."""
    if abs(len(one) - len(other)) > 1:
        return False
    if len(one) > len(other):
        one, other = other, one
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return one[at:] == other[at + 1 :] or one[at + 1 :] == other[at + 1 :]


def plain(text: str) -> str:
    return re.sub(r"[^0-9A-Z]", "", text.upper())


def frames(path: Path) -> list[Any]:
    parsed = parse(path.read_bytes())
    element = pixels.find(parsed)
    assert element is not None
    shape = pixels.shape(parsed, 10**10)
    stored, about = burned_in.decoded(parsed, element, shape)
    seen = burned_in.Views(parsed, shape, about)
    return [seen.of(stored[number])[0] for number in sorted({0, len(stored) // 2, len(stored) - 1})]


def rapidocr(image: Any) -> list[str]:
    read = lettering.engine()(image[..., ::-1].copy(), use_det=True, use_cls=False, use_rec=True)
    return [word for line in read.txts or [] for word in [line, *line.split()]]


def tesseract(image: Any) -> list[str]:
    if shutil.which("tesseract") is None:
        return []
    from PIL import Image

    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        picture = Image.fromarray(image)
        picture.resize((2 * picture.width, 2 * picture.height)).save(file.name)
        command = ["tesseract", file.name, "-", "--psm", "11"]
        return subprocess.run(command, capture_output=True, text=True).stdout.split()


def read(path: Path) -> set[str]:
    words = [word for image in frames(path) for word in rapidocr(image) + tesseract(image)]
    return {plain(word) for word in words if len(plain(word)) >= 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    left = 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / ".partial").mkdir()
        deidentifier = Deidentifier(bytes(range(32)), Policy(head_volumes="allow", head_volumes_reason="benchmark"), out)
        for path in arguments.files:
            begin = time.process_time()
            outcome = deidentifier(str(path).encode())
            seconds = time.process_time() - begin
            if not outcome.partial:
                print(f"{path.name}: {outcome.state} {outcome.code}")
                continue
            truth, after = read(path), read(out / ".partial" / outcome.partial)
            remaining = sorted(word for word in truth if any(near(word, other) for other in after))
            left += len(remaining)
            share = outcome.row["text"]["share"]  # type: ignore[index]
            print(f"{path.name}: {len(truth)} strings, {len(remaining)} left {remaining}; ", end="")
            print(f"{share:.0%} blanked, {seconds:.1f} s CPU", flush=True)
    print(f"{left} strings left")
    sys.exit(left > 0)


if __name__ == "__main__":
    main()
