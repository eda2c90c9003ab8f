"""NIfTI volumes: [X,Y,Z] on disk, here [Z,Y,X], as numbers."""

from pathlib import Path
from typing import Any

import numpy as np

from fedvision.errors import CorruptImage, DataError


class NotFinite(CorruptImage):
    """A volume with voxels that are no numbers."""


def is_nifti(path: Path | str) -> bool:
    """Whether a file is one by its name."""
    return Path(path).name.lower().endswith((".nii", ".nii.gz"))


def volume(path: Path, name: str, window: list[float] | None) -> np.ndarray:
    """uint8 [C,Z,Y,X] of an image, its `window` (black, white) brought to 0..255; of a mask (None) its whole numbers, int64 [1,Z,Y,X].

    A fourth axis of the file is its channels.  CorruptImage where it does not read or holds what is no number, or where a mask holds
    fractions.
    """
    values = _read(path, name)
    if values.ndim not in {3, 4}:
        raise CorruptImage(f"{name} has {values.ndim} axes, and a volume has three, or four with channels")
    finite = np.isfinite(values)
    if not finite.all():
        where = np.argwhere(~finite)[0]
        raise NotFinite(
            f"{name} holds {values[tuple(where)]:g} at {where.tolist()}, and {int((~finite).sum()):,} voxels are no numbers in all"
        )
    values = (values if values.ndim == 4 else values[..., None]).transpose(3, 2, 1, 0)
    if window is not None:
        return windowed(values, window)
    whole = np.rint(values)
    if not np.array_equal(whole, values):
        raise CorruptImage(f"{name} holds {values[whole != values].flat[0]:g}: a mask holds whole numbers, those of its classes")
    return whole.astype(np.int64)


def windowed(values: np.ndarray, window: list[float]) -> np.ndarray:
    """uint8: `window` (black, white) brought to 0..255.

    >>> windowed(np.array([-5.0, 0.0, 50.0, 200.0]), [0.0, 100.0]).tolist()
    [0, 0, 128, 255]
    """
    black, white = window
    return np.clip(np.rint((values.astype(np.float32) - black) * (255 / (white - black))), 0, 255).astype(np.uint8)


def opened(path: Path, name: str) -> Any:
    """nibabel's image of a file, its numbers not read yet; CorruptImage where it is none, or holds what are no numbers."""
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
    except ImportError:
        raise DataError(f"{name} is a NIfTI file, and nibabel, which reads it, is not installed: pip install 'fedvision[nifti]'") from None
    try:
        image: Any = nibabel.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError) as error:
        raise CorruptImage(f"{name} does not read as NIfTI: {_first_line(error)}") from None
    if image.get_data_dtype().kind not in "iuf":
        raise CorruptImage(f"{name} holds {image.get_data_dtype()} a voxel, and a volume holds one number")
    return image


def toward(path: Path) -> str:
    """Where the axes of a volume point, e.g. RAS: to the right, to the front, upwards."""
    import nibabel

    return "".join(letter or "?" for letter in nibabel.aff2axcodes(opened(path, path.name).affine))


def same_place(one: Path, other: Path) -> str | None:
    """What is said where the voxels of two volumes of one shape do not lie at the same places: more than half a voxel apart."""
    first, second = opened(one, one.name), opened(other, other.name)
    ends = np.array(np.meshgrid(*[(0, side - 1) for side in first.shape[:3]], indexing="ij")).reshape(3, -1)
    apart = np.linalg.norm(
        (first.affine[:3, :3] - second.affine[:3, :3]) @ ends + (first.affine[:3, 3] - second.affine[:3, 3])[:, None], axis=0
    )
    voxel = np.linalg.norm(first.affine[:3, :3], axis=0).min()
    return (
        None if apart.max() <= voxel / 2 else f"their affines put voxels up to {apart.max():.3g} mm apart, and a voxel has {voxel:.3g} mm"
    )


def _read(path: Path, name: str) -> np.ndarray:
    import zlib

    image = opened(path, name)
    try:
        return np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise CorruptImage(f"{name} does not read as NIfTI: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
