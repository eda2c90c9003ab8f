"""The self-check's own comparison of pixels: those of the original, and nothing else, in what was written.

Native pixels are equal byte for byte, or, from big endian, word for word.  Of compressed ones every byte that a decoder
uses is equal, and every other is zero.
"""

from collections.abc import Iterator

from privacy.deidentify.original import PIXELS, Found, Leak, Original

_NATIVE = frozenset([b"", *(b"1.2.840.10008.1.2" + end for end in (b"", b".1", b".1.99", b".2"))])
_NO_IMAGE = frozenset([0xFE, *range(0xE0, 0xF7), *range(0xF9, 0xFE), *range(0x02, 0xC0), 0xC8])  # JPEG: said beside it
_HEADS = {(0xE0, b"JFIF"): 14, (0xEE, b"Adob"): 12, (0xE8, b"mrfx"): 5, (0xE8, b"SPIF"): 30, (0xE8, b"\0\0\0\1"): 6}
_TILES = frozenset([*range(0x50, 0x54), 0x55, *range(0x57, 0x5A), *range(0x5C, 0x62), 0x63, 0x90])  # JPEG 2000: needed


def same_pixels(original: Original, out: list[Found]) -> None:
    """Leak where the written pixel data is not the original's."""
    new = next((value for tag, _, value, around in out if tag == PIXELS and not around), b"")
    old = original.pixels
    if original.big and _number(original, 0x00280100) > 8:
        import numpy as np

        size = _number(original, 0x00280100) // 8
        old = np.frombuffer(old, f">u{size}").astype(f"<u{size}").tobytes()
    if not old and not new:  # an image's header alone
        return
    if original.first.get(0x00020010, b"").rstrip(b"\0 ") not in _NATIVE:
        _same_streams(old, new, original)
    elif new != old:
        padded = len(new) == len(old) and new[:-1] == old[:-1] and new[-1:] == b"\0"
        if not padded and new != old + b"\0":
            raise Leak("pixels that are not the original's", PIXELS)


def _number(original: Original, tag: int) -> int:
    """A number at the original's top level; a missing one is 1."""
    value = original.first.get(tag, b"")
    if tag == 0x00280008:
        return int(value.strip(b" \0") or b"1")
    return int.from_bytes(value, "big" if original.big else "little") or 1


