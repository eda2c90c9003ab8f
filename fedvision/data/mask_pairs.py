"""One image with its mask, read from files, or named as what is wrong with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedvision.augment import UNKNOWN
from fedvision.data.coco_masks import Marked, painted
from fedvision.data.decode import MOST_PIXELS, decoded, shown
from fedvision.data.masks import pixels_by_class
from fedvision.data.nifti import NotFinite, is_nifti, same_place, volume
from fedvision.data.resize import of_depth, resized, resized_masks
from fedvision.errors import CorruptImage, DataError

if TYPE_CHECKING:
    from fedvision.holdings import MaskFolder

Of = str | Marked | None  # where the mask of an image is: a file, an image of a COCO file, or nowhere


@dataclass
class Pairs:
    """What is to be read: image and mask by name under the root, and what else is known, in the same order."""

    images: list[str] = field(default_factory=list)
    masks: list[Of] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Bad(DataError):
    """An image with its mask that cannot be used.  kind: why, in the words that are counted."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def read_pair(root: Path, name: str, of: Of, data: "MaskFolder") -> tuple[np.ndarray, np.ndarray]:
    """One image uint8 [C,H,W] or [C,D,H,W] and its mask uint8; Bad for what is wrong with it."""
    its = of.name if isinstance(of, Marked) else of
    if not (root / name).is_file():
        raise Bad("their image is missing", f"there is no image {name}")
    if of is None or (isinstance(of, str) and not (root / of).is_file()):
        raise Bad("their mask is missing", f"{name} has no mask{'' if of is None else f' {of}'}")
    try:
        image = volume(root / name, name, data.window) if is_nifti(name) else _picture(root / name, name, data.channels)
    except NotFinite as error:
        raise Bad("their image holds what is no number", str(error)) from None
    except CorruptImage as error:
        raise Bad("their image does not decode", str(error)) from None
    if isinstance(of, Marked) and of.odd:
        raise Bad("a class is out of range", of.odd[0])
    try:
        values = _values(root, of)
    except CorruptImage as error:
        raise Bad("their mask does not decode", str(error)) from None
    if values.shape != image.shape[1:]:
        raise Bad(
            "their mask is of another size", f"{name} has {sides(image.shape)} pixels, and its mask {its} {sides((1, *values.shape))}"
        )
    if isinstance(of, str) and is_nifti(name) and is_nifti(of) and (said := same_place(root / name, root / of)):
        raise Bad("their mask lies elsewhere in space", f"{name} and its mask {of}: {said}")
    mask = values.astype(np.uint8) if isinstance(of, Marked) else _numbered(values, str(of), data)
    if data.on_empty != "keep" and not pixels_by_class(mask[None], len(data.classes))[0, 1:].any():
        raise Bad("their mask is empty", f"{its} shows no class but {data.classes[0]}")
    if data.depth is not None and mask.ndim == 3:
        image, mask = of_depth(image, data.depth, 0), of_depth(mask, data.depth, UNKNOWN)
    if data.image_size is not None:
        image, mask = resized(image[None], data.image_size)[0], resized_masks(mask[None], data.image_size)[0]
    return image, mask


def sides(shape: tuple[int, ...]) -> str:
    """Of [C,H,W] or [C,D,H,W], the first named last: width × height.

    >>> sides((3, 9, 7))
    '7 × 9'
    """
    return " × ".join(map(str, reversed(shape[1:])))


def _picture(path: Path, name: str, channels: int) -> np.ndarray:
    """uint8 [C,H,W].  Of four channels the file's own, alpha or near infrared, are taken as they are."""
    try:
        image = decoded(path, name, None, 3 if channels == 4 else channels)[0]
    except CorruptImage:
        raise
    except DataError as error:  # it may not be read, or holds 32-bit numbers
        raise CorruptImage(str(error)) from None
    if channels != 4:
        return image
    from PIL import Image

    with Image.open(path) as file:
        return shown(file, name, channels).transpose(2, 0, 1)


def _values(root: Path, of: str | Marked) -> np.ndarray:
    """The values of a mask, whole numbers [H,W] or [D,H,W], as they stand where it is kept: of a palette the numbers, not the colours."""
    if isinstance(of, Marked):
        return painted(of)
    if is_nifti(of):
        return volume(root / of, of, None)[0]
    from PIL import Image, ImageOps

    try:
        with Image.open(root / of) as file:
            if file.size[0] * file.size[1] > MOST_PIXELS:
                raise CorruptImage(f"{of}: {file.size[0]} × {file.size[1]} pixels are more than {MOST_PIXELS:,}")
            if file.mode not in {"1", "L", "P", "I;16", "I;16B", "I"}:
                raise CorruptImage(
                    f"{of} has the channels {', '.join(file.getbands())}: a mask has one, whose values are numbers of classes"
                )
            values = np.asarray(ImageOps.exif_transpose(file))
            return values.astype(np.uint8) if values.dtype == bool else values
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptImage(f"{of} does not decode as a mask: {error}") from None


def _numbered(values: np.ndarray, name: str, data: "MaskFolder") -> np.ndarray:
    """The mask with classes from 0 and UNKNOWN; Bad where a value is of no class."""
    given = data.known
    mask = np.full(values.shape, UNKNOWN, np.uint8)
    known = np.isin(values, data.unknown)
    for k, value in enumerate(given):
        mask[values == value] = k
        known |= values == value
    if not known.all():
        odd = int(values[~known].flat[0])
        raise Bad(
            "a class is out of range",
            f"{name} holds {odd} at {np.argwhere(~known)[0].tolist()}, and its classes have the values {', '.join(map(str, given))} (data.values), "
            f"{', '.join(map(str, data.unknown)) or 'none'} standing for what is not known (data.ignore)",
        )
    return mask
