"""NIfTI volumes: [X,Y,Z] on disk, here [Z,Y,X], as numbers."""

from pathlib import Path

import numpy as np

from fedvision.errors import CorruptImage, DataError


def is_nifti(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def volume(path: Path, name: str, window: list[float] | None) -> np.ndarray:
    """uint8 [C,Z,Y,X] of an image, its `window` (black, white) brought to 0..255; of a mask (None) its whole numbers, int64 [1,Z,Y,X].

    A fourth axis of the file is its channels.  CorruptImage where it does not read, or where a mask holds fractions.
    """
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    except ImportError:
        raise DataError(f"{name} is a NIfTI file, and nibabel, which reads it, is not installed: pip install nibabel") from None
    import zlib

    try:
        values = np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise CorruptImage(f"{name} does not read as NIfTI: {str(error).splitlines()[0]}") from None
    if values.ndim not in {3, 4}:
        raise CorruptImage(f"{name} has {values.ndim} axes, and a volume has three, or four with channels")
    values = (values if values.ndim == 4 else values[..., None]).transpose(3, 2, 1, 0)
    if window is not None:
        black, white = window
        return np.clip(np.rint((values.astype(np.float32) - black) * (255 / (white - black))), 0, 255).astype(np.uint8)
    whole = np.rint(values)
    if not np.array_equal(whole, values):
        raise CorruptImage(f"{name} holds {values[whole != values].flat[0]:g}: a mask holds whole numbers, those of its classes")
    return whole.astype(np.int64)
