"""Pixel data as bytes: does its length fit its description, and where does it lie."""

import re
import struct
from dataclasses import dataclass

from privacy.deidentify import streams
from privacy.deidentify.reader import ENCAPSULATED, PIXEL_DATA, Element, Parsed
from privacy.deidentify.states import Refused

LARGEST_FRAME = 1 << 31  # pixels


@dataclass(frozen=True, slots=True)
class Shape:
    """How an object's pixels are laid out."""

    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    photometric: str

    @property
    def length(self) -> int:
        """Bytes of native pixel data, without padding."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return (self.frames * self.rows * self.columns * samples * self.allocated + 7) // 8


def find(parsed: Parsed) -> Element | None:
    """The object's pixel data element, None where it has none."""
    return parsed.top.get(PIXEL_DATA)


def _number(parsed: Parsed, tag: int, default: int) -> int:
    """The number at `tag`, -1 where what is there is none."""
    element = parsed.top.get(tag)
    if element is None:
        return default
    value = parsed.value(tag)
    if element[1] == b"IS" or tag == 0x00280008:
        text = value.strip(b" \0")
        return int(text) if re.fullmatch(rb"\d{1,9}", text) else default if not text else -1
    return struct.unpack((">" if parsed.big else "<") + "H", value)[0] if len(value) == 2 else -1


def shape(parsed: Parsed, most_pixels: int) -> Shape:
    """The layout; Refused where numbers are missing or impossible, or there are more than `most_pixels`."""
    rows, columns = _number(parsed, 0x00280010, 0), _number(parsed, 0x00280011, 0)
    frames, samples = _number(parsed, 0x00280008, 1), _number(parsed, 0x00280002, 1)
    allocated = _number(parsed, 0x00280100, 0)
    found = Shape(frames or 1, rows, columns, samples, allocated, parsed.text(0x00280004))
    if min(frames, samples) < 0 or min(rows, columns) < 1 or samples not in (1, 3, 4) or allocated not in (1, 8, 16, 32, 64):
        raise Refused("PIXEL_LENGTH")
    if rows * columns > LARGEST_FRAME or rows * columns * found.frames > most_pixels:
        raise Refused("PIXEL_BOMB")
    return found


def check(parsed: Parsed, element: Element, shape: Shape) -> None:
    """Refused("PIXEL_LENGTH") where the bytes present are not what the layout needs."""
    _, _, start, end, fragments = element
    if parsed.syntax in ENCAPSULATED:
        if fragments is None or len(fragments) - 1 < min(shape.frames, 1) or (shape.frames > 1 and len(fragments) - 1 < shape.frames):
            raise Refused("PIXEL_LENGTH")
        if any(begin == stop for begin, stop in fragments[1:]) or fragments[0][1] - fragments[0][0] not in (0, 4 * shape.frames):
            raise Refused("PIXEL_LENGTH")
    elif fragments is not None or (end - start) - shape.length not in (0, 1):
        raise Refused("PIXEL_LENGTH")


def header(tag_length: int, vr: bytes) -> bytes:
    """The head of the pixel data element in explicit VR little endian; length 0xFFFFFFFF where it is encapsulated."""
    return struct.pack("<HH2s2xI", 0x7FE0, 0x0010, vr, tag_length)


def _frames(data: bytes, fragments: list[tuple[int, int]], frames: int) -> list[list[tuple[int, int]]]:
    """The fragments of each frame.  Where there are more than frames, a frame starts with the mark of its stream."""
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    groups: list[list[tuple[int, int]]] = []
    for start, end in fragments:
        if data[start : start + 3] in (b"\xff\xd8\xff", b"\xff\x4f\xff") or not groups:
            groups.append([])
        groups[-1].append((start, end))
    if len(groups) != frames:
        raise Refused("PIXEL_LENGTH")
    return groups


def _silenced(parsed: Parsed, element: Element, shape: Shape) -> bytes:
    """The fragments with zeros for what is no part of the image, and a table of the offsets that are."""
    _, _, begin, end, fragments = element
    quiet = bytearray(parsed.data[begin:end])
    frames = _frames(parsed.data, fragments[1:], shape.frames)
    unpacked = shape.rows * shape.columns * shape.samples * shape.allocated // 8
    for pieces in frames:
        stream = b"".join([parsed.data[start:stop] for start, stop in pieces])
        for first, last in streams.beside(stream, parsed.syntax, unpacked):
            for start, stop in pieces:  # places count in the whole stream, pieces in the file
                here, there = start - begin + max(0, first), start - begin + min(last, stop - start)
                if here < there:
                    quiet[here:there] = bytes(there - here)
                first, last = first - (stop - start), last - (stop - start)
    table, origin = fragments[0], fragments[1][0]
    if table[0] != table[1]:
        offsets = [pieces[0][0] - origin for pieces in frames]
        quiet[table[0] - begin : table[1] - begin] = struct.pack(f"<{len(offsets)}I", *offsets)
    return bytes(quiet)


def native(data: bytes, allocated: int) -> list[bytes | memoryview]:
    """A pixel data element of new native bytes."""
    padding = len(data) % 2
    return [header(len(data) + padding, b"OW" if allocated > 8 else b"OB"), data, b"\0" * padding]


def pieces(parsed: Parsed, element: Element, shape: Shape) -> list[bytes | memoryview]:
    """The pixel data element as it is written: its own bytes, and nothing that follows them in the file."""
    _, vr, start, _, fragments = element
    if fragments is not None:
        return [header(0xFFFFFFFF, b"OB"), _silenced(parsed, element, shape)]
    length = shape.length
    data: bytes | memoryview = memoryview(parsed.data)[start : start + length]
    if parsed.big and shape.allocated > 8:
        import numpy as np

        size = shape.allocated // 8
        data = np.frombuffer(data, f">u{size}").astype(f"<u{size}").tobytes()
    kind = b"OW" if shape.allocated > 8 or parsed.syntax.endswith(".1.2") or vr == b"OW" else b"OB"
    return [header(length + length % 2, kind), data, b"\0" * (length % 2)]
