"""Canonical bytes of frozen dataclasses: one value, one encoding, so that two parties who sign the same thing sign the same bytes.

A value is its parts one after the other; what has no fixed length is preceded by its length (8 bytes).  There are no
tags: the reader knows the type that it expects.  `decode` refuses what `encode` would not have written.
"""

import struct
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fedvision.errors import AggregationRefused

_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")
_F64 = struct.Struct(">d")


@cache
def _parts(kind: Any) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((f.name, hints[f.name]) for f in fields(kind))


def pieces(value: Any) -> Iterator[bytes | memoryview]:
    """The encoding of a dataclass, in pieces, so that a long body is never copied."""
    for name, kind in _parts(value.__class__):
        yield from _write(getattr(value, name), kind)


def encode(value: Any) -> bytes:
    """The encoding of a dataclass."""
    return b"".join(pieces(value))


def _write(value: Any, kind: Any) -> Iterator[bytes | memoryview]:
    if is_dataclass(kind):
        yield from pieces(value)
    elif kind is int:
        yield _I64.pack(value)
    elif kind is float:
        yield _F64.pack(value)
    elif kind is bool:
        yield b"\1" if value else b"\0"
    elif kind is str:
        content = value.encode()
        yield _U64.pack(len(content))
        yield content
    elif kind is bytes:
        yield _U64.pack(len(value))
        yield value
    elif get_origin(kind) is tuple:
        yield from _write_tuple(value, get_args(kind))
    elif get_origin(kind) in (Union, UnionType):
        choices = [type(None), *(choice for choice in get_args(kind) if choice is not type(None))]
        at = next(at for at, choice in enumerate(choices) if isinstance(value, choice))
        yield bytes([at])
        if value is not None:
            yield from _write(value, choices[at])
    else:
        raise TypeError(f"{kind} has no canonical encoding")


def _write_tuple(value: tuple[Any, ...], kinds: tuple[Any, ...]) -> Iterator[bytes | memoryview]:
    if len(kinds) == 2 and kinds[1] is ...:
        yield _U64.pack(len(value))
        kinds = (kinds[0],) * len(value)
    for item, kind in zip(value, kinds, strict=True):
        yield from _write(item, kind)


def decode(kind: type, content: bytes) -> Any:
    """The `kind` in `content`; AggregationRefused ("malformed") unless it is the one encoding of such a value."""
    reader = _Reader(content)
    try:
        value = reader.read(kind)
    except (struct.error, UnicodeDecodeError, IndexError, ValueError) as error:
        raise AggregationRefused("malformed", f"not the bytes of a {kind.__name__}: {error}") from None
    if reader.at != len(content):
        raise AggregationRefused("malformed", f"{len(content) - reader.at} bytes after the end of a {kind.__name__}")
    return value


class _Reader:
    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def take(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise ValueError(f"{count} bytes wanted and {len(self.content) - self.at} left")
        self.at += count
        return bytes(self.content[self.at - count : self.at])

    def length(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def read(self, kind: Any) -> Any:
        if is_dataclass(kind):
            return kind(**{name: self.read(part) for name, part in _parts(kind)})  # type: ignore[arg-type, operator]
        if kind is int:
            return _I64.unpack(self.take(8))[0]
        if kind is float:
            return _F64.unpack(self.take(8))[0]
        if kind is bool:
            return (False, True)[self.take(1)[0]]
        if kind is str:
            return self.take(self.length()).decode()
        if kind is bytes:
            return self.take(self.length())
        return self.read_generic(kind)

    def read_generic(self, kind: Any) -> Any:
        if get_origin(kind) is tuple:
            kinds = get_args(kind)
            if len(kinds) == 2 and kinds[1] is ...:
                count = self.length()
                if count > len(self.content):
                    raise ValueError(f"{count} items in {len(self.content)} bytes")
                kinds = (kinds[0],) * count
            return tuple(self.read(part) for part in kinds)
        choices = [None, *(choice for choice in get_args(kind) if choice is not type(None))]
        at = self.take(1)[0]
        if at == 0 and type(None) not in get_args(kind):
            raise ValueError("nothing where something is needed")
        return None if at == 0 else self.read(choices[at])
