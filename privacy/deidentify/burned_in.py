"""Text that is burned into pixels: found by OCR, blanked, and looked for again, frame by frame.

Objects of the classes at risk, and whatever a header calls derived, secondary or annotated, are looked at in every
frame; no header switches it off.  First, the regions that an ultrasound calibrates keep their pixels and everything
around them goes black, and what OCR finds in three frames and in the brightest and darkest of all frames, or in their negatives, goes too.
Then every frame is looked at again, at another scale, until nothing more is found.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from typing import Any

from privacy.deidentify.lettering import FIRST_SIDE, SECOND_SIDE, SMALLEST_TEXT, find, marks, reads
from privacy.deidentify.modules import AT_RISK
from privacy.deidentify.pixels import Shape
from privacy.deidentify.reader import DEFLATED, ENCAPSULATED, EXPLICIT, Element, Parsed
from privacy.deidentify.states import Refused

PASSES = 4


@dataclass(slots=True)
class Looked:
    """What became of an object's pixels.  `native` and `changes` where they were blanked: the new bytes, and the
    elements that describe them, by tag."""

    state: str
    boxes: int = 0
    share: float = 0.0
    native: bytes = b""
    changes: dict[int, int | str] = field(default_factory=dict)
    mask: Any = None


def available() -> bool:
    """Whether OCR is installed."""
    return importlib.util.find_spec("rapidocr") is not None and importlib.util.find_spec("onnxruntime") is not None


def at_risk(parsed: Parsed, name: str) -> bool:
    """Whether every frame has to be looked at: by class, or because a header says more than "original, primary".

    An enhanced object is a whole series, and has to say that there is no text in it (PS3.3 C.8.15.2, C.8.13.1).
    """
    if name in AT_RISK or name.endswith("enhanced"):
        return True
    if name.startswith("RT") or name == "SEG":
        return False
    kind = parsed.text(0x00080008).upper().split("\\")
    original = len(kind) >= 2 and kind[0].strip() in ("ORIGINAL", "MIXED") and kind[1].strip() == "PRIMARY"
    return not original or parsed.text(0x00280301) == "YES" or bool(parsed.text(0x00080064))


def look(parsed: Parsed, name: str, element: Element, shape: Shape) -> Looked:
    """Look at every frame, blank what is found.  Refused where the pixels do not decode, or text stays."""
    import numpy as np

    if min(shape.rows, shape.columns) < SMALLEST_TEXT:
        return Looked("checked")
    stored, about = decoded(parsed, element, shape)
    mask = outside_regions(parsed, shape) if name == "US" else np.zeros((shape.rows, shape.columns), bool)
    seen = Views(parsed, shape, about)
    boxes = 0
    for frame in _chosen(stored, np):
        boxes += _add(mask, frame, seen, FIRST_SIDE, negative=True)
    for number in range(len(stored)):
        for attempt in range(PASSES + 1):
            side = SECOND_SIDE if attempt % 2 == 0 else FIRST_SIDE
            found = _add(mask, blanked(stored[number], mask, seen), seen, side, keen=attempt == 0)
            boxes += found
            if not found:
                break
            if attempt == PASSES:
                raise Refused("TEXT_REMAINS")
    if not mask.any():
        return Looked("checked")
    new = np.stack([blanked(frame, mask, seen) for frame in stored])
    changes: dict[int, int | str] = {
        0x00280004: about["photometric_interpretation"],
        0x00280100: new.dtype.itemsize * 8,
    }
    if shape.samples > 1:
        changes[0x00280006] = 0
    return Looked("blanked", boxes, float(mask.mean()), new.astype(new.dtype.newbyteorder("<")).tobytes(), changes, mask)


def sample(parsed: Parsed, element: Element, shape: Shape) -> bool:
    """Whether some frames of an original CT, MR or PT object hold text that reads as such: what makes a whole series
    one that has to be looked at.  Boxes that do not read are no reason: anatomy has edges too."""
    import numpy as np

    if min(shape.rows, shape.columns) < SMALLEST_TEXT:
        return False
    stored, about = decoded(parsed, element, shape)
    seen = Views(parsed, shape, about)
    for frame in _chosen(stored, np):
        for image in seen.of(frame):
            if any(reads(image, box, least=3, score=0.8) for box in find(image, FIRST_SIDE)):
                return True
    return False


def _chosen(stored: Any, np: Any) -> list[Any]:
    """The first, the middle and the last frame, and the brightest and the darkest value of each pixel over all."""
    if len(stored) == 1:
        return [stored[0]]
    few = [stored[number] for number in sorted({0, len(stored) // 2, len(stored) - 1})]
    return [*few, np.max(stored, axis=0), np.min(stored, axis=0)]


def _add(mask: Any, frame: Any, seen: "Views", side: int, keen: bool = True, negative: bool = False) -> int:
    """Find text in a frame and add it to the mask; how many boxes lay, at least in part, outside the mask.

    negative: look at the frame's negative too, in which the model reads dark letters across bright edges.
    """
    new = 0
    for image in seen.of(frame):
        found = find(image, side, keen) + marks(image) + (find(255 - image, side, keen) if negative else [])
        for left, top, right, bottom in found:
            part = mask[top:bottom, left:right]
            if part.size and part.mean() < 0.98:
                part[...] = True
                new += 1
    return new


# ------------------------------------------------------------------------------------------------------------ pixels


def decoded(parsed: Parsed, element: Element, shape: Shape) -> tuple[Any, dict[str, Any]]:
    """Stored values [frames, rows, columns(, samples)] as the decoder gives them, and what it says about them."""
    import struct

    import numpy as np
    from pydicom.pixels import get_decoder

    dataset = description(parsed, element, shape)
    try:
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
        frames = list(decoder.iter_array(dataset, raw=True))
    except (
        ValueError,
        RuntimeError,
        AttributeError,
        NotImplementedError,
        TypeError,
        KeyError,
        IndexError,
        OSError,
        struct.error,
    ):
        raise Refused("PIXELS_UNREADABLE") from None  # what decoders raise holds no promise, and may quote the file
    arrays = [array for array, _ in frames]
    if len(arrays) != shape.frames or any(array.shape[:2] != (shape.rows, shape.columns) for array in arrays):
        raise Refused("PIXELS_UNREADABLE")
    about = dict(frames[0][1])
    if about["photometric_interpretation"] == "YBR_FULL_422":  # decoded, every pixel has its own colour
        about["photometric_interpretation"] = "YBR_FULL"
    return np.stack(arrays), about


def description(parsed: Parsed, element: Element, shape: Shape) -> Any:
    """A data set of what a decoder needs, and nothing else of the file."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    sys.modules.setdefault("dl", None)  # type: ignore[arg-type]  # a module that gdcm would take from any folder of this name
    dataset, dataset.file_meta = Dataset(), FileMetaDataset()
    syntax = EXPLICIT if parsed.syntax == DEFLATED else parsed.syntax
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = shape.rows, shape.columns, shape.samples
    dataset.BitsAllocated, dataset.PhotometricInterpretation = shape.allocated, shape.photometric
    dataset.NumberOfFrames = shape.frames
    for tag, keyword, default in (
        (0x00280101, "BitsStored", shape.allocated),
        (0x00280103, "PixelRepresentation", 0),
        (0x00280006, "PlanarConfiguration", 0),
    ):
        value = parsed.value(tag)
        number = int.from_bytes(value[:2], "big" if parsed.big else "little") if len(value) == 2 else default
        if keyword != "PlanarConfiguration" or shape.samples > 1:
            setattr(dataset, keyword, number)
    _, vr, start, end, fragments = element
    dataset.PixelData = parsed.data[start:end]
    dataset["PixelData"].VR = "OB" if fragments is not None else vr.decode() if vr in (b"OB", b"OW") else "OW"
    dataset["PixelData"].is_undefined_length = syntax in ENCAPSULATED
    dataset._read_charset = "utf-8"  # type: ignore[attr-defined]
    return dataset


