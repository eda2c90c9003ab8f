"""Images and volumes of any size on disk, read in parts: .npy, TIFF, other pictures, NIfTI."""

import gzip
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedvision.data.decode import shown
from fedvision.data.nifti import is_nifti, windowed
from fedvision.data.nifti import opened as opened_volume
from fedvision.data.tiff import Tiff, is_tiff
from fedvision.errors import CorruptImage, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_ROWS = 256  # of a picture that are brought to its channels at a time
_WHOLE = 800 << 20  # bytes that a picture which cannot be read in parts may take, decoded whole
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "LA": 4}  # of a pixel in Pillow's memory; 4 in others
Where = tuple[slice, ...]


class Parts(Protocol):
    """An image on disk.  sides: without channels."""

    sides: tuple[int, ...]

    def part(self, where: Where) -> np.ndarray:
        """uint8 [C,...] of the pixels `where`."""


def opened(path: Path, channels: int, axes: int, window: list[float], scratch: Path) -> Parts:
    """An image (2 axes) or volume (3) as pixels of so many channels.  window: black and white of NIfTI files.

    scratch: a folder, in which what cannot be read in parts is laid out once.  DataError, or CorruptImage, for what cannot be used.
    """
    if not path.is_file():
        raise DataError(f"there is no image {path}")
    if is_nifti(path):
        return _Volume(path, channels, axes, window, scratch)
    if path.suffix == ".npy":
        return _Array(path, channels, axes)
    if axes == 3:
        raise DataError(f"{path} is a picture, and the model takes volumes: give a NIfTI file, or uint8 [D,H,W] in a .npy file")
    if channels not in {1, 3, 4}:
        raise DataError(f"{path} is a picture, and the model takes {channels} channels: give uint8 [H, W, {channels}] in a .npy file")
    if is_tiff(path):
        try:
            return _Tiled(path, channels)
        except ValueError:  # its pieces cannot be read one by one: as any other picture
            pass
    return _Array(_laid_out(path, channels, scratch / "image.npy"), channels, axes)


class _Array:
    """A .npy file, uint8 [...] or [...,C], mapped anew for each part: pages of a closed file leave the process."""

    def __init__(self, path: Path, channels: int, axes: int):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} does not read as an array: {error}") from None
        self.path, self.channels_last = path, array.ndim == axes + 1
        own = array.shape[-1] if self.channels_last else 1
        if array.dtype != np.uint8 or array.ndim not in {axes, axes + 1} or own != channels or not array.size:
            wanted = ["H", "W"] if axes == 2 else ["D", "H", "W"]
            shape = f"[{', '.join(wanted if channels == 1 else [*wanted, str(channels)])}]"
            raise DataError(f"{path} holds {array.dtype} {list(array.shape)}, and the model takes uint8 {shape}")
        self.sides = tuple(int(n) for n in array.shape[:axes])

    def part(self, where: Where) -> np.ndarray:
        return _channels_first(np.array(np.load(self.path, mmap_mode="r")[where]), self.channels_last)


class _Tiled:
    """A TIFF, a strip or tile at a time."""

    def __init__(self, path: Path, channels: int):
        self.file = Tiff(path, lambda picture: shown(picture, str(path), channels))
        self.sides: tuple[int, ...] = self.file.sides

    def part(self, where: Where) -> np.ndarray:
        piece = self.file.part(where)
        return _channels_first(piece, piece.ndim == 3)


class _Volume:
    """A NIfTI file, [X,Y,Z] or [X,Y,Z,C] on disk, as [C,Z,Y,X]; one that is compressed is laid out once."""

    def __init__(self, path: Path, channels: int, axes: int, window: list[float], scratch: Path):
        if axes == 2:
            raise DataError(f"{path} is a volume, and the model takes pictures: bring its slices to uint8 [H,W] in .npy files")
        self.given, self.window = path, window  # `given` is what errors name
        self.path = _unpacked(path, scratch / "volume.nii") if path.name.lower().endswith(".gz") else path
        shape = opened_volume(self.path, str(path)).shape
        own = shape[3] if len(shape) == 4 else 1
        if len(shape) not in {3, 4} or own != channels or 0 in shape:
            raise DataError(
                f"{path} holds {list(shape)}, and the model takes volumes [X, Y, Z] of {channels} channel{'s' * (channels > 1)}"
            )
        self.sides: tuple[int, ...] = tuple(int(n) for n in reversed(shape[:3]))

    def part(self, where: Where) -> np.ndarray:
        try:
            values = np.asarray(opened_volume(self.path, str(self.given)).dataobj[tuple(reversed(where))])
        except (OSError, EOFError, ValueError) as error:
            raise CorruptImage(f"{self.given} does not read as NIfTI: {error}") from None
        if not np.isfinite(values).all():
            at = [int(n) + w.start for n, w in zip(np.argwhere(~np.isfinite(values))[0], reversed(where), strict=False)]
            raise CorruptImage(f"{self.given} holds what is no number at {at}")
        return windowed((values if values.ndim == 4 else values[..., None]).transpose(3, 2, 1, 0), self.window)


def _channels_first(piece: np.ndarray, last: bool) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(piece, -1, 0)) if last else piece[None]


def _unpacked(path: Path, target: Path) -> Path:
    try:
        with gzip.open(path) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorruptImage(f"{path} does not unpack: {error}") from None
    return target


def _laid_out(path: Path, channels: int, target: Path) -> Path:
    """A picture, decoded once, as .npy; DataError where decoding it would take more memory than _WHOLE."""
    with _decoded(path) as picture:
        width, height = picture.size
        with target.open("wb") as file:  # written, not mapped: a mapped file's pages would stay in memory beside the picture
            shape = (height, width) if channels == 1 else (height, width, channels)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for top in range(0, height, _ROWS):
                rows = shown(picture.crop((0, top, width, min(top + _ROWS, height))), str(path), channels)
                file.write(np.ascontiguousarray(rows).tobytes())
    return target


@contextmanager
def _decoded(path: Path) -> Iterator[Any]:
    """A picture, upright; CorruptImage where it does not decode, DataError where it is too large to be decoded whole."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                turned = file.getexif().get(0x0112, 1) != 1
                needed = _needed(file, turned)
                if needed > _WHOLE:
                    raise _too_large(path, f"{needed >> 20:,} MB")
                yield ImageOps.exif_transpose(file) if turned else file
    except Image.DecompressionBombError:
        raise _too_large(path, "more than Pillow takes") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptImage(f"{path} does not decode as an image: {error}") from None


def _needed(picture: "Image", turned: bool) -> int:
    """Bytes that a picture takes while it is decoded whole."""
    strip = 0  # libtiff holds the piece that it decodes beside the picture: of a TIFF that is read here, perhaps all of it
    if picture.format == "TIFF":
        strip = len(picture.getbands()) * max(picture.tag_v2.get(258, (8,))) // 8 or 1  # type: ignore[attr-defined]
    return picture.width * picture.height * (_BYTES.get(picture.mode, 4) * (1 + turned) + strip)  # turning makes a second one


def _too_large(path: Path, needed: str) -> DataError:
    return DataError(
        f"{path} cannot be read in parts, and to decode it whole takes {needed}, where {_WHOLE >> 20:,} MB are the limit: give it as a TIFF in "
        "tiles (`vips tiffsave IN OUT.tif --tile --compression deflate`) or as uint8 in a .npy file"
    )
