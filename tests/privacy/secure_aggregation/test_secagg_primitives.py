"""Known answers for every primitive and for the whole key schedule."""

import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secure_aggregation import masks, shamir
from privacy.secure_aggregation import primitives as p

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32
COUNTING = bytes(range(32))


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869, section 2, written from HMAC alone."""
    key, out, block = hmac.digest(salt, secret, "sha256"), b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        out += block
    return out[:length]


def joined(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8) + part for part in parts)


def test_x25519_agrees_as_in_rfc_7748_section_6_1():
    alice = p.KeyPair.of(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = p.KeyPair.of(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert p.agree(alice.secret, bob.public).hex() == p.agree(bob.secret, alice.public).hex() == shared


@pytest.mark.parametrize("point", [bytes(32), bytes([1]) + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f"), b"short"])
def test_a_public_key_whose_shared_secret_anybody_knows_is_not_usable(point):
    assert not p.usable(point)


def test_hkdf_is_rfc_5869_case_1_here_and_in_the_tests_own():
    secret, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert HKDF(hashes.SHA256(), 42, salt, info).derive(secret).hex() == expected
    assert hkdf(secret, salt, info, 42).hex() == expected


def test_ed25519_signs_as_in_rfc_8032_test_1():
    identity = p.Identity(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert identity.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert identity.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert p.verified(identity.public, identity.sign(b"a"), b"a")
    assert not p.verified(identity.public, identity.sign(b"a"), b"b")


def test_aes_256_ctr_is_sp_800_38a_section_f_5_5():
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    assert stream.update(bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")).hex() == "601ec313775789a5b7a7f504bbf3d228"


def test_the_mask_stream_gives_its_golden_words():
    ring = masks.Ring(32, 1_000_000)
    words = masks.apply(np.zeros(ring.size, np.uint32), [masks.Mask(COUNTING, True)], ring)
    assert [f"{w:08x}" for w in words[:8]] == [
        "b60090f2",
        "d09f492a",
        "6a9af3a9",
        "80772edd",
        "ae765df0",
        "e59fb94a",
        "319bf6a6",
        "3d36c248",
    ]
    assert int(words.sum(dtype=np.uint64)) % 2**32 == 3731728088
    assert hashlib.sha256(words.tobytes()).hexdigest() == "a567e55199fd97f1079984e01c831cbce2f35dcba282b8e69052c75e4a0b8584"


def test_each_part_of_a_message_starts_2_to_64_blocks_after_the_one_before():
    ring = masks.Ring(32, 4)
    second = masks.apply(np.zeros(4, np.uint32), [masks.Mask(COUNTING, True)], ring, part=1)
    block = Cipher(algorithms.AES(COUNTING), modes.ECB()).encryptor().update((1 << 64).to_bytes(16))
    assert second.tobytes() == block


def test_shamirs_shares_are_the_golden_values_of_their_polynomial():
    shares = shamir.evaluate([int.from_bytes(COUNTING), 12345, 67890], [1, 5])
    assert shares[1].hex() == "00000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1e578a"
    assert shares[5].hex() == "00000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c37f51e"


def test_the_key_schedule_from_private_keys_to_mask_keys_is_hkdf_over_x25519():
    shared = p.agree(ONE, p.KeyPair.of(TWO).public)
    assert shared.hex() == "2ed76ab549b1e73c031eb49c9448f0798aea81b698279a0c3dc3e49fbfc4b953"
    transcript = b"t" * 32
    pair = hkdf(shared, transcript, joined(b"fedvision/secure-aggregation/1", b"pair", b"a", b"b"))
    assert p.pair_key(ONE, p.KeyPair.of(TWO).public, transcript, "a", "b") == pair
    assert p.pair_key(TWO, p.KeyPair.of(ONE).public, transcript, "b", "a") == pair
    assert pair.hex() == "5413c8dcfa9a6e2134d0ec61b20e96f1da5edf1985bf3bb3e7fb64cbae13bfdd"
    own = hkdf(COUNTING, transcript, joined(b"fedvision/secure-aggregation/1", b"self", b"a"))
    assert p.self_key(COUNTING, transcript, "a") == own
    assert own.hex() == "616474e3439c00f94155139f399e174aa020e7989dc0793638f4b7a727156721"


def test_a_sealed_box_opens_for_its_receiver_in_its_transcript_and_for_nobody_else():
    sealed = p.seal(ONE, p.KeyPair.of(TWO).public, b"t", "a", "b", b"shares")
    public = p.KeyPair.of(ONE).public
    assert p.unseal(TWO, public, b"t", "a", "b", sealed) == b"shares"
    assert p.unseal(TWO, public, b"other", "a", "b", sealed) is None
    assert p.unseal(TWO, public, b"t", "b", "a", sealed) is None
    assert p.unseal(ONE, public, b"t", "a", "b", sealed) is None
    assert p.unseal(TWO, public, b"t", "a", "b", sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
    assert p.unseal(TWO, public, b"t", "a", "b", b"") is None


def test_secrets_are_not_shown_when_printed():
    printed = f"{p.Identity(ONE)} {p.KeyPair.of(TWO)} {masks.Mask(COUNTING, True)}"
    assert not any(secret.hex()[:8] in printed or str(secret)[2:14] in printed for secret in (ONE, TWO, COUNTING))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_any_t_shares_give_the_secret_back_and_t_minus_1_give_another(secret, threshold, data):
    holders = data.draw(st.lists(st.integers(1, 2000), min_size=threshold, max_size=20, unique=True))
    shares = shamir.split(secret, threshold, holders)
    chosen = data.draw(st.permutations(holders))[:threshold]
    assert shamir.combine({x: shares[x] for x in chosen}) == secret
    if threshold > 1:
        assert shamir.combine({x: shares[x] for x in chosen[1:]}) != secret


def test_t_minus_1_shares_fit_every_secret_equally():
    """For any other secret there is exactly one polynomial through the t − 1 shares: they say nothing."""
    shares = shamir.split(ONE, 3, [1, 2, 3])
    known = {x: int.from_bytes(shares[x]) for x in (1, 2)}
    for other in (TWO, COUNTING):
        secret, slope = int.from_bytes(other), {}
        for x, value in known.items():  # value = secret + a x + b x²: two equations for a and b
            slope[x] = (value - secret) * pow(x, -1, shamir.P) % shamir.P
        b = (slope[2] - slope[1]) % shamir.P
        a = (slope[1] - b) % shamir.P
        assert {x: int.from_bytes(v) for x, v in shamir.evaluate([secret, a, b], [1, 2]).items()} == known


@pytest.mark.parametrize(
    ("secret", "threshold", "holders"), [(b"short", 1, [1]), (ONE, 0, [1]), (ONE, 2, [1]), (ONE, 2, [1, 1]), (ONE, 1, [0])]
)
def test_a_sharing_that_cannot_be_is_refused(secret, threshold, holders):
    with pytest.raises(ValueError, match="bytes to split"):
        shamir.split(secret, threshold, holders)


def test_the_fields_modulus_is_prime():
    n = shamir.P - 1
    twos = (n & -n).bit_length() - 1
    odd = n >> twos
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53):  # Miller and Rabin
        x = pow(base, odd, shamir.P)
        assert x in (1, n) or any((x := x * x % shamir.P) == n for _ in range(twos - 1))
