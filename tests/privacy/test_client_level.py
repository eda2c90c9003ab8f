"""Site-level privacy: clipped at the site, noised once in the sum, and a clip norm that finds the quantile from both sides."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedvision.errors import ConfigError
from fedvision.protections import Adaptive, Central
from fedvision.seeds import stream
from fedvision.sums import COUNT, Encoder, Field, Layout, Total
from privacy.accountants import Phase, epsilon
from privacy.averaging import Averaged, delivered
from privacy.client_level import CentralNoise, clipped, inner, next_clip, noise_of_updates, noisy, rounding_of
from privacy.noise import for_simulation_only
from server.aggregate import Aggregate
from server.strategies import make_strategy

FEDAVG = SimpleNamespace(name="fedavg", model_dump=lambda: {"name": "fedavg", "server_learning_rate": 1.0})


def _spec(**changes: object) -> Central:
    return Central.model_validate({"noise_multiplier": 1.0, "delta": 1e-3, "clip": 1.0} | changes)


def _layout(size: int, adaptive: bool = False, most: int = 50, bits: int = 64) -> Layout:
    fields = [Field("weights", {"w": (size,)}, 16.0), Field(COUNT, {"": ()}, 1, weighted=False, whole=True)]
    return Layout((*fields, *([Field("unclipped", {"": ()}, 1, weighted=False, whole=True)] if adaptive else [])), bits, most)


def _sum(layout: Layout, updates: list[np.ndarray], bits: list[bool] | None = None) -> Aggregate:
    total = Total(layout)
    for number, update in enumerate(updates):
        values = {"weights": {"w": update.astype(np.float32)}, COUNT: {"": np.array(1.0)}}
        if bits is not None:
            values["unclipped"] = {"": np.array(float(bits[number]))}
        total.add(Encoder(layout).encode(values, 1))
    return Aggregate.of(total)


def test_an_update_is_clipped_to_the_norm_also_after_rounding_to_the_fixed_point() -> None:
    for bits in (64, 32):
        layout = _layout(5000, bits=bits)
        update = {"w": stream(0, "update").standard_normal(5000).astype(np.float32)}
        small, within = clipped(update, 0.5, rounding_of(layout))
        sent = Encoder(layout).encode({"weights": small, COUNT: {"": np.array(1.0)}}, 1)
        assert not within and 0.49 < np.linalg.norm(sent[layout.span("weights")] / layout.scale("weights")) <= 0.5


def test_an_update_within_the_norm_is_left_alone_and_one_that_is_not_finite_becomes_nothing() -> None:
    update = {"w": np.array([0.3, 0.4], np.float32)}
    same, within = clipped(update, 1.0, 0.0)
    assert within and np.array_equal(same["w"], update["w"])
    for bad in (math.nan, math.inf):
        gone, within = clipped({"w": np.array([bad, 1.0], np.float32)}, 1.0, 0.0)
        assert not within and np.array_equal(gone["w"], [0.0, 0.0])


def test_the_sum_is_divided_by_the_public_number_of_sites_whoever_answers() -> None:
    layout, strategy = _layout(4), CentralNoise(make_strategy(FEDAVG), _spec(noise_multiplier=0.01, clip=1e-6), 0.01, sites=10)
    state = strategy.init({"w": torch.zeros(4)})
    for answered in (1, 5):
        after = strategy.apply(state, _sum(layout, [np.full(4, 2.0)] * answered), 10)
        assert torch.allclose(strategy.weights(after)["w"], torch.full((4,), 2.0 * answered / 10), atol=1e-5)


def test_the_noise_of_the_mean_has_the_deviation_of_the_plan_and_is_new_in_every_round() -> None:
    layout, strategy = _layout(40_000), CentralNoise(make_strategy(FEDAVG), _spec(clip=0.5), sigma=2.0, sites=8)
    state = strategy.init({"w": torch.zeros(40_000)})
    first = strategy.apply(state, _sum(layout, [np.zeros(40_000)]), 8)
    second = strategy.apply(first, _sum(layout, [np.zeros(40_000)]), 8)
    a, b = first.w["w"], second.w["w"] - first.w["w"]
    assert float(a.std()) == pytest.approx(2.0 * 0.5 / 8, rel=0.03)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.03


def test_local_noise_has_the_deviation_asked_for_on_every_number() -> None:
    update = {"a": np.zeros((100, 50), np.float32), "b": np.full(5000, 3.0, np.float32)}
    found = noisy(update, 0.7, for_simulation_only(0))
    assert found["a"].shape == (100, 50) and found["a"].std() == pytest.approx(0.7, rel=0.05)
    assert (found["b"] - 3.0).std() == pytest.approx(0.7, rel=0.05) and not np.array_equal(found["a"].ravel(), found["b"] - 3.0)


@pytest.mark.parametrize("start", [0.02, 0.9, 1.1, 50.0])
def test_the_adaptive_clip_norm_finds_the_median_of_the_norms_from_both_sides(start: float) -> None:
    adaptive = Adaptive(quantile=0.5, rate=0.2, noise=1.0)
    norms = np.exp(stream(3, "norms").normal(0.0, 0.5, (200, 100)))  # median 1
    clip = start
    for row in norms:
        clip = next_clip(clip, adaptive, float((row <= clip).mean()))
    assert 0.8 < clip < 1.25


def test_the_clip_norm_that_a_run_keeps_follows_the_noisy_share_and_reaches_the_sites() -> None:
    layout = _layout(2, adaptive=True)
    strategy = CentralNoise(make_strategy(FEDAVG), _spec(adaptive={"noise": 2.0}, simulation_only_seed=1), 1.0, sites=40)
    for within, moved in ((True, -1), (False, 1)):
        state = strategy.init({"w": torch.zeros(2)})
        for _ in range(5):
            state = strategy.apply(state, _sum(layout, [np.zeros(2)] * 40, [within] * 40), 40)
        clip = float(strategy.extras(state)["privacy"]["clip"])
        assert math.copysign(1, clip - 1) == moved and abs(math.log(clip)) == pytest.approx(5 * 0.2 * 0.5, rel=0.3)


def test_a_site_that_is_not_there_moves_the_share_by_half_a_bit_either_way() -> None:
    layout = _layout(2, adaptive=True)
    strategy = CentralNoise(make_strategy(FEDAVG), _spec(adaptive={"noise": 1.0}), 0.9, sites=10)
    shares = []
    for bits in ([True] * 5, [True] * 6, [True] * 5 + [False]):
        seeded = for_simulation_only(0)
        shares.append(10 * strategy._share(_sum(layout, [np.zeros(2)] * len(bits), bits), seeded))
    assert shares[1] - shares[0] == pytest.approx(0.5) and shares[2] - shares[0] == pytest.approx(-0.5)


def test_the_share_of_sites_within_the_clip_norm_has_noise_of_the_stated_deviation() -> None:
    strategy = CentralNoise(make_strategy(FEDAVG), _spec(adaptive={"noise": 3.0}), 0.9, sites=10)
    sent = _sum(_layout(2, adaptive=True), [np.zeros(2)] * 10, [True] * 10)
    sums = [10 * strategy._share(sent, for_simulation_only(n)) for n in range(400)]
    assert np.std(sums) == pytest.approx(3.0, rel=0.15) and np.mean(sums) == pytest.approx(10.0, abs=0.6)


def test_the_two_releases_of_an_adaptive_round_cost_what_one_gaussian_does() -> None:
    sigma, bits = 1.0, 2.0
    updates = noise_of_updates(sigma, Adaptive(noise=bits))
    assert updates > sigma
    both = epsilon([Phase(updates, 1.0, 20), Phase(2 * bits, 1.0, 20)], 1e-5)
    assert both == pytest.approx(epsilon([Phase(sigma, 1.0, 20)], 1e-5), rel=1e-3)


def test_bits_that_would_cost_more_than_the_whole_release_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.adaptive\.noise = 0\.5"):
        noise_of_updates(2.0, Adaptive(noise=0.5))


def test_the_average_is_delivered_and_the_sites_go_on_from_the_last_model() -> None:
    layout, strategy = _layout(1), Averaged(make_strategy(FEDAVG), decay=0.5)
    state = strategy.init({"w": torch.zeros(1)})
    seen = []
    for _ in range(12):
        state = strategy.apply(state, _sum(layout, [np.ones(1)]), 1)
        seen.append((float(strategy.weights(state)["w"]), float(delivered(strategy, state)["w"])))
    assert [round(w) for w, _ in seen] == list(range(1, 13))
    assert seen[0][1] == pytest.approx(0.9)
    assert seen[-1][1] == pytest.approx(0.5 * seen[-2][1] + 0.5 * 12)


def test_protections_compose_and_their_states_come_apart_again() -> None:
    strategy = Averaged(CentralNoise(make_strategy(FEDAVG), _spec(), 1.0, 4), 0.9)
    state = strategy.init({"w": torch.ones(2)})
    assert set(vars(state)) == {"w", "clip", "average", "averaged"}
    assert set(vars(inner(inner(state, strategy.strategy), strategy.strategy.strategy))) == {"w"}
