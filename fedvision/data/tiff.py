"""A TIFF of any size, read in parts: each strip or tile is decoded by itself, by Pillow, as a small TIFF made of it.  TIFF 6.0; BigTIFF."""

import io
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from fedvision.errors import CorruptImage

if TYPE_CHECKING:
    from PIL.Image import Image

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # of a value, by its type
_LETTERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, SAMPLES, PLANAR = 256, 257, 258, 259, 274, 277, 284
STRIP_AT, STRIP_ROWS, STRIP_BYTES, TILE_WIDTH, TILE_HEIGHT, TILE_AT, TILE_BYTES = 273, 278, 279, 322, 323, 324, 325
# Of the values themselves, the same for every piece: bits, compression, photometric, fill order, samples, planar, T4 and T6 options,
# predictor, colours of a palette, extra samples, format, tables and subsampling of JPEG, reference black and white
_SHARED = (BITS, COMPRESSION, 262, 266, SAMPLES, PLANAR, 292, 293, 317, 320, 338, 339, 347, 530, 531, 532)
_ROWS = 1 << 20  # bytes of a strip that is cut out of a longer one
_LARGEST = 1 << 26  # pixels of one piece
_KEPT = 96 << 20  # bytes of decoded pieces
Tag = tuple[int, int, bytes]  # type, number of values, their bytes
Decode = Callable[["Image"], np.ndarray]  # a piece -> uint8 [H,W] or [H,W,C]


@dataclass(frozen=True)
class Pieces:
    """Where the pieces of an image lie in the file: a grid of them, row by row, each `height` × `width` pixels, the last strip
    fewer."""

    height: int
    width: int
    at: tuple[int, ...]
    sizes: tuple[int, ...]
    cut: bool  # whether the last one ends with the image


