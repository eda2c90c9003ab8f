"""Keys, signatures and the key schedule.  Every primitive is `cryptography`'s; every secret is the operating system's.

    pair key   HKDF-SHA256(X25519(mask_i, mask_j), salt = transcript, info = "pair" i j)   i < j; AES-256-CTR, one mask
    self key   HKDF-SHA256(b_i,                    salt = transcript, info = "self" i)     AES-256-CTR, one mask
    box key    HKDF-SHA256(X25519(box_i, box_j),   salt = keys' transcript, info = "box" i j)   AES-256-GCM, one message i → j

RFC 7748, RFC 5869, RFC 8032, NIST SP 800-38A and SP 800-38D.  A pair or self key serves one transcript, which names the
run, round, attempt, roster, thresholds, model, layout and cohort: another transcript is another key.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PROTOCOL = b"fedvision/secure-aggregation/1"
KEY = 32  # bytes of every key, seed and digest
NONCE = 12


def digest(*parts: bytes | memoryview) -> bytes:
    """SHA-256 over the parts' lengths and contents."""
    state = hashlib.sha256(PROTOCOL)
    for part in parts:
        state.update(len(part).to_bytes(8))
        state.update(part)
    return state.digest()


def derive(secret: bytes, salt: bytes, *info: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes; the parts of `info` are kept apart by their lengths, behind the protocol's name."""
    joined = b"".join(len(part).to_bytes(8) + part for part in (PROTOCOL, *info))
    return HKDF(hashes.SHA256(), KEY, salt, joined).derive(secret)


@dataclass(frozen=True)
class Identity:
    """Who a site is: its long-lived Ed25519 key, as 32 raw bytes.  Never sent; not shown when printed."""

    secret: bytes

    def __repr__(self) -> str:
        return f"Identity(public={self.public.hex()[:16]}…)"

    @classmethod
    def fresh(cls) -> "Identity":
        """A new one."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def public(self) -> bytes:
        """What others know the site by."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw()

    def sign(self, content: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).sign(content)


@lru_cache(maxsize=8192)  # a pure function; a list signed by many is shown to many where sites share a process
def verified(public: bytes, signature: bytes, content: bytes) -> bool:
    """Whether `signature` over `content` is `public`'s."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True)
class KeyPair:
    """An X25519 pair for one attempt.  The secret is not shown when printed."""

    secret: bytes
    public: bytes

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()[:16]}…)"

    @classmethod
    def fresh(cls) -> "KeyPair":
        """A new one."""
        return cls.of(X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def of(cls, secret: bytes) -> "KeyPair":
        """The pair of a secret."""
        return cls(secret, X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw())


def agree(secret: bytes, public: bytes) -> bytes:
    """X25519; ValueError where `public` is a point of small order, whose secret anybody knows."""
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def usable(public: bytes) -> bool:
    """Whether `public` is a key that a secret can be agreed on with: 32 bytes, and no point of small order."""
    try:
        agree(_PROBE, public)
    except ValueError:
        return False
    return True


_PROBE = os.urandom(KEY)


def pair_key(secret: bytes, public: bytes, transcript: bytes, one: str, other: str) -> bytes:
    """The key of the mask that two sites share in this transcript, whichever of them asks."""
    low, high = sorted((one, other))
    return derive(agree(secret, public), transcript, b"pair", low.encode(), high.encode())


def self_key(seed: bytes, transcript: bytes, site: str) -> bytes:
    """The key of a site's own mask in this transcript."""
    return derive(seed, transcript, b"self", site.encode())


def seal(secret: bytes, public: bytes, transcript: bytes, sender: str, receiver: str, content: bytes) -> bytes:
    """`content` from sender to receiver: nonce ‖ AES-256-GCM, bound to the transcript and to both names."""
    key = derive(agree(secret, public), transcript, b"box", sender.encode(), receiver.encode())
    nonce = os.urandom(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, transcript)


def unseal(secret: bytes, public: bytes, transcript: bytes, sender: str, receiver: str, content: bytes) -> bytes | None:
    """What `seal` closed; None where it is not what the sender closed."""
    try:
        key = derive(agree(secret, public), transcript, b"box", sender.encode(), receiver.encode())
        return AESGCM(key).decrypt(content[:NONCE], content[NONCE:], transcript)
    except (InvalidTag, ValueError):
        return None
