"""Canonical bytes of frozen dataclasses: one value, one encoding, so that two parties who sign the same thing sign the same bytes.

A value is its parts one after the other; what has no fixed length is preceded by its length (8 bytes).  There are no
tags: the reader knows the type that it expects.  `decode` refuses what `encode` would not have written.
"""

import struct
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fedvision.errors import AggregationRefused

Put = Callable[[bytes | memoryview], None]
_U64, _I64, _F64 = struct.Struct(">Q"), struct.Struct(">q"), struct.Struct(">d")


def pieces(value: Any) -> list[bytes | memoryview]:
    """The encoding of a dataclass, in pieces, so that a long body is never copied."""
    out: list[bytes | memoryview] = []
    kind: Any = type(value)
    _writer(kind)(value, out.append)
    return out


def encode(value: Any) -> bytes:
    """The encoding of a dataclass."""
    return b"".join(pieces(value))


def decode(kind: type, content: bytes) -> Any:
    """The `kind` in `content`; AggregationRefused ("malformed") unless it is the one encoding of such a value."""
    source = _Source(content)
    try:
        value = _reader(kind)(source)
    except (struct.error, UnicodeDecodeError, IndexError, ValueError) as error:
        raise AggregationRefused("malformed", f"not the bytes of a {kind.__name__}: {error}") from None
    if source.at != len(content):
        raise AggregationRefused("malformed", f"{len(content) - source.at} bytes after the end of a {kind.__name__}")
    return value


def _parts(kind: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(kind)
    return [(f.name, hints[f.name]) for f in fields(kind)]


def _choices(kind: Any) -> list[Any]:
    """Of a union: nothing is 0, the others are counted in the order in which they are named."""
    return [type(None), *(choice for choice in get_args(kind) if choice is not type(None))]


@cache
def _writer(kind: Any) -> Callable[[Any, Put], None]:
    """The function that writes a value of `kind`; made once a type."""
    if is_dataclass(kind):
        parts = [(name, _writer(part)) for name, part in _parts(kind)]

        def write_parts(value: Any, put: Put) -> None:
            for name, write in parts:
                write(getattr(value, name), put)

        return write_parts
    if get_origin(kind) is tuple:
        return _tuple_writer(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return _union_writer(kind)
    return _PLAIN_WRITERS[kind]


def _write_bytes(value: bytes | memoryview, put: Put) -> None:
    put(_U64.pack(len(value)))
    put(value)


_PLAIN_WRITERS: dict[Any, Callable[[Any, Put], None]] = {
    int: lambda value, put: put(_I64.pack(value)),
    float: lambda value, put: put(_F64.pack(value)),
    bool: lambda value, put: put(b"\1" if value else b"\0"),
    str: lambda value, put: _write_bytes(value.encode(), put),
    bytes: _write_bytes,
}


def _tuple_writer(kinds: tuple[Any, ...]) -> Callable[[Any, Put], None]:
    assert len(kinds) == 2 and kinds[1] is ..., "a tuple of one type and any length"
    write = _writer(kinds[0])

    def write_items(value: tuple[Any, ...], put: Put) -> None:
        put(_U64.pack(len(value)))
        for item in value:
            write(item, put)

    return write_items


def _union_writer(kind: Any) -> Callable[[Any, Put], None]:
    choices = _choices(kind)

    def write_choice(value: Any, put: Put) -> None:
        at = next(at for at, choice in enumerate(choices) if isinstance(value, choice))
        put(bytes([at]))
        if value is not None:
            _writer(choices[at])(value, put)

    return write_choice


class _Source:
    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def take(self, count: int) -> bytes:
        self.at += count  # beyond the end: what is read is short, and `decode` refuses where reading did not end at the end
        return bytes(self.content[self.at - count : self.at])

    def length(self) -> int:
        return int(_U64.unpack(self.take(8))[0])


@cache
def _reader(kind: Any) -> Callable[[_Source], Any]:
    """The function that reads a value of `kind`; made once a type."""
    if is_dataclass(kind):
        parts = [_reader(part) for _, part in _parts(kind)]
        return lambda source: kind(*[read(source) for read in parts])  # type: ignore[operator]
    if get_origin(kind) is tuple:
        return _tuple_reader(_reader(get_args(kind)[0]))
    if get_origin(kind) in (Union, UnionType):
        return _union_reader(kind)
    return _PLAIN_READERS[kind]


_PLAIN_READERS: dict[Any, Callable[[_Source], Any]] = {
    int: lambda source: _I64.unpack(source.take(8))[0],
    float: lambda source: _F64.unpack(source.take(8))[0],
    bool: lambda source: (False, True)[source.take(1)[0]],
    str: lambda source: source.take(source.length()).decode(),
    bytes: lambda source: source.take(source.length()),
}


def _tuple_reader(read: Callable[[_Source], Any]) -> Callable[[_Source], Any]:
    def read_items(source: _Source) -> tuple[Any, ...]:
        return tuple([read(source) for _ in range(source.length())])  # the first item beyond the end cannot be read

    return read_items


def _union_reader(kind: Any) -> Callable[[_Source], Any]:
    choices, optional = _choices(kind), type(None) in get_args(kind)

    def read_choice(source: _Source) -> Any:
        at = source.take(1)[0]
        if at == 0 and not optional:
            raise ValueError("nothing where something is needed")
        return None if at == 0 else _reader(choices[at])(source)

    return read_choice
