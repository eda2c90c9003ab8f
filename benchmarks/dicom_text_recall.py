"""Is every pixel of text that is burned into made-up images blanked, whatever the text looks like?

    python benchmarks/dicom_text_recall.py [--count 200] [--seed 0] [--fonts FOLDER] [--keep FOLDER]

Each image is drawn by name: a background (black, a fan of speckle as in ultrasound, a chest, anatomy of high contrast),
lines such as a scanner writes, in one of the fonts found, of 9 to 40 pixels, bright or dark, coloured or grey, plain or
in a box, at any place, upright or turned by 90, 180 or 270 degrees, and one of the ways in which DICOM stores pixels.
The truth is known: the pixels that drawing the text changed by half of its contrast or more.  Said for each image: the
share of those pixels that is still what it was, and how much of the image without text was blanked.  Exit code 1 where
any is left.  The figures are kept in benchmarks/results.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fedvision.seeds import stream

RESULTS = Path(__file__).parent / "results" / "dicom_text_recall.json"
BACKGROUNDS = ["black", "speckle", "chest", "bones"]
TURNS = [0, 0, 0, 90, 180, 270]
LAYOUTS = ["grey", "rgb", "16 bits", "inverted", "palette", "one frame of five", "rle", "jpeg", "jpeg 2000", "big endian"]
WORDS = ["SMITH^JANE", "Müller, Änne", "DOB 29/08/1951", "ID: 00079241539", "St. Mary's Hospital", "11:24:20", "MRN 4471-B", "F 068Y"]


@dataclass
class Drawn:
    """An image [rows, columns, 3] with text, the text's pixels [rows, columns] bool, and what is said of both."""

    picture: Any
    text: Any
    about: dict[str, Any]


def fonts(folder: Path) -> list[str]:
    """Outline fonts of Latin text, one file in three so that families differ; none: Pillow's own."""
    found = sorted(str(path) for path in folder.rglob("*.[to]tf"))
    return [path for path in found if not any(word in path for word in ("Symbol", "Dingbat", "D050", "Fallback", "MathTeX"))]


def background(kind: str, rows: int, columns: int, draw: np.random.Generator) -> Any:
    """[rows, columns] float, 0 ... 255."""
    y, x = np.mgrid[:rows, :columns]
    if kind == "black":
        return np.zeros((rows, columns))
    if kind == "speckle":
        angle, depth = np.arctan2(x - columns / 2, y + 20), np.hypot(x - columns / 2, y + 20)
        fan = (abs(angle) < 0.7) & (depth > 60) & (depth < rows * 0.95)
        return np.where(fan, np.clip(draw.rayleigh(45, (rows, columns)) * (0.4 + 0.6 * np.cos(depth / 40) ** 2), 0, 255), 0)
    if kind == "chest":
        lungs = np.exp(-(((x - columns * 0.3) / 90) ** 2) - ((y - rows / 2) / 150) ** 2) + np.exp(
            -(((x - columns * 0.7) / 90) ** 2) - ((y - rows / 2) / 150) ** 2
        )
        ribs = 18 * np.cos(y / 9 + abs(x - columns / 2) / 60)
        return np.clip(190 - 130 * lungs + ribs + draw.normal(0, 4, (rows, columns)), 0, 255)
    rings = sum(
        np.exp(-((np.hypot(x - columns * a, y - rows * b) - r) ** 2) / 18)
        for a, b, r in draw.uniform((0.2, 0.2, 20), (0.8, 0.8, 90), (6, 3))
    )
    return np.clip(35 + 200 * rings + draw.normal(0, 8, (rows, columns)), 0, 255)


def drawn(number: int, seed: int, choices: list[str]) -> Drawn:
    """Image `number` of a seed."""
    draw = stream(seed, "text", number)
    rows, columns = ((480, 640), (512, 512), (600, 800))[int(draw.integers(3))]
    kind = BACKGROUNDS[int(draw.integers(len(BACKGROUNDS)))]
    about: dict[str, Any] = {"number": number, "background": kind, "turn": TURNS[int(draw.integers(len(TURNS)))]}
    about |= {"size": int(draw.integers(9, 41)), "layout": LAYOUTS[number % len(LAYOUTS)], "lines": int(draw.integers(1, 4))}
    font = choices[int(draw.integers(len(choices)))] if choices else ""
    about |= {"font": Path(font).stem or "Pillow", "boxed": bool(draw.random() < 0.25), "contrast": int(draw.integers(60, 230))}
    if draw.random() < 0.25:
        about["colour"] = [int(n) for n in draw.integers(0, 256, 3)]
    picture = np.repeat(background(kind, rows, columns, draw)[..., None], 3, axis=2)
    text = np.zeros((rows, columns), bool)
    for _ in range(about["lines"]):
        picture, text = line(picture, text, font, about, draw)
    return Drawn(picture.round().astype(np.uint8), text, about)


