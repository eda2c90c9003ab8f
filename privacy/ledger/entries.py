"""One line of a ledger: canonical JSON that holds the hash of the line before it, signed or not.

    {"body":{...,"prev":"<64 hex>","seq":<n>},"sig":"<128 hex>"}        signed by Ed25519 (RFC 8032) over TAG + the body's bytes
    {"body":{...,"prev":"<64 hex>","seq":<n>}}                          where nobody but the writer reads it

The hash of an entry is the SHA-256 of its line without the newline, signature included.  docs/ledger.md is the exact form.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

TAG = b"fedvision ledger 1\n"  # before what is signed, so that no signature of another kind of message passes for one of an entry
FIRST = "0" * 64  # what the first entry has for the hash of the line before it
LONGEST = 1 << 20  # bytes of a line; a damaged file may have one that never ends
_PLAIN = {float, str, bool, type(None)}  # json itself checks that floats are finite
_LARGEST = 2**53  # integers beyond it are not the same number in every language
_HEAD, _TAIL, _SIGNED_TAIL = b'{"body":', b"}", re.compile(rb',"sig":"([0-9a-f]{128})"\}\Z')
_SIGNED_LENGTH = len(b',"sig":""}') + 128


class Broken(ValueError):
    """A line that is not what this ledger's next entry can be; the message is the reason, without the file or the line."""


@dataclass(frozen=True)
class Entry:
    """A line that was read or written.  number: from 0; hash: what the next one's `prev` must be."""

    number: int
    hash: str
    body: Mapping[str, Any]


def canonical(value: Any) -> bytes:
    """The one way in which `value` is written: ASCII, keys sorted by code point, no white space, numbers as Python's repr.

    ValueError for what has no such form: numbers that are not finite, integers beyond 2^53, keys that are no strings.

    >>> canonical({"σ": 1e-05, "b": [True, None, 2.0]})
    b'{"b":[true,null,2.0],"\\\\u03c3":1e-05}'
    """
    _check(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _check(value: Any) -> None:
    kind = type(value)
    if kind is int:
        if abs(value) > _LARGEST:
            raise ValueError(f"the integer {value} is beyond 2^53; write it as a string")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is no string")
            if type(part) not in _PLAIN:
                _check(part)
    elif isinstance(value, list | tuple):
        for part in value:
            if type(part) not in _PLAIN:
                _check(part)


def written(body: Mapping[str, Any], number: int, prev: str, key: Ed25519PrivateKey | None) -> tuple[bytes, Entry]:
    """The line, with its newline, of entry `number` after the line whose hash is `prev`; and the entry."""
    whole = {**body, "prev": prev, "seq": number}
    content = canonical(whole)
    line = _HEAD + content + _TAIL if key is None else b'%b%b,"sig":"%b"}' % (_HEAD, content, key.sign(TAG + content).hex().encode())
    return line + b"\n", Entry(number, hashlib.sha256(line).hexdigest(), whole)


def parsed(line: bytes, number: int, prev: str, key: Ed25519PublicKey | None = None, signed: bool = True) -> Entry:
    """The entry of a `line` without its newline; Broken where it is not entry `number` after `prev` in canonical form, or
    (key given) not signed with `key`.  signed: whether it must have a signature; checked against `key` alone."""
    content = line[len(_HEAD) : -_SIGNED_LENGTH] if signed else line[len(_HEAD) : -len(_TAIL)]
    tail = _SIGNED_TAIL.search(line[-_SIGNED_LENGTH:]) if signed else None
    if len(line) > LONGEST or not line.startswith(_HEAD) or not line.endswith(_TAIL) or (signed and tail is None):
        raise Broken(f"it is no entry: a line of {len(line)} bytes that is not {'a signed' if signed else 'an unsigned'} body")
    try:
        body = json.loads(content)
        same = isinstance(body, dict) and canonical(body) == content
    except (ValueError, RecursionError):  # also UnicodeDecodeError
        raise Broken("it is no JSON") from None
    if not same:
        raise Broken("it is not in canonical form")
    if type(body.get("seq")) is not int or body["seq"] != number:
        raise Broken(f"it says that it is entry {str(body.get('seq'))[:20]}, and stands where entry {number} should be")
    if body.get("prev") != prev:
        raise Broken("it does not continue the line before it: it holds the hash of another one")
    if key is not None and tail is not None:
        try:
            key.verify(bytes.fromhex(tail[1].decode()), TAG + content)
        except InvalidSignature:
            raise Broken("its signature is not by the key of this ledger") from None
    return Entry(number, hashlib.sha256(line).hexdigest(), body)
