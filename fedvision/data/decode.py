"""One image file to uint8, whatever it is: grey, colour, palette, alpha, 16 bits, turned by EXIF, or broken."""

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision.errors import CorruptImage, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB; more in one file is taken for a decompression bomb
# Pillow's readers meet broken files in many ways: each of these was raised by some truncated or garbled image.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, OverflowError, struct.error, zlib.error)


def decoded(path: Path, name: str, side: int | None, channels: int) -> tuple[np.ndarray, int]:
    """The image as uint8 [channels,H,W], stretched to side × side where a side is given; and its largest 16-bit value.

    Grey from colour is Rec. 601 luma; colour from grey repeats it; what is transparent shows white; of several frames
    the first is taken; 16 bits become 8 by 255 / 65535 of the full scale, never by what the image happens to hold.
    The second value is 0 for an image of 8 bits.  CorruptImage where it does not decode; DataError where it is no file
    or holds 32-bit numbers.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            pixels = file.size[0] * file.size[1]
            if pixels > MOST_PIXELS:
                raise CorruptImage(f"{name}: {file.size[0]} × {file.size[1]} pixels are more than {MOST_PIXELS:,}")
            grey_or_colour, largest = _in_8_bits(ImageOps.exif_transpose(file), name)
            picture = grey_or_colour.convert("L" if channels == 1 else "RGB")
            if side is not None and picture.size != (side, side):
                picture = picture.resize((side, side), Image.Resampling.BILINEAR)
            image = np.asarray(picture)
    except Image.DecompressionBombError as error:
        raise CorruptImage(f"{name}: {error}") from None
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from None
    except _BROKEN as error:
        raise CorruptImage(f"{name} does not decode as an image: {_why(path, error)}") from None
    return (image[None] if channels == 1 else image.transpose(2, 0, 1)), largest


def shown(picture: "Image", name: str, channels: int) -> np.ndarray:
    """An opened image, or a part of one, as `decoded` gives it: uint8 [H,W] of 1 channel, [H,W,3] of 3; of 4 the file's own [H,W,4]."""
    if channels == 4:
        if len(picture.getbands()) != 4:
            raise CorruptImage(f"{name} has the channels {', '.join(picture.getbands())}, and four are wanted")
        return np.asarray(picture)
    grey_or_colour, mode = _in_8_bits(picture, name)[0], "L" if channels == 1 else "RGB"
    return np.asarray(grey_or_colour if grey_or_colour.mode == mode else grey_or_colour.convert(mode))


def _in_8_bits(picture: "Image", name: str) -> tuple["Image", int]:
    """`picture` as grey or colour of 8 bits without transparency, and its largest value if it had 16 bits."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint16)
        return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)), int(values.max())
    if picture.mode in {"I", "F"}:
        kind = "integers" if picture.mode == "I" else "floats"
        raise DataError(f"{name} holds 32-bit {kind}, whose black and white are not known: convert it to 8 or 16 bits")
    if picture.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in picture.info:
        shown = picture.convert("RGBA")
        white = Image.new("RGBA", shown.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, shown).convert("RGB"), 0
    return (picture if picture.mode in {"L", "1"} else picture.convert("RGB")), 0


def _why(path: Path, error: BaseException) -> str:
    if path.stat().st_size == 0:
        return "the file is empty"
    if type(error).__name__ == "UnidentifiedImageError":
        return f"no known image format (its first bytes are {path.open('rb').read(8)!r})"
    return str(error) or type(error).__name__