def blanked(frame: Any, mask: Any, seen: "Views") -> Any:
    """A copy of a frame that is black where the mask is."""
    new = frame.copy()
    new[mask] = seen.black
    return new


def outside_regions(parsed: Parsed, shape: Shape) -> Any:
    """True outside the calibrated regions (0018,6011) of an ultrasound; nowhere, where there are none that can be."""
    import numpy as np

    mask = np.zeros((shape.rows, shape.columns), bool)
    sequence = parsed.top.get(0x00186011)
    if sequence is None or not sequence[4]:
        return mask
    inside = np.zeros_like(mask)
    for item in sequence[4]:
        corner = [_unsigned(parsed, item, tag) for tag in (0x00186018, 0x0018601A, 0x0018601C, 0x0018601E)]
        if None not in corner:
            left, top, right, bottom = (int(number or 0) for number in corner)
            inside[top : bottom + 1, left : right + 1] = True
    return ~inside if inside.mean() > 0.05 else mask


def _unsigned(parsed: Parsed, item: list[Element], tag: int) -> int | None:
    value = next((parsed.data[start:end] for found, _, start, end, _ in item if found == tag), b"")
    return int.from_bytes(value, "big" if parsed.big else "little") if len(value) == 4 else None


class Views:
    """Frames as 8-bit colour images, as a person or an OCR would see them; and what is black in the stored values."""

    def __init__(self, parsed: Parsed, shape: Shape, about: dict[str, Any]):
        self.photometric = about["photometric_interpretation"]
        self.palette = _palette(parsed) if self.photometric == "PALETTE COLOR" else None
        self.black: Any = 0
        if self.photometric.startswith("YBR"):
            self.black = (0, 128, 128) if shape.allocated == 8 else (0, 1 << (shape.allocated - 1), 1 << (shape.allocated - 1))
        elif self.photometric == "MONOCHROME1":
            stored = int.from_bytes(parsed.value(0x00280101)[:2], "big" if parsed.big else "little")
            signed = parsed.value(0x00280103)[:2].strip(b"\0") != b""
            self.black = (1 << (stored - 1 if signed else stored)) - 1
        elif self.palette is not None:
            self.black = int(self.palette.sum(axis=1, dtype=int).argmin())
        self.inverted = self.photometric == "MONOCHROME1"

    def of(self, frame: Any) -> list[Any]:
        """[rows, columns, 3] uint8, one image, or two where the range of the values hides one in the other."""
        import numpy as np
        from pydicom.pixels import convert_color_space

        if self.palette is not None:
            return [self.palette[np.clip(frame, 0, len(self.palette) - 1)]]
        if frame.ndim == 3:
            colour = frame if frame.dtype == np.uint8 else (frame >> (8 * frame.dtype.itemsize - 8)).astype(np.uint8)
            if self.photometric.startswith("YBR"):
                colour = convert_color_space(colour, "YBR_FULL", "RGB")
            return [np.ascontiguousarray(colour[..., :3])]
        values = frame.astype(np.float32)
        low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
        least, most = float(values.min()), float(values.max())
        ranges = [(least, most)]
        if high > low and (most - least) > 1.5 * (high - low):
            ranges.append((low, high))
        return [_grey(values, *limits, self.inverted, np) for limits in ranges]


