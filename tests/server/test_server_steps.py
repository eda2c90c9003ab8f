"""The coordinator's step of each newer algorithm against numbers computed by hand: two sites, two weights, as few as it takes."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedvision.algorithms import ALGORITHMS
from fedvision.errors import RoundFailed
from fedvision.sums import COUNT, Encoder, Field, Layout, Total
from server.aggregate import BLOCK, Aggregate, Updates
from server.checkpoints import Checkpoints, Progress
from server.strategies import make_strategy
from server.strategies.krum import distances, scores

MODEL = {"w": torch.tensor([1.0, -1.0]), "n": torch.tensor(7)}
OWN = {
    "tau": Field("tau", {"": ()}, 100.0, wide=True),
    "h": Field("h", {"": ()}, 100.0, wide=True),
    "share": Field("share", {"": ()}, 1.0, weighted=False, wide=True),
    "losses": Field("losses", {"": (2,)}, 10.0, weighted=False, wide=True),
}
Sites = list[tuple[list[float], int, dict[str, Any]]]  # (what is sent as weights, examples, own fields)


def layout(*own: str, most: int = 8, divisor: int = 100, size: int = 2) -> Layout:
    ends = [Field("loss", {"": ()}, 100.0), Field(COUNT, {"": ()}, divisor, weighted=False, whole=True)]
    examples = Field("examples", {"": ()}, 100, weighted=False, whole=True)
    return Layout((Field("weights", {"w": (size,)}, 16.0), *(OWN[name] for name in own), *ends, examples), 64, most, divisor)


def summed(sites: Sites, divisor: int = 100) -> Aggregate:
    here = layout(*sites[0][2], divisor=divisor)
    total = Total(here)
    for weights, n, own in sites:
        total.add(Encoder(here).encode({"weights": {"w": np.float32(weights)}, "loss": 1.0, COUNT: n, "examples": n, **own}, n))
    return Aggregate.of(total)


def apart(updates: list[list[float]], folder: Path | None = None) -> Updates:
    here = layout(most=len(updates), divisor=1)
    kept = Updates(here, len(updates), 1e9, folder)
    for number in reversed(range(len(updates))):  # as they happen to arrive
        values = {"weights": {"w": np.float32(updates[number])}, "loss": 1.0, COUNT: 1, "examples": 5}
        kept.add(f"site-{number}", Encoder(here).encode(values, 1))
    return kept


def rule(name: str, sites: tuple[str, ...] = (), **options: Any) -> Any:
    return make_strategy(ALGORITHMS[name](name=name, **options), sites)


def move(name: str, sent: Any, sites: int = 2, **options: Any) -> list[float]:
    strategy = rule(name, **options)
    after = strategy.weights(strategy.apply(strategy.init(MODEL), sent, sites))
    assert after["n"] == 7
    return (after["w"] - MODEL["w"]).tolist()  # type: ignore[no-any-return]


PLAIN: Sites = [([1.0, 2.0], 10, {}), ([3.0, -2.0], 30, {})]  # the weighted mean is [2.5, -1]


def test_fedyogi_moves_v_by_a_fixed_share_towards_the_square() -> None:
    strategy = rule("fedyogi", server_learning_rate=0.1, beta1=0.5, beta2=0.75, tau=2.0)
    once = strategy.apply(strategy.init(MODEL), summed(PLAIN), 2)
    # m = ½ [2.5, -1]; v from τ² = 4: Δ² = 6.25 is above, + ¼ · 6.25; Δ² = 1 is below, - ¼ · 1
    v = np.array([5.5625, 3.75])
    np.testing.assert_allclose(once.v["w"], v)
    np.testing.assert_allclose(once.w["w"] - MODEL["w"], 0.1 * np.array([1.25, -0.5]) / (np.sqrt(v) + 2), rtol=1e-5)
    twice = strategy.apply(once, summed(PLAIN), 2)
    np.testing.assert_allclose(twice.v["w"], [5.5625 + 0.25 * 6.25, 3.75 - 0.25])
    np.testing.assert_allclose(twice.m["w"], [0.5 * 1.25 + 1.25, -0.75])


def test_fedadagrad_adds_every_square_to_v_and_takes_no_momentum() -> None:
    strategy = rule("fedadagrad", server_learning_rate=0.1, tau=1.0)
    once = strategy.apply(strategy.init(MODEL), summed(PLAIN), 2)
    np.testing.assert_allclose(once.v["w"], [7.25, 2.0])
    np.testing.assert_allclose(once.w["w"] - MODEL["w"], 0.1 * np.array([2.5, -1]) / (np.sqrt([7.25, 2.0]) + 1), rtol=1e-5)
    assert strategy.apply(once, summed(PLAIN), 2).v["w"].tolist() == [13.5, 3.0]


def test_fednova_averages_normalised_updates_and_goes_the_mean_number_of_steps() -> None:
    # 2 steps that moved [2, 0] and 6 steps that moved [0, 6]: a step each is [1, 0] and [0, 1], p = ¼ and ¾, τ_eff = 5
    sites: Sites = [([1.0, 0.0], 10, {"tau": 2.0}), ([0.0, 1.0], 30, {"tau": 6.0})]
    assert move("fednova", summed(sites)) == pytest.approx([5 * 0.25, 5 * 0.75])
    assert move("fednova", summed(sites), server_learning_rate=0.5) == pytest.approx([2.5 * 0.25, 2.5 * 0.75])


def test_feddyn_corrects_the_mean_by_what_all_sites_moved_so_far() -> None:
    # α = ½, 2 of m = 4 sites: h = -½ · ½ · [2, 0]; θ moves by [2, 0] - h/α = [3, 0]
    strategy, sites = rule("feddyn", alpha=0.5), [([1.0, 2.0], 1, {}), ([3.0, -2.0], 1, {})]
    once = strategy.apply(strategy.init(MODEL), summed(sites, divisor=1), 4)
    assert once.h["w"].tolist() == [-0.5, 0.0]
    assert (once.theta["w"] - MODEL["w"]).tolist() == pytest.approx([3.0, 0.0])
    twice = strategy.apply(once, summed(sites, divisor=1), 4)  # h = [-1, 0], so [2, 0] + [2, 0]
    assert (twice.theta["w"] - once.theta["w"]).tolist() == pytest.approx([4.0, 0.0])


def test_q_fedavg_divides_the_weighted_updates_by_the_sum_of_h() -> None:
    # p = ¼ and ¾: (¼ [1, 2] + ¾ [3, -2]) / (¼ · 2 + ¾ · 6) = [2.5, -1] / 5
    assert move("qfedavg", summed([([1.0, 2.0], 10, {"h": 2.0}), ([3.0, -2.0], 30, {"h": 6.0})])) == pytest.approx([0.5, -0.2])


def test_q_fedavg_stays_where_it_is_when_no_site_has_any_loss() -> None:
    assert move("qfedavg", summed([([0.0, 0.0], 10, {"h": 0.0})])) == [0.0, 0.0]


def test_afl_moves_by_the_mixture_and_the_mixture_up_the_losses() -> None:
    strategy = rule("afl", ("a", "b"), mixture_learning_rate=0.1)
    state = strategy.init(MODEL)
    assert [float(x) for x in strategy.extras(state)["mixture"].values()] == [0.5, 0.5]
    # a and b send λ Δ with λ = ½, and their losses 1 and 3: λ + 0.1 · [1, 3] = [0.6, 0.8], back onto the simplex [0.4, 0.6]
    sent = summed(
        [
            ([0.5, 1.0], 1, {"share": 0.5, "losses": {"": np.float32([1, 0])}}),
            ([1.5, -1.0], 1, {"share": 0.5, "losses": {"": np.float32([0, 3])}}),
        ],
        divisor=1,
    )
    after = strategy.apply(state, sent, 2)
    assert (after.w["w"] - MODEL["w"]).tolist() == pytest.approx([2.0, 0.0])
    assert [float(x) for x in after.mixture.values()] == pytest.approx([0.4, 0.6])


def test_afl_shares_the_weight_among_those_that_replied() -> None:
    strategy = rule("afl", ("a", "b"), mixture_learning_rate=0.1)
    only = summed([([0.5, 1.0], 1, {"share": 0.5, "losses": {"": np.float32([2, 0])}})], divisor=1)
    after = strategy.apply(strategy.init(MODEL), only, 2)
    assert (after.w["w"] - MODEL["w"]).tolist() == pytest.approx([1.0, 2.0])
    assert [float(x) for x in after.mixture.values()] == pytest.approx([0.6, 0.4])


def test_the_trimmed_mean_leaves_out_the_extremes_of_each_coordinate() -> None:
    updates = [[1.0, 5.0], [2.0, -9.0], [3.0, 6.0], [15.0, 7.0]]
    assert move("trimmed_mean", apart(updates), trim=0.25) == pytest.approx([2.5, 5.5])
    assert move("trimmed_mean", apart(updates), trim=0.2) == pytest.approx([5.25, 2.25]), "⌊0.2 · 4⌋ = 0: the mean"
    assert move("trimmed_mean", apart([[float(n), 0.0] for n in range(10)]), trim=0.1) == pytest.approx([4.5, 0.0])


FIVE = [[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0], [9.0, 9.0]]  # the last is the odd one out


def test_krum_scores_an_update_by_its_n_f_2_nearest_and_takes_the_one_with_the_smallest_score() -> None:
    squares = distances(apart(FIVE))
    assert squares[0].tolist() == pytest.approx([0, 1, 1, 1, 145]) and squares[1].tolist() == pytest.approx([1, 0, 2, 2, 128])
    assert scores(squares, 1).tolist() == pytest.approx([2, 3, 3, 3, 128 + 130])  # two nearest: 5 - 1 - 2
    assert move("krum", apart(FIVE), byzantine=1) == pytest.approx([1.0, 0.0])


def test_multi_krum_averages_the_updates_with_the_smallest_scores() -> None:
    assert move("multi_krum", apart(FIVE), byzantine=1) == pytest.approx([1.0, 0.25]), "all but f"
    assert move("multi_krum", apart(FIVE), byzantine=1, selected=2) == pytest.approx([1.0, 0.5]), "of equal scores, the first names"


def test_krum_does_not_go_on_where_too_few_replied_for_its_promise() -> None:
    with pytest.raises(RoundFailed, match=r"4 updates, and Krum against 1 of them needs 5: set federation.min_replies to 5"):
        move("krum", apart(FIVE[:4]), byzantine=1)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "multi_krum"])
def test_rules_on_single_updates_hold_a_few_blocks_however_many_sites_reply(name: str, tmp_path: Path) -> None:
    size, draw = 200_000, np.random.default_rng(0)
    peaks = {}
    for sites in (6, 48):  # 9.6 and 77 MB of updates
        here = layout(most=sites, divisor=1, size=size)
        kept, encoder = Updates(here, sites, 1e9, tmp_path), Encoder(here)
        for number in range(sites):
            update = draw.standard_normal(size).astype(np.float32)
            kept.add(f"site-{number:02}", encoder.encode({"weights": {"w": update}, "loss": 1.0, COUNT: 1, "examples": 1}, 1))
        strategy = rule(name)
        state = strategy.init({"w": torch.zeros(size)})
        tracemalloc.start()
        strategy.apply(state, kept, sites)
        peaks[sites] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        kept.close()
    assert max(peaks.values()) < 5 * 8 * BLOCK  # four copies of a block of doubles, and the result
    assert not list(tmp_path.iterdir())


def test_updates_that_do_not_fit_on_the_disk_are_an_error_before_the_first_arrives(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Updates(layout(most=2**40, divisor=1), 2**40, 1e9, tmp_path)


@pytest.mark.parametrize("name", ["fedyogi", "fedadagrad", "feddyn", "afl"])
def test_a_checkpoint_gives_the_state_back_and_the_next_step_is_the_same(name: str, tmp_path: Path) -> None:
    own = {"share": 0.5, "losses": {"": np.float32([2, 0])}} if name == "afl" else {}
    strategy, sites = rule(name, ("a", "b")), [([0.5, 1.0], 1, own)]
    before = strategy.init(MODEL)
    state = strategy.apply(before, summed(sites, divisor=1), 4)
    assert before is not state and torch.equal(strategy.weights(before)["w"], MODEL["w"]), "no state is changed in place"
    store = Checkpoints(tmp_path, 2)
    store.write(state, Progress(1), best=False)
    found = store.newest(strategy.init(MODEL))
    assert found is not None
    again, straight = (strategy.apply(s, summed(sites, divisor=1), 4) for s in (found[0], state))
    assert torch.equal(strategy.weights(again)["w"], strategy.weights(straight)["w"])
    assert {k: v.tolist() for k, v in strategy.extras(again).get("mixture", {}).items()} == {
        k: v.tolist() for k, v in strategy.extras(straight).get("mixture", {}).items()
    }
