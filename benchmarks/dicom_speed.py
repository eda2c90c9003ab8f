"""CPU time per file of `fedvision dicom deidentify` against dicognito and deid, in one run, on one core.

    python benchmarks/dicom_speed.py [--peers PYTHON] [--ct FILE] [--rtstruct FILE] [--files N]

--peers is a Python with dicognito and deid installed (they need a pydicom of their own); without it they are left
out. The files are 512 × 512 CT slices, made from pydicom's own test slice.  The floor is what nobody can go under who
reads, hashes in and out, and writes.  Ours is all of it: children, self-check, comparison of pixels, ledger and
manifest; what waiting for the disk takes is shown apart.  CPU times are user + system, of this process and its
children.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results" / "dicom_speed.json"
PEERS = {
    "dicognito": """
import sys, pathlib, pydicom, resource, json
from dicognito.anonymizer import Anonymizer
source, target = map(pathlib.Path, sys.argv[1:])
anonymizer = Anonymizer()
def one(path):
    with pydicom.dcmread(path) as dataset:
        anonymizer.anonymize(dataset)
        dataset.save_as(target / path.name)
""",
    "deid": """
import sys, pathlib, logging, resource, json
from deid.config import DeidRecipe
from deid.dicom import replace_identifiers
from deid.logger import bot
bot.level = -5
source, target = map(pathlib.Path, sys.argv[1:])
recipe = DeidRecipe()
def one(path):
    replace_identifiers(dicom_files=[str(path)], deid=recipe, save=True, output_folder=str(target), overwrite=True)
""",
}
TAIL = """
paths = sorted(source.iterdir())
one(paths[0])
before = resource.getrusage(resource.RUSAGE_SELF)
for path in paths: one(path)
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(paths)))
"""


def slices(folder: Path, count: int) -> None:
    """`count` CT slices of 512 × 512, each another instance."""
    import numpy as np
    import pydicom
    from pydicom.data import get_testdata_file

    slice_ = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    rows = np.random.default_rng(0).integers(0, 2000, (512, 512)).astype("<u2")
    slice_.Rows = slice_.Columns = 512
    slice_.PixelData = rows.tobytes()
    for number in range(count):
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.99.{number}"
        slice_.InstanceNumber = number + 2
        slice_.save_as(folder / f"{number:05}.dcm")


def copies(source: Path, folder: Path, count: int) -> None:
    """`count` copies of a file, each another instance."""
    import pydicom

    dataset = pydicom.dcmread(source)
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.98.{number}"
        dataset.save_as(folder / f"{number:05}.dcm")


def cpu(what: Callable[[], None]) -> float:
    """Seconds of CPU that `what` takes, children that have ended included."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    before = [resource.getrusage(each) for each in who]
    what()
    after = [resource.getrusage(each) for each in who]
    return sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))


def floor(source: Path, target: Path) -> float:
    """CPU seconds a file of reading, hashing twice and writing."""
    paths = sorted(source.iterdir())

    def copy() -> None:
        for path in paths:
            data = path.read_bytes()
            hashlib.sha256(data).digest()
            hashlib.sha256(data).digest()
            (target / path.name).write_bytes(data)

    return cpu(copy) / len(paths)


def ours(source: Path, place: Path, workers: int) -> tuple[float, float, float]:
    """CPU seconds a file, wall seconds a file, seconds a file spent waiting for the disk.  The start of Python, the
    imports and the start of the children are a constant, measured with one file and taken away."""
    from privacy.deidentify.policy import Policy
    from privacy.deidentify.run import deidentify

    policy = Policy(options=["113107"])
    count = len(list(source.iterdir()))
    found: dict[str, float] = {}

    def run(store: Path, name: str) -> None:
        begin = time.monotonic()
        summary = deidentify(store, place / name, place / f"site-{name}", policy, workers=workers)
        found[name] = time.monotonic() - begin
        found["sync"] = summary.sync_seconds
        assert summary.adds_up and summary.states["deidentified"] == len(list(store.iterdir())), summary

    alone = place / "alone"
    alone.mkdir()
    shutil.copy(next(source.iterdir()), alone)
    start = cpu(lambda: run(alone, "one"))
    whole = cpu(lambda: run(source, "all"))
    return (whole - start) / (count - 1), (found["all"] - found["one"]) / (count - 1), found["sync"] / count