def _grey(values: Any, low: float, high: float, inverted: bool, np: Any) -> Any:
    scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255
    image = (255 - scaled if inverted else scaled).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2)


def _palette(parsed: Parsed) -> Any:
    """[entries, 3] uint8; None where the tables are segmented or cannot be read: the values are looked at as grey
    then."""
    import numpy as np

    columns = []
    for tag in (0x00281201, 0x00281202, 0x00281203):
        data, descriptor = parsed.value(tag), parsed.value(tag - 0x100)
        entries = int.from_bytes(descriptor[:2], "big" if parsed.big else "little") or 65536
        if len(data) >= 2 * entries:
            columns.append((np.frombuffer(data[: 2 * entries], ">u2" if parsed.big else "<u2") >> 8).astype(np.uint8))
        elif len(data) >= entries:
            columns.append(np.frombuffer(data[:entries], np.uint8))
    if len(columns) == 3 and len({len(column) for column in columns}) == 1 and any(column.any() for column in columns):
        return np.stack(columns, axis=1)
    return None


def unchanged_outside(parsed: Parsed, element: Element, shape: Shape, written: bytes, mask: Any) -> bool:
    """The second opinion on blanked pixels: decoded anew, they equal the original's outside the mask, and inside it
    nothing is left but one value."""
    import numpy as np

    stored, _ = decoded(parsed, element, shape)
    new = np.frombuffer(written[: stored.nbytes], stored.dtype.newbyteorder("<")).reshape(stored.shape)
    inside = new[:, mask]
    return bool(np.array_equal(new[:, ~mask], stored[:, ~mask]) and (inside == inside[:1, :1]).all())
