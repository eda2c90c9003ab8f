"""Sums of updates: exact, in any order, never saturated, and never trusting a vector."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedvision.errors import ConfigError, OutOfRange, UpdateRefused
from fedvision.sums import CHUNK, COUNT, Encoder, Field, Layout, Total, Unwritten


def layout(size: int = 3, bits: int = 64, most: int = 4, limit: float = 16.0, divisor: int = 1000) -> Layout:
    fields = (
        Field("weights", {"w": (size,)}, limit),
        Field("loss", {"": ()}, 100.0),
        Field(COUNT, {"": ()}, divisor, weighted=False, whole=True),
    )
    return Layout(fields, bits, most, divisor)


def vector(of: Layout, numbers: list[float] | np.ndarray, count: int) -> np.ndarray:
    values = {"weights": {"w": np.asarray(numbers, np.float32)}, "loss": 0.5, COUNT: count}
    return Encoder(of).encode(values, count).copy()


def total(of: Layout, *vectors: np.ndarray, max_norm: float = 1e9) -> Total:
    result = Total(of, max_norm)
    for v in vectors:
        result.add(v)
    return result


def test_the_mean_of_two_sites_is_the_hand_computed_weighted_mean() -> None:
    here = layout()
    both = total(here, vector(here, [1.0, -2.0, 0.25], 10), vector(here, [3.0, 2.0, 0.25], 30))
    assert both.whole(COUNT) == 40
    mean = both.tensor("weights", "w", both.whole(COUNT) / here.divisor)
    np.testing.assert_allclose(mean, [2.5, 1.0, 0.25], rtol=0, atol=1e-12)


@given(st.permutations(range(5)), st.integers(1, 4))
def test_the_order_and_the_grouping_of_sites_change_no_bit(order: list[int], cut: int) -> None:
    here = layout(size=7, most=5)
    draw = np.random.default_rng(3)
    vectors = [vector(here, draw.normal(size=7), int(draw.integers(1, 999))) for _ in range(5)]
    straight = total(here, *vectors).sum
    shuffled = [vectors[i] for i in order]
    parts = total(here, *shuffled[:cut]).sum + total(here, *shuffled[cut:]).sum
    assert np.array_equal(straight, parts)


def test_sixty_four_bits_are_finer_than_float32() -> None:
    here = layout(size=1000, most=100, divisor=100_000)
    numbers = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    mean = total(here, vector(here, numbers, 250)).tensor("weights", "w", 250 / 100_000)
    assert np.abs(mean - numbers).max() < np.spacing(np.float32(0.1)) / 100


@pytest.mark.parametrize("bad", [16.5, -17.0, np.nan, np.inf, -np.inf, 1e30])
def test_a_number_beyond_its_range_is_an_error_and_never_saturates(bad: float) -> None:
    with pytest.raises(OutOfRange, match="beyond ± 16"):
        vector(layout(), [0.0, bad, 0.0], 10)


def test_the_range_itself_is_allowed_and_comes_back_exactly() -> None:
    here = layout(divisor=1)
    assert total(here, vector(here, [16.0, -16.0, 0.0], 1)).tensor("weights", "w").tolist() == [16.0, -16.0, 0.0]


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_chunks_of_many_small_and_large_tensors_come_back_in_their_places(size: int) -> None:
    tensors = {"a": (3,), "b": (size,), "c": (2, 2)}
    here = Layout((Field("weights", tensors, 16.0, weighted=False), Field(COUNT, {"": ()}, 1, weighted=False, whole=True)), 64, 2)
    draw = np.random.default_rng(1)
    after = {n: draw.normal(size=s).astype(np.float32) for n, s in tensors.items()}
    before = {n: draw.normal(size=s).astype(np.float32) for n, s in tensors.items()}
    sent = Encoder(here).encode({"weights": {n: (after[n], before[n]) for n in tensors}, COUNT: 1}, 1)
    back = total(here, sent)
    for name in tensors:
        np.testing.assert_allclose(back.tensor("weights", name), after[name] - before[name], rtol=0, atol=1e-9)


def test_no_sum_of_the_largest_cohort_at_the_limit_wraps() -> None:
    for bits, most in ((32, 5), (32, 1000), (64, 4000)):
        here = layout(bits=bits, most=most, divisor=1)
        vectors = [vector(here, [16.0, -16.0, 16.0], 1)] * most
        np.testing.assert_allclose(total(here, *vectors).tensor("weights", "w"), [16.0 * most, -16.0 * most, 16.0 * most])
        assert np.abs(np.sum(vectors, axis=0, dtype=np.int64)).max() < 2 ** (bits - 1)


def test_an_encoding_too_coarse_to_be_of_use_is_refused_before_anything_trains() -> None:
    with pytest.raises(ConfigError, match=r"take encoding\.bits = 64"):
        layout(bits=32, most=2**27)
    with pytest.raises(ConfigError, match="cannot hold the sum"):
        layout(bits=32, most=1000, divisor=10**7)


def test_stochastic_rounding_is_unbiased_and_by_name() -> None:
    here = layout(size=4000, bits=32, most=1000, divisor=1)
    step = 1 / here.scale("weights")
    values = {"weights": {"w": np.full(4000, 0.25 * step, np.float32)}, "loss": 0.0, COUNT: 1}
    once, twice = (Encoder(here).encode(values, 1, np.random.default_rng(9)).copy() for _ in range(2))
    assert np.array_equal(once, twice)
    assert set(once[:4000].tolist()) == {0, 1}
    assert abs(once[:4000].mean() - 0.25) < 0.03


def test_an_update_that_is_not_sound_is_refused_by_name_and_leaves_the_sum_as_it_was() -> None:
    here = layout()
    good = vector(here, [1.0, 2.0, 2.0], 10)
    running = total(here, good, max_norm=100.0)
    before = running.sum.copy()
    heavy, negative, huge, wrapped, far = (good.copy() for _ in range(5))
    heavy[-1], negative[-1] = 1001, -1
    huge[0] = np.int64(2) ** 62
    wrapped[0] = np.iinfo(np.int64).min
    far[:3] = (np.array([15.0, 15.0, 15.0]) * here.scale("weights") * 0.01).astype(np.int64)
    bad = {
        "wrong_dtype": [good.astype(np.float64), good.astype(np.int32), [1, 2, 3]],
        "wrong_shape": [good[:-1], good.reshape(1, -1), np.concatenate([good, good])],
        "bad_weight": [heavy, negative, np.zeros_like(good)],
        "out_of_range": [huge, wrapped],
    }
    for code, vectors in bad.items():
        for v in vectors:
            with pytest.raises(UpdateRefused) as refused:
                running.add(v)
            assert refused.value.code == code
    running.max_norm = 20.0
    with pytest.raises(UpdateRefused) as refused:
        running.add(far)
    assert refused.value.code == "norm_too_large"
    assert np.array_equal(running.sum, before) and running.count == 1


def test_the_norm_of_an_update_is_that_of_its_numbers_before_weighting() -> None:
    here = layout()
    assert Total(here).add(vector(here, [3.0, 4.0, 12.0], 7)) == pytest.approx(13.0)


def test_two_layouts_that_mean_other_numbers_have_other_digests() -> None:
    digests = {
        layout().digest,
        layout(size=4).digest,
        layout(limit=8.0).digest,
        layout(bits=32).digest,
        layout(most=9).digest,
        layout(divisor=7).digest,
    }
    assert len(digests) == 6 and layout().digest == layout().digest


def unwritten(of: Layout, numbers: np.ndarray, count: int) -> Unwritten:
    return Unwritten(Encoder(of), {"weights": {"w": np.asarray(numbers, np.float32)}, "loss": 0.5, COUNT: count}, count)


@pytest.mark.parametrize("size", [1, 3, CHUNK, 2 * CHUNK + 5])
def test_a_vector_that_is_never_written_adds_the_same_bits_and_the_same_norm(size: int) -> None:
    here, numbers = layout(size=size), np.random.default_rng(1).normal(size=size)
    written, straight = Total(here), Total(here)
    assert written.add(vector(here, numbers, 7)) == straight.add(unwritten(here, numbers, 7))
    assert np.array_equal(written.sum, straight.sum)
    assert written.count == straight.count == 1


@pytest.mark.parametrize("bad", [16.001, -17.0, np.nan, np.inf])
def test_a_number_beyond_its_range_met_half_way_leaves_the_sum_as_it_was(bad: float) -> None:
    here = layout(size=2 * CHUNK)
    numbers = np.ones(2 * CHUNK)
    numbers[-1] = bad
    sound = total(here, vector(here, np.ones(2 * CHUNK), 5))
    before = sound.sum.copy()
    with pytest.raises(OutOfRange):
        sound.add(unwritten(here, numbers, 3))
    assert np.array_equal(sound.sum, before)
    assert sound.count == 1


def test_an_unwritten_update_of_an_absurd_norm_is_refused_and_leaves_the_sum_as_it_was() -> None:
    here = layout()
    sound = total(here, vector(here, [1.0, 1.0, 1.0], 5), max_norm=5.0)
    before = sound.sum.copy()
    with pytest.raises(UpdateRefused, match=r"norm 17\.3"):
        sound.add(unwritten(here, np.array([10.0, 10.0, 10.0]), 5))
    assert np.array_equal(sound.sum, before)