class Tiff:
    """The first image of a file.  sides: (height, width).

    CorruptImage where it is no TIFF, and ValueError, saying why, where its pieces cannot be read one by one.
    """

    def __init__(self, path: Path, decode: Decode):
        self.path, self.decode = path, decode
        try:
            with path.open("rb") as file:
                self.order, self.tags = _directory(file, path.stat().st_size)
            self.sides = (self._number(HEIGHT), self._number(WIDTH))
            self.pieces = self._pieces()
        except (struct.error, KeyError, OSError, IndexError) as error:
            raise CorruptImage(f"{path} does not read as TIFF: {type(error).__name__}: {error}") from None
        self._decoded: OrderedDict[int, np.ndarray] = OrderedDict()
        self._room = _KEPT

    def part(self, where: tuple[slice, ...]) -> np.ndarray:
        """uint8 [H,W] or [H,W,C] of the pixels `where`, two slices."""
        rows, columns = where
        its, across = self.pieces, -(-self.sides[1] // self.pieces.width)
        bands = []
        for down in range(rows.start // its.height, -(-rows.stop // its.height)):
            own = []
            for over in range(columns.start // its.width, -(-columns.stop // its.width)):
                top, left = down * its.height, over * its.width
                piece = self._piece(down * across + over)
                own.append(piece[max(0, rows.start - top) : rows.stop - top, max(0, columns.start - left) : columns.stop - left])
            bands.append(np.concatenate(own, 1))
        return np.concatenate(bands)

    def _piece(self, number: int) -> np.ndarray:
        """One piece, decoded; the last ones are kept."""
        if (found := self._decoded.get(number)) is not None:
            self._decoded.move_to_end(number)
            return found
        its = self.pieces
        across = -(-self.sides[1] // its.width)
        height = min(its.height, self.sides[0] - number // across * its.height) if its.cut else its.height
        with self.path.open("rb") as file:
            file.seek(its.at[number])
            content = file.read(its.sizes[number])
        piece = self._by_pillow(content, height, its.width, number)
        self._decoded[number] = piece
        self._room -= piece.nbytes
        while self._room < 0 and len(self._decoded) > 1:
            self._room += self._decoded.popitem(last=False)[1].nbytes
        return piece

    def _by_pillow(self, content: bytes, height: int, width: int, number: int) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(_small(self.order, self.tags, content, height, width))) as picture:
                return self.decode(picture)
        except (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError) as error:
            raise CorruptImage(f"piece {number} of {self.path} does not decode: {error}") from None

    def _number(self, tag: int, default: int | None = None) -> int:
        if tag not in self.tags and default is not None:
            return default
        return _numbers(self.order, self.tags[tag])[0]

    def _pieces(self) -> Pieces:
        height, width = self.sides
        if min(self.sides) < 1:
            raise CorruptImage(f"{self.path} has {width} × {height} pixels")
        if self._number(PLANAR, 1) != 1 and self._number(SAMPLES, 1) > 1:
            raise ValueError("its channels lie apart")
        if self._number(ORIENTATION, 1) != 1:
            raise ValueError("it is turned")
        tiled = TILE_WIDTH in self.tags
        at, sizes = (_numbers(self.order, self.tags[tag]) for tag in ((TILE_AT, TILE_BYTES) if tiled else (STRIP_AT, STRIP_BYTES)))
        if tiled:
            pieces = Pieces(self._number(TILE_HEIGHT), self._number(TILE_WIDTH), at, sizes, False)
        else:
            pieces = Pieces(min(self._number(STRIP_ROWS, height), height), width, at, sizes, True)
        if pieces.height < 1 or pieces.width < 1 or not len(at) == len(sizes) == -(-height // pieces.height) * -(-width // pieces.width):
            raise CorruptImage(f"{self.path} has {len(at)} pieces, and its {width} × {height} pixels need others")
        if not tiled and self._number(COMPRESSION, 1) == 1:
            pieces = self._shorter(pieces)
        if pieces.height * pieces.width > _LARGEST:
            raise ValueError(f"one of its pieces has {pieces.height * pieces.width:,} pixels")
        return pieces

    def _shorter(self, strips: Pieces) -> Pieces:
        """Strips that are not compressed, in strips of about a megabyte."""
        bits = _numbers(self.order, self.tags[BITS]) if BITS in self.tags else (1,)
        row = -(-self._number(SAMPLES, 1) * max(bits) * self.sides[1] // 8)
        rows = max(1, _ROWS // row)
        contiguous = all(a + n == b for a, n, b in zip(strips.at, strips.sizes, strips.at[1:], strict=False))
        if rows >= strips.height or not contiguous or sum(strips.sizes) < row * self.sides[0]:
            return strips
        starts = range(0, self.sides[0], rows)
        at = tuple(strips.at[0] + top * row for top in starts)
        return Pieces(rows, strips.width, at, tuple(min(rows, self.sides[0] - top) * row for top in starts), True)


def is_tiff(path: Path) -> bool:
    """Whether a file is one by its first bytes."""
    with path.open("rb") as file:
        return file.read(4) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def _directory(file: IO[bytes], size: int) -> tuple[str, dict[int, Tag]]:
    """("<" or ">", the tags of the first image)."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    number, entry, inside = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    start = struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])[0]
    file.seek(start)
    count = struct.unpack(order + number, file.read(struct.calcsize(order + number)))[0]
    width = struct.calcsize(order + entry) + inside
    table = file.read(min(count, 4096) * width)
    tags = {}
    for at in range(0, len(table) - width + 1, width):
        tag, kind, values = struct.unpack_from(order + entry, table, at)
        length = _BYTES.get(kind, 0) * values
        own = table[at + width - inside : at + width]
        if length > inside:
            if length > size:
                raise IndexError(f"tag {tag} has {length:,} bytes, and the file {size:,}")
            file.seek(struct.unpack(order + ("Q" if big else "I"), own)[0])
            own = file.read(length)
        if len(own) < length:
            raise IndexError(f"tag {tag} is cut off")
        tags[tag] = (kind, values, own[:length])
    return order, tags


def _numbers(order: str, tag: Tag) -> tuple[int, ...]:
    """The whole numbers of a tag."""
    kind, count, content = tag
    return struct.unpack(f"{order}{count}{_LETTERS[kind]}", content)


def _small(order: str, tags: Mapping[int, Tag], content: bytes, height: int, width: int) -> bytes:
    """A TIFF of one strip: `content`, with what all pieces share."""
    said: dict[int, Tag] = {tag: tags[tag] for tag in _SHARED if tag in tags}
    numbers = {WIDTH: width, HEIGHT: height, STRIP_AT: 0, STRIP_ROWS: height, STRIP_BYTES: len(content)}
    said |= {tag: (4, 1, struct.pack(order + "I", value)) for tag, value in numbers.items()}
    after = 8 + 2 + 12 * len(said) + 4  # where long values and then the strip begin
    longer = b"".join(own + b"\0" * (len(own) % 2) for tag, (_, _, own) in sorted(said.items()) if len(own) > 4)
    said[STRIP_AT] = (4, 1, struct.pack(order + "I", after + len(longer)))
    table = b""
    for tag, (kind, count, own) in sorted(said.items()):
        where = struct.pack(order + "I", after) if len(own) > 4 else own.ljust(4, b"\0")
        after += len(own) + len(own) % 2 if len(own) > 4 else 0
        table += struct.pack(order + "HHI", tag, kind, count) + where
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(said))
    return head + table + b"\0" * 4 + longer + content
