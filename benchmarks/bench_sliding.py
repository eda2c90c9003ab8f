"""Memory of labelling a large image in windows, from a file to a PNG of labels: the peak above the imported process, which must stay
below 1 GB.

    python benchmarks/bench_sliding.py [--side 10000] [--classes 21] [--kinds npy tiff png strip nifti]

png and strip, an RGB TIFF in one deflated strip, cannot be read in parts: they are decoded whole, once.  The network is one small convolution, so that what is measured is the windows, the blending and the files; a volume has as many voxels.
Prints one JSON object and keeps it under benchmarks/results/.
"""

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fedvision import label_files
from fedvision.data.parts import opened
from fedvision.labelling import fitting
from fedvision.sliding import Windows, segment

LIMIT = 1 << 30
DEPTH = 100  # voxels of a volume along its first axis
RESULT = Path(__file__).parent / "results" / "bench_sliding.json"


def main() -> int:
    """Measure each kind of file in a process of its own; 1 where one passes the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--kinds", nargs="*", default=list(WRITERS))
    parser.add_argument("--alone", help="measure this kind here")
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(measured(given.alone, given.side, given.classes)))
        return 0
    rows = {}
    for kind in given.kinds:
        command = [sys.executable, __file__, "--alone", kind, "--side", str(given.side), "--classes", str(given.classes)]
        rows[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    said = json.dumps(
        {"bench": "sliding", "pixels": given.side**2, "classes": given.classes, "limit_mb": LIMIT >> 20, "rows": rows}, indent=1
    )
    print(said)
    RESULT.write_text(said + "\n")
    return int(any(row["peak_above_mb"] << 20 > LIMIT for row in rows.values()))


def measured(kind: str, side: int, classes: int) -> dict[str, float]:
    """One image of `side`², or a volume of as many voxels, from its file to a file of labels."""
    sides, channels = ((side, side), 3) if kind != "nifti" else ((DEPTH, side // 10, side // 10), 1)
    axes, window = len(sides), (256, 256) if kind != "nifti" else (32, 64, 64)
    network = (torch.nn.Conv2d if axes == 2 else torch.nn.Conv3d)(channels, classes, 3, padding=1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        image, labels = Path(folder) / f"image.{SUFFIXES[kind]}", Path(folder) / "labels.npy"
        WRITERS[kind](image, sides)
        np.lib.format.open_memmap(labels, "w+", np.uint8 if classes <= 256 else np.uint16, sides).flush()
        network(torch.zeros(1, channels, *[64] * axes))
        before, started = peak(), time.perf_counter()
        pixels = opened(image, channels, axes, [0.0, 255.0], Path(folder))

        def write(where: tuple[slice, ...], part: np.ndarray) -> None:
            np.lib.format.open_memmap(labels, "r+")[where] = part

        def read(where: tuple[slice, ...]) -> torch.Tensor:
            return torch.from_numpy(pixels.part(where)).float()

        segment(network, sides, classes, Windows(fitting(window, classes)), read, write)
        out = Path(folder) / ("out.png" if axes == 2 else "out.nii")
        label_files.deliver(labels, out, image)
        above = peak() - before
    return {"peak_above_mb": above >> 20, "seconds": round(time.perf_counter() - started, 1)}


def _npy(path: Path, sides: tuple[int, ...]) -> None:
    np.lib.format.open_memmap(path, "w+", np.uint8, (*sides, 3)).flush()


def _tiff(path: Path, sides: tuple[int, ...]) -> None:
    """An RGB TIFF in one strip, not compressed, its pixels a hole in the file."""
    size = sides[0] * sides[1] * 3
    with path.open("wb") as file:
        file.write(_head(sides, 1, size))
        file.truncate(4096 + size)


def _strip(path: Path, sides: tuple[int, ...]) -> None:
    """An RGB TIFF in one deflated strip."""
    packed = b"".join(_deflated(bytes(sides[1] * 3), sides[0]))
    path.write_bytes(_head(sides, 8, len(packed)).ljust(4096, b"\0") + packed)


def _head(sides: tuple[int, ...], compression: int, size: int) -> bytes:
    tags = [(256, 4, sides[1]), (257, 4, sides[0]), (258, 3, 8), (259, 3, compression), (262, 3, 2), (273, 4, 4096), (277, 3, 3)]
    tags += [(278, 4, sides[0]), (279, 4, size)]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + table + b"\0" * 4


def _png(path: Path, sides: tuple[int, ...]) -> None:
    """An RGB PNG, each row without a filter."""
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        head = struct.pack(">IIBBBBB", sides[1], sides[0], 8, 2, 0, 0, 0)
        for kind, content in ((b"IHDR", head), (b"IDAT", b"".join(_deflated(bytes(1 + sides[1] * 3), sides[0]))), (b"IEND", b"")):
            file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


def _deflated(row: bytes, rows: int) -> Iterator[bytes]:
    packer = zlib.compressobj()
    for _ in range(rows):
        yield packer.compress(row)
    yield packer.flush()


def _nifti(path: Path, sides: tuple[int, ...]) -> None:
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(tuple(reversed(sides)))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with path.open("wb") as file:
        file.write(header.binaryblock + b"\0" * 4)
        file.truncate(352 + int(np.prod(sides)) * 2)


WRITERS = {"npy": _npy, "tiff": _tiff, "png": _png, "strip": _strip, "nifti": _nifti}
SUFFIXES = {"npy": "npy", "tiff": "tif", "png": "png", "strip": "tif", "nifti": "nii"}


def peak() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
