"""Each algorithm's server half against numbers computed by hand: two sites, one tensor of two weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedvision.algorithms import ALGORITHMS
from fedvision.sums import COUNT, Encoder, Field, Layout, Total
from server.aggregate import Aggregate, Updates
from server.strategies import make_strategy

MODEL = {"w": torch.tensor([1.0, -1.0]), "n": torch.tensor(7)}
SITES = [([1.0, 2.0], 10), ([3.0, -2.0], 30)]  # (update, examples); their weighted mean is [2.5, -1.0]


def layout(control: bool = False) -> Layout:
    fields = [Field("weights", {"w": (2,)}, 16.0)]
    if control:
        fields.append(Field("control", {"w": (2,)}, 16.0, weighted=False))
    fields += [Field("loss", {"": ()}, 100.0), Field(COUNT, {"": ()}, 100, weighted=False, whole=True)]
    fields.append(Field("examples", {"": ()}, 100, weighted=False, whole=True))
    return Layout(tuple(fields), 64, 4, 100)


def sent(sites: list[tuple[list[float], int]] = SITES, controls: list[list[float]] | None = None) -> Aggregate:
    here = layout(controls is not None)
    total = Total(here)
    for number, (update, n) in enumerate(sites):
        values: dict[str, Any] = {"weights": {"w": np.float32(update)}, "loss": 1.0 + number, COUNT: n, "examples": n}
        if controls is not None:
            values["control"] = {"w": np.float32(controls[number])}
        total.add(Encoder(here).encode(values, n))
    return Aggregate.of(total)


def strategy(name: str, **options: Any) -> Any:
    return make_strategy(ALGORITHMS[name](name=name, **options))


def close(a: torch.Tensor, b: list[float]) -> None:
    np.testing.assert_allclose(a.numpy(), b, rtol=1e-6)


def test_fedavg_is_the_mean_weighted_by_examples() -> None:
    rule = strategy("fedavg")
    state = rule.apply(rule.init(MODEL), sent(), 2)
    close(rule.weights(state)["w"], [3.5, -2.0])
    assert rule.weights(state)["n"] == 7


def test_fedavg_with_a_server_learning_rate_goes_that_share_of_the_way() -> None:
    rule = strategy("fedavg", server_learning_rate=0.5)
    close(rule.weights(rule.apply(rule.init(MODEL), sent(), 2))["w"], [2.25, -1.5])


def test_fedavgm_adds_beta_times_its_last_velocity() -> None:
    rule = strategy("fedavgm", momentum=0.5)
    once = rule.apply(rule.init(MODEL), sent(), 2)
    twice = rule.apply(once, sent([([1.0, 0.0], 1)]), 2)  # v = 0.5 [2.5, -1] + [1, 0] = [2.25, -0.5]
    close(rule.weights(once)["w"], [3.5, -2.0])
    close(rule.weights(twice)["w"], [5.75, -2.5])


def test_fedadam_takes_reddis_step_without_bias_correction() -> None:
    rule = strategy("fedadam", server_learning_rate=0.1, beta1=0.9, beta2=0.99, tau=0.1)
    once = rule.apply(rule.init(MODEL), sent(), 2)
    m, v = np.array([0.25, -0.1]), 0.99 * 0.01 + 0.01 * np.array([6.25, 1.0])
    close(rule.weights(once)["w"], (np.array([1.0, -1.0]) + 0.1 * m / (np.sqrt(v) + 0.1)).tolist())
    twice = rule.apply(once, sent(), 2)
    m, v = 0.9 * m + 0.1 * np.array([2.5, -1.0]), 0.99 * v + 0.01 * np.array([6.25, 1.0])
    close(twice.w["w"] - once.w["w"], (0.1 * m / (np.sqrt(v) + 0.1)).tolist())


def test_scaffold_moves_c_by_the_share_of_the_sites_that_took_part() -> None:
    rule = strategy("scaffold")
    state = rule.apply(rule.init(MODEL), sent(controls=[[1.0, 0.0], [3.0, 2.0]]), 8)  # |S|/N = 1/4 of the mean [2, 1]
    close(rule.weights(state)["w"], [3.5, -2.0])
    close(rule.extras(state)["control"]["w"], [0.5, 0.25])
    again = rule.apply(state, sent(controls=[[1.0, 0.0], [3.0, 2.0]]), 8)
    close(rule.extras(again)["control"]["w"], [1.0, 0.5])


@pytest.mark.parametrize(("updates", "middle"), [([[1, 5], [9, -5], [2, 4]], [2, 4]), ([[1, 5], [9, -5], [2, 4], [3, 3]], [2.5, 3.5])])
def test_the_median_takes_each_coordinate_by_itself_and_one_site_cannot_move_it_far(
    updates: list[list[float]], middle: list[float]
) -> None:
    here = layout()
    rule, stack = strategy("median"), Updates(here, 4, 1e9)
    for number, update in enumerate(updates):
        values = {"weights": {"w": np.float32(update)}, "loss": 1.0, COUNT: 5, "examples": 5}
        stack.add(f"site-{number}", Encoder(here).encode(values, 5))
    close(rule.weights(rule.apply(rule.init(MODEL), stack, 4))["w"] - MODEL["w"], middle)
    assert stack.whole("examples") == 5 * len(updates)
    stack.close()


def test_running_statistics_are_averaged_whatever_the_server_learning_rate() -> None:
    here = Layout((Field("weights", {"w": (1,)}, 16.0), Field("buffers", {"m": (1,)}, 4096.0), *layout().fields[1:]), 64, 4, 100)
    total = Total(here)
    values = {"weights": {"w": np.float32([2.0])}, "buffers": {"m": np.float32([100.0])}, "loss": 0.0, COUNT: 1, "examples": 1}
    total.add(Encoder(here).encode(values, 1))
    rule = strategy("fedavg", server_learning_rate=0.5)
    state = rule.apply(rule.init({"w": torch.zeros(1), "m": torch.zeros(1)}), Aggregate.of(total), 1)
    assert (state.w["w"].item(), state.w["m"].item()) == (1.0, pytest.approx(100.0))


def test_a_strategy_changes_no_state_that_it_was_given() -> None:
    for name in ("fedavg", "fedavgm", "fedadam"):
        rule = strategy(name)
        state = rule.init(MODEL)
        rule.apply(state, sent(), 2)
        close(state.w["w"], [1.0, -1.0])


def test_the_training_loss_of_a_round_is_the_weighted_mean_of_the_sites() -> None:
    assert sent().mean_loss == pytest.approx((10 * 1.0 + 30 * 2.0) / 40)


def test_a_checkpoint_gives_back_every_strategys_state(tmp_path: Path) -> None:
    from server.checkpoints import Checkpoints, Progress

    for name in ("fedavg", "fedavgm", "fedadam", "scaffold"):
        rule, store = strategy(name), Checkpoints(tmp_path / name, 2)
        state = rule.apply(rule.init(MODEL), sent(controls=[[1.0, 0.0], [3.0, 2.0]]), 8)
        for number in range(4):
            store.write(state, Progress(number, 0.5), best=number == 1)
        found = store.newest(rule.init(MODEL))
        assert found is not None and found[1] == Progress(3, 0.5)
        assert sorted(p.name for p in store.folder.iterdir()) == ["best.safetensors", "round-2.safetensors", "round-3.safetensors"]
        again, straight = (rule.apply(s, sent(controls=[[1.0, 0.0], [3.0, 2.0]]), 8) for s in (found[0], state))
        assert torch.equal(rule.weights(again)["w"], rule.weights(straight)["w"])
