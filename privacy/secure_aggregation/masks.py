"""The mask stream: AES-256-CTR as numbers of a ring, added to a vector chunk by chunk, and the packed form that travels.

A mask is the key stream of its own key (SP 800-38A; the counter starts at the part's number times 2^64), read as little-endian words: 16 bits for a ring
of 2^16, 32 for 2^20, 2^24 and 2^32 (their low bits are uniform too), 64 for 2^64.  All masks of a vector are added to
one chunk while it is in the cache; nothing as long as the vector is made besides the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from fedvision.errors import AggregationRefused

CHUNK = 1 << 18  # bytes: the chunk and the key stream stay in the second-level cache
_ZEROS = memoryview(bytes(CHUNK))
BITS = (16, 20, 24, 32, 64)


@dataclass(frozen=True)
class Ring:
    """Vectors of `size` numbers modulo 2^bits."""

    bits: int
    size: int

    def __post_init__(self) -> None:
        if self.bits not in BITS or self.size < 1:
            raise AggregationRefused("malformed", f"a ring of {self.bits} bits and {self.size} numbers; the bits are one of {BITS}")

    @property
    def dtype(self) -> np.dtype:
        """The unsigned words that hold its numbers."""
        return np.dtype({16: "<u2", 64: "<u8"}.get(self.bits, "<u4"))

    @property
    def packed(self) -> int:
        """Bytes of a packed vector."""
        return (self.size * self.bits + 7) // 8

    @property
    def exact(self) -> bool:
        """Whether its words wrap by themselves."""
        return self.dtype.itemsize * 8 == self.bits


@dataclass(frozen=True)
class Mask:
    """One mask: whose key, and whether it is added or taken away."""

    key: bytes
    add: bool

    def __repr__(self) -> str:
        return f"Mask(add={self.add})"


def _stream(key: bytes, part: int) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(part.to_bytes(8) + bytes(8))).encryptor()


def apply(vector: np.ndarray, masks: Sequence[Mask], ring: Ring, part: int = 0, out: np.ndarray | None = None) -> np.ndarray:
    """`vector` plus and minus the masks, modulo the ring, as its unsigned words; into `out`, which may be `vector`.

    vector: [ring.size] signed or unsigned integers of the ring's word or wider (they are reduced).
    part: which ring of the message it is; each begins 2^64 blocks after the one before.
    """
    if vector.shape != (ring.size,) or vector.dtype.kind not in "iu":
        raise AggregationRefused("malformed", f"a vector {vector.dtype}{vector.shape}, and the ring holds {ring.size} integers")
    out = np.empty(ring.size, ring.dtype) if out is None else out
    same = out.ctypes.data == vector.ctypes.data and out.itemsize == vector.itemsize
    streams = [(_stream(mask.key, part), np.add if mask.add else np.subtract) for mask in masks]
    step = CHUNK // ring.dtype.itemsize
    words = bytearray(CHUNK)
    numbers = np.frombuffer(words, ring.dtype)
    for start in range(0, ring.size, step):
        piece = out[start : start + step]
        if not same:
            np.copyto(piece, vector[start : start + step], casting="unsafe")  # two's complement: reduced modulo the word
        count = len(piece)
        zeros = _ZEROS[: piece.nbytes]
        for stream, combine in streams:
            stream.update_into(zeros, words)
            combine(piece, numbers[:count], out=piece)
        if not ring.exact:
            np.bitwise_and(piece, (1 << ring.bits) - 1, out=piece)
    return out


def in_place(vector: np.ndarray, ring: Ring) -> np.ndarray | None:
    """The vector's own memory as the ring's words, None where its numbers are of another size: a fresh one costs page faults."""
    fits = vector.dtype.kind in "iu" and vector.dtype.itemsize == ring.dtype.itemsize
    return vector.view(ring.dtype) if fits and vector.flags.c_contiguous and vector.flags.writeable else None


def pack(vector: np.ndarray, ring: Ring) -> memoryview:
    """The vector's bytes as they travel: little-endian, without gaps.  No copy where the words have none."""
    if ring.exact:
        return np.ascontiguousarray(vector).data.cast("B")
    out = np.zeros(ring.packed + 8, np.uint8)
    for start in range(0, ring.size, CHUNK):  # CHUNK is even, so that each piece starts on a byte
        part = vector[start : start + CHUNK]
        at = start * ring.bits // 8
        if ring.bits == 24:
            out[at : at + 3 * len(part)].reshape(-1, 3)[:] = part.view(np.uint8).reshape(-1, 4)[:, :3]
        else:
            _pack20(part, out[at:])
    return memoryview(out[: ring.packed].data)


def _pack20(part: np.ndarray, out: np.ndarray) -> None:
    pairs = np.zeros((len(part) + 1) // 2 * 2, np.uint64)
    pairs[: len(part)] = part
    joined = pairs[0::2] | (pairs[1::2] << np.uint64(20))
    length = (len(part) * 20 + 7) // 8
    out[:length] = np.ascontiguousarray(joined.view(np.uint8).reshape(-1, 8)[:, :5]).reshape(-1)[:length]


def unpack(body: bytes | memoryview, ring: Ring) -> np.ndarray:
    """The vector in `body`; AggregationRefused ("malformed") where its length is not the ring's."""
    if len(body) != ring.packed:
        raise AggregationRefused("malformed", f"{len(body)} bytes where {ring.size} numbers of {ring.bits} bits take {ring.packed}")
    if ring.exact:
        return np.frombuffer(body, ring.dtype)
    out = np.empty(ring.size, ring.dtype)
    content = np.frombuffer(body, np.uint8)
    for start in range(0, ring.size, CHUNK):
        part = out[start : start + CHUNK]
        at = start * ring.bits // 8
        if ring.bits == 24:
            part[:] = 0
            part.view(np.uint8).reshape(-1, 4)[:, :3] = content[at : at + 3 * len(part)].reshape(-1, 3)
        else:
            _unpack20(content[at:], part)
    return out


def _unpack20(content: np.ndarray, part: np.ndarray) -> None:
    groups = (len(part) + 1) // 2
    wide = np.zeros((groups, 8), np.uint8)
    length = (len(part) * 20 + 7) // 8
    flat = np.zeros(groups * 5, np.uint8)
    flat[:length] = content[:length]
    wide[:, :5] = flat.reshape(-1, 5)
    joined = wide.view(np.uint64).reshape(-1)
    part[0::2] = joined & np.uint64(0xFFFFF)
    part[1::2] = (joined >> np.uint64(20))[: len(part) // 2] & np.uint64(0xFFFFF)


def signed(vector: np.ndarray, ring: Ring) -> np.ndarray:
    """The numbers of a ring read as signed: int32 or int64, as the run's layout adds them up.  No copy where none is needed."""
    if ring.exact and ring.bits != 16:
        return vector.view(np.int64 if ring.bits == 64 else np.int32)
    shift = 32 - ring.bits
    return np.left_shift(vector.astype(np.uint32, copy=False), np.uint32(shift)).view(np.int32) >> shift
