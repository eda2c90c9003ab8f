"""Does a run over very many files stay within the memory that it starts with?

    python benchmarks/dicom_many_files.py [--files 100000] [--workers 2] [--folder DIR]

The files are CT slices of 8 × 8 pixels of a hundred patients, each another instance.  While the command runs, the
resident memory of its parent and of all its processes is looked at once a second.  Said and kept: the most in the
first tenth of the files and the most in all, in MiB, files a second, and whether the states add up.  Exit code 1 where
the parent's memory grew by half, or a file was lost.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "privacy" / "deidentify"))
RESULTS = Path(__file__).parent / "results" / "dicom_many_files.json"


def store(folder: Path, count: int) -> None:
    """`count` files, a thousand in a folder."""
    from planted import base, file

    for number in range(count):
        place = folder / f"{number // 1000:04}"
        place.mkdir(exist_ok=True)
        patient = {0x00100020: ("LO", b"MANY-%03d" % (number % 100)), 0x0020000E: ("UI", b"1.2.826.0.1.77.2%03d" % (number // 1000))}
        (place / f"{number:06}.dcm").write_bytes(file(base(number) | patient))


def resident(pid: int) -> float:
    """MiB of memory of one process, 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def family(pid: int) -> list[int]:
    """A process and its children."""
    try:
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except (FileNotFoundError, ProcessLookupError):
        return [pid]


def watched(command: list[str], out: Path, count: int) -> tuple[dict[str, object], str]:
    """What was seen while the command ran, and what it printed."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(process.communicate()[0]))
    reader.start()
    early = parent = whole = 0.0
    while reader.is_alive():
        now = [resident(pid) for pid in family(process.pid)]
        parent, whole = max(parent, now[0]), max(whole, sum(now))
        done = sum(1 for _ in out.glob("*/*/*.dcm")) if not early else count
        early = parent if not early and done >= count / 10 else early
        reader.join(1.0)
    seconds = time.monotonic() - begin
    figures = {"parent MiB at a tenth": round(early), "parent MiB at most": round(parent), "all MiB at most": round(whole)}
    return figures | {"seconds": round(seconds), "files a second": round(count / seconds)}, said[0]


def main() -> None:
    """Make the store, run the command over it, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        (place / "store").mkdir()
        store(place / "store", arguments.files)
        (place / "policy.yaml").write_text("options: ['113107']\n")
        command = [sys.executable, "-m", "privacy.deidentify", "deidentify", str(place / "store"), str(place / "out"), "--json"]
        command += ["--site", str(place / "site"), "--policy", str(place / "policy.yaml"), "--workers", str(arguments.workers)]
        figures, said = watched(command, place / "out", arguments.files)
    finally:
        shutil.rmtree(place)
    summary = json.loads(said)
    found = {"files": arguments.files, "workers": arguments.workers, **figures, "states": summary["states"], "adds up": summary["adds_up"]}
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    grew = float(str(figures["parent MiB at most"])) > 1.5 * float(str(figures["parent MiB at a tenth"]))
    sys.exit(grew or not summary["adds_up"] or summary["states"]["deidentified"] != arguments.files)


if __name__ == "__main__":
    main()
