"""Rings, masks and their packed form."""

import os
import time
import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvision.errors import AggregationRefused
from fedvision.sums import Encoder, Field, Layout
from privacy.secure_aggregation import masks
from privacy.secure_aggregation.masks import BITS, CHUNK, Mask, Ring

SIZES = (1, 2, 5, 1001, CHUNK + 3)


def random_vector(ring: Ring) -> np.ndarray:
    return np.frombuffer(os.urandom(8 * ring.size), np.uint64) >> np.uint64(64 - ring.bits)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", SIZES)
def test_packing_loses_nothing_and_takes_no_byte_too_many(bits, size):
    ring = Ring(bits, size)
    vector = random_vector(ring).astype(ring.dtype)
    body = masks.pack(vector, ring)
    assert len(body) == -(-bits * size // 8)
    assert (masks.unpack(body, ring) == vector).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", SIZES)
def test_a_mask_added_and_taken_away_leaves_the_signed_numbers(bits, size):
    ring, key = Ring(bits, size), os.urandom(32)
    numbers = masks.signed(random_vector(ring).astype(ring.dtype), ring)
    masked = masks.apply(numbers, [Mask(key, True)], ring)
    assert not (masked == masks.apply(numbers, [], ring)).all() or size == 1
    assert (masks.signed(masks.apply(masked, [Mask(key, False)], ring), ring) == numbers).all()


def test_signed_reads_the_upper_half_of_a_ring_as_negative():
    for bits in BITS:
        ring = Ring(bits, 4)
        top = 1 << (bits - 1)
        words = np.array([0, top - 1, top, (1 << bits) - 1], ring.dtype)
        assert [int(v) for v in masks.signed(words, ring)] == [0, top - 1, -top, -1]


def test_masking_in_place_gives_the_bytes_of_masking_a_copy():
    ring, applied = Ring(32, 100_000), [Mask(bytes([i]) * 32, i % 2 == 0) for i in range(3)]
    vector = np.arange(-50_000, 50_000, dtype=np.int32)
    copied = masks.apply(vector, applied, ring)
    assert (vector == np.arange(-50_000, 50_000)).all()
    assert (masks.apply(vector, applied, ring, out=masks.in_place(vector, ring)) == copied).all()
    assert np.shares_memory(masks.in_place(vector, ring), vector)


def test_numbers_of_another_kind_or_size_in_steps_or_read_only_are_not_masked_in_place():
    fixed = np.zeros(4, np.int32)
    fixed.flags.writeable = False
    for vector in (np.zeros(4, np.int64), np.zeros(4, np.float32), np.zeros(8, np.int32)[::2], fixed):
        assert masks.in_place(vector, Ring(32, 4)) is None
    assert masks.in_place(np.zeros(4, np.int32), Ring(32, 4)) is not None


def test_wider_numbers_are_reduced_into_words_that_lie_at_their_own_place():
    """`out` begins where `vector` does, and has words of another size."""
    memory = np.array([1 << 32, 2, 3, 4], np.int64)
    out = memory.view(np.uint32)[:4]
    assert masks.apply(memory.copy(), (), Ring(32, 4)).tolist() == [0, 2, 3, 4]
    assert masks.apply(memory, (), Ring(32, 4), out=out).tolist() == [0, 2, 3, 4]


@given(st.sampled_from(BITS), st.integers(1, 300), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_pairwise_masks_cancel_in_every_ring(bits, size, sites):
    ring = Ring(bits, size)
    keys = {(i, j): os.urandom(32) for i in range(sites) for j in range(i)}
    vectors = [random_vector(ring) for _ in range(sites)]
    total = np.zeros(size, ring.dtype)
    for i, vector in enumerate(vectors):
        applied = [Mask(keys[max(i, j), min(i, j)], i < j) for j in range(sites) if j != i]
        total += masks.unpack(masks.pack(masks.apply(vector, applied, ring), ring), ring)
    modulus = 1 << bits
    expected = [sum(int(v[k]) for v in vectors) % modulus for k in range(size)]
    assert [int(v) % modulus for v in total] == expected


@pytest.mark.parametrize("body", [b"", bytes(11), bytes(13)])
def test_a_body_of_the_wrong_length_is_refused(body):
    with pytest.raises(AggregationRefused, match="take 12"):
        masks.unpack(body, Ring(32, 3))


def test_a_ring_that_is_none_and_a_vector_of_another_shape_are_refused():
    with pytest.raises(AggregationRefused, match="a ring of 17 bits"):
        Ring(17, 1)
    with pytest.raises(AggregationRefused, match="the ring holds 3 integers"):
        masks.apply(np.zeros(2, np.int32), [], Ring(32, 3))
    with pytest.raises(AggregationRefused, match="the ring holds 3 integers"):
        masks.apply(np.zeros(3, np.float32), [], Ring(32, 3))


def test_quantising_and_masking_runs_at_half_the_raw_ciphers_speed_or_more():
    size, count = 2_000_000, 10
    layout = Layout((Field("weights", {"w": (size,)}, 1.0, weighted=False),), 32, count)
    encoder, ring = Encoder(layout), Ring(32, size)
    after, before = np.full(size, 0.25, np.float32), np.zeros(size, np.float32)
    applied = [Mask(os.urandom(32), True) for _ in range(count)]
    zeros, buffer = bytes(CHUNK), bytearray(CHUNK)

    def raw() -> float:
        cipher = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
        began = time.process_time()
        for _ in range(count * size * 4 // CHUNK):
            cipher.update_into(zeros, buffer)
        return time.process_time() - began

    def ours() -> float:
        began = time.process_time()
        vector = encoder.encode({"weights": {"w": (after, before)}}, 1)
        masks.pack(masks.apply(vector, applied, ring, out=masks.in_place(vector, ring)), ring)
        return time.process_time() - began

    assert max(raw() / ours() for _ in range(6)) >= 0.5


def test_masking_takes_at_most_twice_the_vectors_memory_besides_the_vector():
    ring = Ring(24, 1_000_000)  # the packed form of a ring with gaps is a copy of its own
    vector = np.zeros(ring.size, np.int32)
    tracemalloc.start()
    masks.pack(masks.apply(vector, [Mask(bytes(32), True)] * 3, ring), ring)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 2 * vector.nbytes