def ceiling(source: Path, place: Path) -> float:
    """How much faster two processes can be than one on this machine: each does all files of `source` by itself, with
    no parent to share; the wall clock of one alone, twice, over that of both at once."""
    from privacy.deidentify.instance import Deidentifier
    from privacy.deidentify.policy import Policy

    def work(number: int) -> None:
        out = place / f"bare-{number}"
        (out / ".partial").mkdir(parents=True, exist_ok=True)
        deidentifier = Deidentifier(bytes(32), Policy(options=["113107"]), out)
        for path in sorted(source.iterdir()):
            (out / ".partial" / deidentifier(str(path).encode()).partial).unlink()

    def timed(count: int) -> float:
        begin = time.monotonic()
        children = [multiprocessing.get_context("fork").Process(target=work, args=(number,)) for number in range(count)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        return time.monotonic() - begin

    timed(1)
    return median([2 * timed(1) / timed(2) for _ in range(5)])


def peer(python: str, name: str, source: Path, target: Path) -> float:
    """CPU seconds a file of another tool, by that Python; NaN where it fails."""
    target.mkdir()
    script = target.parent / f"{name}_benchmark.py"
    script.write_text(PEERS[name] + TAIL)
    done = subprocess.run([python, str(script), str(source), str(target)], capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")


def measured(title: str, given: Path | None, count: int, arguments: argparse.Namespace) -> dict[str, float]:
    """All figures of one kind of file, printed and returned: CPU milliseconds a file, and ratios."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        place = Path(folder)
        source = place / "source"
        source.mkdir()
        (place / "floor").mkdir()
        slices(source, count) if given is None else copies(given, source, count)
        one, wall, waiting = ours(source, place, 1)
        seconds = {"floor": floor(source, place / "floor"), "fedvision": one}
        seconds |= {name: peer(arguments.peers, name, source, place / name) for name in (PEERS if arguments.peers else ())}
        found = {f"{name}: CPU ms a file": round(1000 * value, 2) for name, value in seconds.items()}
        found |= {f"{name}: times ours": round(value / one, 2) for name, value in seconds.items()}
        found |= {"ours: times the floor": round(one / seconds["floor"], 2), "disk, apart: ms a file": round(1000 * waiting, 2)}
        if title != "RTSTRUCT":
            walls: dict[int, list[float]] = {1: [wall], 2: []}
            for number in range(10):  # in turn, and the median of each: whatever else the machine does comes and goes
                workers = 1 + number % 2
                again = place / f"again-{number}"
                again.mkdir()
                walls[workers].append(ours(source, again, workers)[1])
                shutil.rmtree(again)
            found |= {"two processes: times as fast (wall)": round(median(walls[1]) / median(walls[2]), 2)}
            found |= {"two bare processes: times as fast (wall)": round(ceiling(source, place), 2)}
    for name, value in found.items():
        print(f"{title:14} {name:42} {value:8.2f}")
    return found


def main() -> None:
    """Read the arguments, measure, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a Python with dicognito and deid")
    parser.add_argument("--rtstruct", type=Path, help="an RTSTRUCT to measure as well")
    parser.add_argument("--ct", type=Path, help="a CT slice to measure instead of the one that is made")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--folder", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = {"CT 512 × 512": measured("CT 512 × 512", arguments.ct, arguments.files, arguments)}
    if arguments.rtstruct is not None:
        found["RTSTRUCT"] = measured("RTSTRUCT", arguments.rtstruct, 10, arguments)
    arguments.results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
