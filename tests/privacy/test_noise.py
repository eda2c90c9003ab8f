"""The noise is Gaussian, of the stated width, added once, and nobody can repeat it."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from privacy.noise import CHUNK, Source, for_simulation_only, secret


def _drawn(source: Source, n: int, sigma: float = 1.0) -> np.ndarray:
    x = torch.zeros(n)
    source.add_gaussian(x, sigma)
    return x.numpy().astype(np.float64)


def test_its_moments_are_those_of_the_stated_gaussian() -> None:
    n, sigma = 2_000_000, 3.0
    x = _drawn(for_simulation_only(1, "moments"), n, sigma) / sigma
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)


def test_its_distribution_passes_kolmogorov_and_smirnov_also_where_the_system_keys_it() -> None:
    for source in (for_simulation_only(2, "ks"), secret()):
        assert stats.kstest(_drawn(source, 200_000), "norm").pvalue > 1e-6


def test_its_tails_are_there() -> None:
    x = np.abs(_drawn(for_simulation_only(3, "tails"), 4_000_000))
    for bound in (3.0, 4.0, 5.0):
        expected = 2 * stats.norm.sf(bound) * len(x)
        assert abs((x > bound).sum() - expected) < 6 * math.sqrt(expected) + 1


@pytest.mark.parametrize("size", [1, 2, 3, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 5 * CHUNK + 7])
def test_every_number_of_any_length_gets_its_own_noise(size: int) -> None:
    x = _drawn(secret(), size)
    assert (x != 0).all()
    assert len(np.unique(x)) > 0.99 * size


def test_it_is_added_to_what_is_there_with_the_stated_deviation_and_to_nothing_else() -> None:
    x = torch.full((300_000,), 5.0)
    around = torch.full((300_002,), 7.0)
    inside = around[1:-1]
    secret().add_gaussian(x, 0.5)
    secret().add_gaussian(inside, 0.0)
    assert abs(float(x.mean()) - 5) < 0.01 and abs(float(x.std()) - 0.5) < 0.01
    assert (around == 7.0).all()


def test_sites_rounds_and_parameters_have_uncorrelated_noise() -> None:
    n = 100_000
    draws = [_drawn(for_simulation_only(0, "site", site, "round", r), n) for site in ("a", "b") for r in (0, 1)] + [_drawn(secret(), n)]
    off = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(off).max() < 6 / math.sqrt(n)
    x = draws[0]
    for lag in (1, 2, CHUNK, 2 * CHUNK - 1):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 6 / math.sqrt(n - lag)
    cosine_and_sine = np.abs(_drawn(for_simulation_only(9), 2 * CHUNK))
    assert abs(np.corrcoef(cosine_and_sine[:CHUNK], cosine_and_sine[CHUNK:])[0, 1]) < 6 / math.sqrt(CHUNK)


def test_the_seeds_that_are_public_do_not_touch_secret_noise() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    first = _drawn(secret(), 100)
    torch.manual_seed(0)
    np.random.seed(0)
    assert not np.array_equal(first, _drawn(secret(), 100))


def test_noise_for_simulations_repeats_under_its_name_alone_and_says_that_it_is_no_secret() -> None:
    names = (0, "site", "a", "round", 3)
    assert np.array_equal(_drawn(for_simulation_only(*names), 100), _drawn(for_simulation_only(*names), 100))
    assert not np.array_equal(_drawn(for_simulation_only(*names), 100), _drawn(for_simulation_only(1, *names[1:]), 100))
    assert not for_simulation_only(*names).secret and secret().secret


def test_a_secret_source_cannot_be_copied_or_sent() -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="would repeat it"):
            attempt(secret())


def test_a_poisson_sample_takes_each_with_the_rate_and_may_be_empty() -> None:
    source = for_simulation_only(4)
    sizes = [len(source.poisson_sample(1000, 0.05)) for _ in range(2000)]
    assert abs(np.mean(sizes) - 50) < 6 * math.sqrt(47.5 / 2000)
    assert np.var(sizes) == pytest.approx(47.5, rel=0.2)
    assert len(source.poisson_sample(0, 0.5)) == 0 and len(source.poisson_sample(100, 1e-9)) == 0
    assert len(source.poisson_sample(100, 1.0)) == 100


def test_a_bit_of_the_stream_is_aes_256_in_counter_mode() -> None:
    words = Source(bytes(range(32)), secret=False)._draw(8).numpy().view(np.uint32)
    assert [f"{w:08x}" for w in words] == ["b60090f2", "d09f492a", "6a9af3a9", "80772edd", "ae765df0", "e59fb94a", "319bf6a6", "3d36c248"]
