"""Memory of labelling a large image in windows: the peak above the imported process, which must stay below 1 GB.

    python benchmarks/bench_sliding.py [--side 10000] [--rows N] [--classes 21]

The network is one small convolution, so that what is measured is the windows, the blending and the files.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fedvision.labelling import Pixels, fitting
from fedvision.sliding import Windows, segment

LIMIT = 1 << 30


def main() -> int:
    """Measure once; 1 where the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--classes", type=int, default=21)
    given = parser.parse_args()
    sides = (given.rows or given.side, given.side)
    network = torch.nn.Conv2d(3, given.classes, 3, padding=1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        image, labels = Path(folder) / "image.npy", Path(folder) / "labels.npy"
        np.lib.format.open_memmap(image, "w+", np.uint8, (*sides, 3)).flush()
        np.lib.format.open_memmap(labels, "w+", np.uint16, sides).flush()
        pixels = Pixels(image, sides, True)
        network(torch.zeros(1, 3, 64, 64))
        before, started = peak(), time.perf_counter()

        def write(where: tuple[slice, ...], part: np.ndarray) -> None:
            np.lib.format.open_memmap(labels, "r+")[where] = part

        windows = Windows(fitting((256, 256), given.classes))
        segment(network, sides, given.classes, windows, lambda where: torch.from_numpy(pixels.part(where)).float(), write)
        above = peak() - before
    print(
        json.dumps(
            {"sides": sides, "classes": given.classes, "peak_above_mb": above >> 20, "seconds": round(time.perf_counter() - started, 1)}
        )
    )
    return int(above > LIMIT)


def peak() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
