"""Compressed frames, walked to their last byte: what they hold beside the image.

A decoder skips comments, application data, reserved segments, and whatever lies behind the end of an image; a name
could stand in any of them.  `beside` gives their places.  JPEG and JPEG-LS: ISO 10918-1 annex B, ISO 14495-1 annex C;
JPEG 2000: ISO 15444-1 annex A; RLE: PS3.5 annex G.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice

from privacy.deidentify.states import Refused

MOST = 100_000  # segments of one frame that are no part of the image
RLE = "1.2.840.10008.1.2.5"
JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))

Places = Iterator[tuple[int, int]]  # [start, end) of bytes that are to become zeros

_FILL = re.compile(rb"\xff+")  # a marker is FF and another byte, with any number of FF before it
_AFTER_SCAN = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")  # in a scan, FF is followed by a byte of data or a restart marker
_NO_PACKET = re.compile(rb"\xff[\x90\x93-\xff]")  # among packets, only the marks of their starts and heads' ends (A.8)
_STANDALONE = frozenset([0x01, *range(0xD0, 0xD8)])
_FRAMES = frozenset([*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7])
_TABLES = frozenset([0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xF8])  # with _FRAMES, all segments that say something of the image
_WAVELETS = frozenset(b"\x50\x51\x52\x53\x55\x57\x58\x59\x5c\x5d\x5e\x5f\x60\x61\x63")


def beside(frame: bytes, syntax: str, length: int) -> list[tuple[int, int]]:
    """The places in one compressed frame that are no part of the image; `length`: of the frame, decompressed, in
    bytes.  Refused("PIXELS_UNREADABLE") where it cannot be walked."""
    walk: Callable[[bytes], Places] = _wavelets if syntax in JPEG_2000 else _jpeg
    try:
        found = list(islice(_runs(frame, length) if syntax == RLE else walk(frame), MOST + 1))
    except IndexError:
        raise _broken() from None
    if len(found) > MOST:
        raise _broken()
    return [(start, end) for start, end in found if start < end]


def _broken() -> Refused:
    return Refused("PIXELS_UNREADABLE")


def _jpeg(data: bytes) -> Places:
    if data[:2] != b"\xff\xd8":
        raise _broken()
    here = 2
    while True:
        fill = _FILL.match(data, here)
        if fill is None:
            raise _broken()
        here = fill.end() - 1
        marker = data[here + 1]
        if marker == 0xD9:
            yield here + 2, len(data)
            return
        if marker in _STANDALONE:
            here += 2
            continue
        start, here = here + 4, here + 2 + int.from_bytes(data[here + 2 : here + 4], "big")
        if here < start or here > len(data) or marker in (0, 0xD8):
            raise _broken()
        segment = data[start:here]
        if marker in _FRAMES or marker in _TABLES:
            if not _exact(marker, segment):
                raise _broken()
        else:
            yield start + _known(marker, segment), here
        if marker == 0xDA:
            end = _AFTER_SCAN.search(data, here)
            if end is None:  # cut before its end marker; decoders take it as it is
                return
            here = end.start()


def _known(marker: int, segment: bytes) -> int:
    """How many bytes of an application segment tell how to decode the colours, or the pixels' shape."""
    if marker == 0xE0 and segment[:5] == b"JFIF\0":
        return 14
    if marker == 0xEE and segment[:5] == b"Adobe":
        return 12
    if marker == 0xE8:  # of JPEG-LS: a colour transform, or a SPIFF header and the mark of its end
        return 5 if segment[:4] == b"mrfx" else 30 if segment[:6] == b"SPIFF\0" else 6 * (segment == b"\0\0\0\1\xff\xd8")
    return 0


def _exact(marker: int, segment: bytes) -> bool:
    """Whether a segment is as long as what it says needs, so that nothing hides behind that."""
    size = len(segment)
    if marker in _FRAMES:
        return size >= 6 and size == 6 + 3 * segment[5]
    if marker == 0xDA:
        return size >= 1 and size == 4 + 2 * segment[0]
    here = 0
    while marker == 0xDB and here < size:
        here += 65 + 64 * (segment[here] >> 4 & 1)
    while marker == 0xC4 and here < size:
        here += 17 + sum(segment[here + 1 : here + 17])
    return here == size if marker in (0xDB, 0xC4) else size <= 4 if marker in (0xDC, 0xDD) else True


def _wavelets(data: bytes) -> Places:
    if data[:2] != b"\xff\x4f":
        raise _broken()
    here, tile = 2, 0
    while True:
        if data[here] != 0xFF:
            raise _broken()
        marker = data[here + 1]
        if marker == 0xD9:
            yield here + 2, len(data)
            return
        if marker == 0x93:  # a tile-part's data, to where the tile-part ends; in them FF is followed by 8F at most
            if tile and (tile < here + 2 or _NO_PACKET.search(data, here + 2, tile)):
                raise _broken()
            here = tile or data.find(b"\xff\xd9", here)
            if here < 0 or here >= len(data):  # cut before its end marker
                return
            tile = 0
            continue
        start, after = here + 4, here + 2 + int.from_bytes(data[here + 2 : here + 4], "big")
        if after < start or after > len(data):
            raise _broken()
        if marker == 0x90:
            size = int.from_bytes(data[here + 6 : here + 10], "big")
            tile = here + size if size else 0
            if after != here + 12 or (tile and tile < after):
                raise _broken()
        elif marker not in _WAVELETS:
            yield start + 2 * (marker == 0x64), after  # a comment's first two bytes say what it is, text or not
        here = after


def _runs(data: bytes, length: int) -> Places:
    """RLE: 64 bytes that say where up to 15 segments start; each unpacks to as many bytes as the frame has pixels."""
    count = int.from_bytes(data[:4], "little")
    if not 1 <= count <= 15 or len(data) < 64 or length % count:
        raise _broken()
    starts = [int.from_bytes(data[4 * n : 4 * n + 4], "little") for n in range(1, count + 1)]
    if starts != sorted(set(starts)) or starts[0] < 64:
        raise _broken()
    yield 4 + 4 * count, starts[0]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        yield _unpacked(data, start, end, length // count), end


def _unpacked(data: bytes, here: int, end: int, wanted: int) -> int:
    """Where the runs that give `wanted` bytes end (PS3.5 G.3)."""
    while wanted > 0 and here < end:
        step = data[here]
        if step < 128:
            if step >= wanted:  # the last of these bytes belong to nothing
                return here + 1 + wanted
            wanted -= step + 1
            here += step + 2
        elif step > 128:
            wanted -= 257 - step
            here += 2
        else:
            here += 1
    if wanted > 0:
        raise _broken()
    return min(here, end)