def line(picture: Any, text: Any, font: str, about: dict[str, Any], draw: np.random.Generator) -> tuple[Any, Any]:
    """One more line of text, where there is room; darker than what is behind it where that is bright."""
    size = about["size"]
    face = ImageFont.truetype(font, size) if font else ImageFont.load_default(size)
    words = " ".join(WORDS[int(n)] for n in draw.choice(len(WORDS), int(draw.integers(1, 3)), replace=False))
    left, top, right, bottom = (int(n) for n in face.getbbox(words))
    stamp = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(stamp).text((1 - left, 1 - top), words, fill=255, font=face)
    alpha = np.rot90(np.asarray(stamp) / 255.0, about["turn"] // 90)
    rows, columns = text.shape
    if alpha.shape[0] >= rows - 4 or alpha.shape[1] >= columns - 4:
        return picture, text
    y, x = int(draw.integers(2, rows - alpha.shape[0] - 1)), int(draw.integers(2, columns - alpha.shape[1] - 1))
    here = (slice(y, y + alpha.shape[0]), slice(x, x + alpha.shape[1]))
    if text[here].any():
        return picture, text
    picture, text = picture.copy(), text.copy()
    if about["boxed"]:
        picture[max(0, y - 3) : y + alpha.shape[0] + 3, max(0, x - 3) : x + alpha.shape[1] + 3] = draw.choice([20, 235])
    behind = float(np.median(picture[here]))
    shade = behind + about["contrast"] if behind < 128 else behind - about["contrast"]
    colour = np.array(about.get("colour", [np.clip(shade, 0, 255)] * 3), float)
    if abs(colour @ [0.3, 0.59, 0.11] - behind) < 60:  # a colour that nobody could read there
        colour = np.full(3, np.clip(shade, 0, 255))
    before = picture[here].copy()
    picture[here] = before * (1 - alpha[..., None]) + colour * alpha[..., None]
    text[here] |= alpha >= 0.5
    return picture, text


def stored(image: Drawn) -> bytes:
    """A DICOM file of the image, in its layout."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

    layout, picture = image.about["layout"], image.picture
    grey = picture.mean(axis=2).round().astype(np.uint8)
    colour = layout in ("rgb", "rle", "jpeg", "jpeg 2000") and image.about["number"] // len(LAYOUTS) % 2 == 0
    pixels = picture if colour or layout == "rgb" else grey
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128), is_little_endian=layout != "big endian")
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if layout == "big endian" else ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.55.{image.about['number']}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID = "1.2.826.0.1.55.1.1", "1.2.826.0.1.55.1.2", "TEXT"
    dataset.Modality, dataset.ImageType = "US", ["ORIGINAL", "PRIMARY"]
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if pixels.ndim == 3 else (1, "MONOCHROME2")
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    if layout == "16 bits":
        pixels = pixels.astype(np.uint16) * 9 + 300
    elif layout == "big endian":
        pixels = pixels.astype(np.uint16) * 16
    elif layout == "inverted":
        dataset.PhotometricInterpretation, pixels = "MONOCHROME1", 255 - pixels
    elif layout == "one frame of five":
        plain = background(image.about["background"], *grey.shape, stream(0, "plain", image.about["number"]))
        pixels = np.stack([plain.round().astype(np.uint8)] * 5)
        pixels[3] = grey
        dataset.NumberOfFrames = 5
    elif layout == "palette":
        pixels = _palette(dataset, picture)
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsAllocated - 1, 0
    words = pixels.dtype.newbyteorder(">" if layout == "big endian" else "<")
    dataset.PixelData = pixels.astype(words).tobytes()
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    if layout == "rle":
        dataset.compress(RLELossless, pixels, generate_instance_uid=False)
    elif layout == "jpeg 2000":
        if colour:
            dataset.PhotometricInterpretation = "YBR_RCT"
        dataset.compress(JPEG2000Lossless, pixels, generate_instance_uid=False)
    elif layout == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
        dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PhotometricInterpretation = "YBR_FULL_422" if pixels.ndim == 3 else "MONOCHROME2"
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def _palette(dataset: Any, picture: Any) -> Any:
    """Indices [rows, columns] into a table of 256 colours, which is written into the data set out of order."""
    quantized = Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE)
    table = np.array(quantized.getpalette() or [], np.uint16).reshape(-1, 3)
    table = np.vstack([table, np.zeros((256 - len(table), 3), np.uint16)])
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for name, column in zip(("Red", "Green", "Blue"), table.T * 257, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", column.astype("<u2").tobytes())
    return np.asarray(quantized)


def judged(image: Drawn, before: bytes, after: bytes) -> dict[str, Any]:
    """The share of the text's pixels that are what they were, and the share of the other pixels that are not."""
    import pydicom

    old, new = (pydicom.dcmread(io.BytesIO(data)).pixel_array for data in (before, after))
    if image.about["layout"] == "one frame of five":
        old, new = old[3], new[3]
    same = (old == new) if old.ndim == 2 else (old == new).all(axis=2)
    # what was black before is black afterwards too; of letters that are black, what is around them tells
    left = float((image.text & ~_filled(~same, 8)).sum() / max(image.text.sum(), 1))
    return {"left": left, "blanked": float((~same & ~image.text).sum() / (~image.text).sum())}


def _filled(mask: Any, by: int) -> Any:
    """The mask without holes and gaps that are less than twice `by` wide; no further out than before."""
    import cv2

    padded = np.pad(mask.astype(np.uint8), 2 * by, mode="edge")
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((2 * by + 1, 2 * by + 1), np.uint8))
    return closed[2 * by : -2 * by, 2 * by : -2 * by] > 0


