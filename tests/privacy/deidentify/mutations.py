"""Files that are almost DICOM: bytes flipped, cut, doubled, swapped, lengths and tags overwritten."""

from collections.abc import Iterator

import numpy as np

from fedvision.seeds import stream

INTERESTING = [
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\xfe\xff\0\xe0",
    b"\xfe\xff\x0d\xe0",
    b"\xfe\xff\xdd\xe0",
    b"\x10\0\x10\0",
]
INTERESTING += [b"UN", b"SQ", b"OB", b"UT", b"PN", b"\xe0\x7f\x10\0", b"SMITH^JANE", b"\x7f\xff", b"\\\\\\\\"]


def mutated(source: bytes, draw: np.random.Generator) -> bytes:
    """`source` with one to four changes, most of them in its first 4 kB."""
    data = bytearray(source)
    for _ in range(int(draw.integers(1, 5))):
        if not data:
            break
        reach = min(len(data), 4096) if draw.random() < 0.9 else len(data)
        at = int(draw.integers(0, reach))
        kind = int(draw.integers(0, 7))
        if kind == 0:
            data[at] = int(draw.integers(0, 256))
        elif kind == 1:
            piece = INTERESTING[int(draw.integers(len(INTERESTING)))]
            data[at : at + len(piece)] = piece
        elif kind == 2:
            del data[at : at + int(draw.integers(1, 64))]
        elif kind == 3:
            data[at:at] = data[at : at + int(draw.integers(1, 64))]
        elif kind == 4:
            data[at:] = b""
        elif kind == 5:
            piece = INTERESTING[int(draw.integers(len(INTERESTING)))]
            data[at:at] = piece
        else:
            other, length = int(draw.integers(0, reach)), int(draw.integers(1, 32))
            data[at : at + length] = data[other : other + length]
    return bytes(data)


def mutants(sources: list[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    for number in range(count):
        draw = stream(seed, "mutant", number)
        yield mutated(sources[int(draw.integers(len(sources)))], draw)
