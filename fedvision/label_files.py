"""Files of labels, written a few rows at a time: .npy, .png, .nii and .nii.gz."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from fedvision.data.cache import written_whole
from fedvision.data.nifti import is_nifti, opened
from fedvision.errors import ConfigError

_AT_ONCE = 1 << 22  # bytes


def check(out: Path, axes: int) -> None:
    """ConfigError where labels of so many axes cannot be written to a file of that name."""
    if not (out.suffix in {".npy", ".png"} or is_nifti(out)):
        raise ConfigError(f"{out}: labels are written as .npy, .png, .nii or .nii.gz")
    if out.suffix == ".png" and axes == 3:
        raise ConfigError(f"{out}: a PNG holds one plane, and these are labels of a volume; write .nii.gz or .npy")
    if is_nifti(out) and axes == 2:
        raise ConfigError(f"{out}: a NIfTI file holds a volume, and these are labels of a picture; write .png or .npy")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}")


def deliver(labels: Path, out: Path, image: Path) -> None:
    """Bring labels from a .npy file to `out`, which is there only when it is whole.  image: whose place in space a volume keeps."""
    if out.suffix == ".npy":
        labels.replace(out)
        return
    array = np.load(labels, mmap_mode="r")
    with written_whole(out) as file:
        if out.suffix == ".png":
            _png(array, file)
        elif out.name.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="") as packed:
                _nifti(array, packed, image)  # type: ignore[arg-type]
        else:
            _nifti(array, file, image)


def _png(labels: np.ndarray, file: IO[bytes]) -> None:
    """Labels [H,W] as grey of 8 or 16 bits."""
    height, width = labels.shape
    whole = labels.dtype.newbyteorder(">")
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * whole.itemsize, 0, 0, 0, 0))
    packer = zlib.compressobj(6)
    rows = max(1, _AT_ONCE // (width * whole.itemsize))
    for top in range(0, height, rows):
        own = np.ascontiguousarray(labels[top : top + rows], whole)
        lines = np.zeros((len(own), 1 + width * whole.itemsize), np.uint8)  # each line begins with its filter: none
        lines[:, 1:] = own.view(np.uint8)
        _chunk(file, b"IDAT", packer.compress(lines.tobytes()))
    _chunk(file, b"IDAT", packer.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: IO[bytes], kind: bytes, content: bytes) -> None:
    if content or kind != b"IDAT":
        file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


def _nifti(labels: np.ndarray, file: IO[bytes], image: Path) -> None:
    """Labels [Z,Y,X] as NIfTI-1, [X,Y,Z], where the image lies if it is NIfTI too, else a millimetre a voxel."""
    import nibabel

    if max(labels.shape) > 32767:
        raise ConfigError(f"a NIfTI-1 file has up to 32,767 voxels a side, and the labels have {max(labels.shape):,}; write .npy")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(labels.dtype)
    header.set_data_shape(tuple(reversed(labels.shape)))
    affine = opened(image, image.name).affine if is_nifti(image) else np.eye(4)
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    file.write(header.binaryblock + b"\0" * 4)
    planes = max(1, _AT_ONCE // labels[0].nbytes)
    for start in range(0, len(labels), planes):
        file.write(np.ascontiguousarray(labels[start : start + planes]).tobytes())