def _items(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of each item's value."""
    found, here = [], 0
    while data[here : here + 4] == b"\xfe\xff\0\xe0":
        start, here = here + 8, here + 8 + int.from_bytes(data[here + 4 : here + 8], "little")
        found.append((start, here))
    return found


def _same_streams(old: bytes, new: bytes, original: Original) -> None:
    table, *pieces = _items(old) or [(0, 0)]
    first, last = table
    if not pieces or len(old) != len(new) or _items(new) != [table, *pieces]:
        raise Leak("fragments that are not the original's", PIXELS)
    starts = {start - pieces[0][0] for start, _ in pieces}
    offsets = [int.from_bytes(new[at : at + 4], "little") for at in range(first, last, 4)]
    if not starts.issuperset(offsets) or offsets != sorted(set(offsets)):
        raise Leak("a table of offsets that are none", PIXELS)
    before, after = (b"".join([data[start:end] for start, end in pieces]) for data in (old, new))
    if original.first.get(0x00020010, b"").rstrip(b"\0 ") == b"1.2.840.10008.1.2.5":
        whole = [(pieces[0][0], pieces[-1][1])] if _number(original, 0x00280008) < 2 else pieces
        for start, end in whole:
            left, right = (b"".join([data[a:b] for a, b in pieces if start <= a < end]) for data in (old, new))
            _same_runs(left, right, original)
        return
    borders = [0]
    for start, end in pieces:
        borders.append(borders[-1] + end - start)
    here = 0
    for start, end in _used(after, borders):
        if any(after[here:start]):
            raise Leak("bytes beside the image", PIXELS)
        if before[start:end] != after[start:end]:
            raise Leak("a stream that is not the original's", PIXELS)
        here = end
    if any(after[here:]):
        raise Leak("bytes behind the image", PIXELS)
    text = after.lower()
    if any(len(word) >= 5 and word.lower() in text for word in original.people):  # where decoders stop before a scan does
        raise Leak("a part of a name or number in a stream", PIXELS)


def _used(streams: bytes, borders: list[int]) -> Iterator[tuple[int, int]]:
    """The bytes that decoders use.  A stream starts where a fragment does, at the first one after the last stream's end."""
    here = 0
    for border in borders[:-1]:
        if border < here or not any(streams[border : border + 4]):
            continue
        here = border
        for start, end in (_jpeg if streams[here : here + 2] == b"\xff\xd8" else _wavelets)(streams, here):
            yield start, end
            here = end


def _jpeg(data: bytes, here: int) -> Iterator[tuple[int, int]]:
    while here + 2 <= len(data):
        mark = data[here + 1]
        if data[here] != 0xFF:
            raise Leak("a stream without its marks", PIXELS)
        if mark == 0xFF:
            yield here, here + 1
            here += 1
        elif mark in (0xD8, 0xD9, 0x01) or 0xD0 <= mark <= 0xD7:
            yield here, here + 2
            here += 2
            if mark == 0xD9:
                return
        else:
            end = here + 2 + int.from_bytes(data[here + 2 : here + 4], "big")
            head = _HEADS.get((mark, data[here + 4 : here + 8]), 0)
            yield here, min(here + 4 + head, end) if mark in _NO_IMAGE else end
            here = end
            if mark == 0xDA:
                end = _end_of_scan(data, here)
                yield here, end
                here = end


def _end_of_scan(data: bytes, here: int) -> int:
    while 0 <= (here := data.find(b"\xff", here)) < len(data) - 1:
        if data[here + 1] >= 0x80 and data[here + 1] != 0xFF and not 0xD0 <= data[here + 1] <= 0xD7:
            return here
        here += 1
    return len(data)


def _wavelets(data: bytes, here: int) -> Iterator[tuple[int, int]]:
    if data[here : here + 2] != b"\xff\x4f":
        raise Leak("a stream without its marks", PIXELS)
    yield here, here + 2
    here += 2
    while data[here : here + 2] != b"\xff\xd9":
        if data[here : here + 2] == b"\xff\x93":
            end = here + 2
            while (end := data.find(b"\xff", end)) >= 0 and (data[end + 1 : end + 2] < b"\x90" or data[end + 1] in (0x91, 0x92)):
                end += 1
            end = end if end >= 0 else len(data)
            yield here, end
            here = end
            if end == len(data):
                return
            continue
        size = 2 + int.from_bytes(data[here + 2 : here + 4], "big")
        if data[here : here + 1] != b"\xff" or size < 4:
            raise Leak("a stream without its marks", PIXELS)
        mark = data[here + 1]
        yield here, here + (size if mark in _TILES else 6 if mark == 0x64 else 4)
        here += size
    yield here, here + 2


def _same_runs(old: bytes, new: bytes, original: Original) -> None:
    """RLE: segments that unpack to the same bytes, and to nothing but zeros behind them."""
    from pydicom.pixels.decoders.rle import _rle_decode_segment

    count = int.from_bytes(new[:4], "little")
    wanted = 1
    for tag in (0x00280002, 0x00280010, 0x00280011, 0x00280100):
        wanted *= _number(original, tag)
    wanted = wanted // 8 // max(count, 1)
    starts = [int.from_bytes(new[at : at + 4], "little") for at in range(4, 4 + 4 * count, 4)]
    if old[: 4 + 4 * count] != new[: 4 + 4 * count] or any(new[4 + 4 * count : min(starts, default=64)]):
        raise Leak("runs that are not the original's", PIXELS)
    for start, end in zip(starts, [*starts[1:], len(new)], strict=True):
        left, right = (bytes(_rle_decode_segment(data[start:end])) for data in (old, new))
        if left[:wanted] != right[:wanted] or any(right[wanted:]):
            raise Leak("runs that are not the original's", PIXELS)