def main() -> None:
    """Draw the images, blank them, and say which have text left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts/truetype"))
    parser.add_argument("--keep", type=Path, help="a folder for pictures of what was left")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    from privacy.deidentify.instance import Deidentifier
    from privacy.deidentify.policy import Policy

    rows, choices = [], fonts(arguments.fonts)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / ".partial").mkdir()
        deidentifier = Deidentifier(bytes(range(32)), Policy(), out)
        for number in range(arguments.first, arguments.first + arguments.count):
            image = drawn(number, arguments.seed, choices)
            source = stored(image)
            (out / "image").write_bytes(source)
            begin = time.process_time()
            outcome = deidentifier(str(out / "image").encode())
            seconds = time.process_time() - begin
            row = image.about | {
                "code": outcome.code,
                "pixels": outcome.row.get("pixels", ""),
                "cpu": round(seconds, 2),
                "left": 0.0,
                "blanked": 0.0,
            }
            if outcome.partial:
                written = out / ".partial" / outcome.partial
                row |= judged(image, source, written.read_bytes())
                written.unlink()
            rows.append(row)
            if row["left"] or row["code"]:
                print(json.dumps(row), flush=True)
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image.picture).save(arguments.keep / f"{arguments.seed}-{number}.png")
    told(rows, arguments)
    sys.exit(any(row["left"] for row in rows))


def told(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print and keep what was found, also by each property of the images."""
    bad = sum(bool(row["left"]) for row in rows)
    print(f"{len(rows)} images, {bad} with text left, {sum(bool(row['code']) for row in rows)} held back")
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for key in ("background", "turn", "layout", "boxed"):
        groups[key] = defaultdict(list)
        for row in rows:
            groups[key][str(row[key])].append(row)
    found = {
        "images": len(rows),
        "with text left": bad,
        "held back": sum(bool(row["code"]) for row in rows),
        "share of other pixels blanked, mean": round(float(np.mean([row["blanked"] for row in rows])), 4),
        "CPU seconds an image, mean": round(float(np.mean([row["cpu"] for row in rows])), 2),
        "by": {
            key: {name: [sum(bool(r["left"]) for r in some), len(some)] for name, some in sorted(part.items())}
            for key, part in groups.items()
        },
    }
    print(json.dumps(found, indent=1))
    arguments.results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
