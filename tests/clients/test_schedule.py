"""The learning rate by hand: warmed up, over rounds and steps, and over the layers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clients.answer import answer
from clients.schedule import block_of, layer_factors, rates_of_a_round
from clients.training import learning_rate
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.learning import Training
from fedvision.schema import validate
from fedvision.types import ClientUpdate, TrainRequest

NAMES = ["stem.weight", "layers.0.weight", "layers.0.bias", "layers.1.weight", "head.weight"]


def bench(tmp_path: Path, **training: Any) -> tuple[Workbench, Any, TrainRequest]:
    values = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 2}, "federation": {"rounds": 4}, "model": {"name": "mlp", "width": 4},
        "training": {"epochs": None, "steps": 3, "batch_size": 8, "learning_rate": 0.1, **training},
    }  # fmt: skip
    experiment = validate(Experiment, values, "test")
    data = open_federated(experiment)
    made = Workbench.set_up(experiment, data.shape, data.classes, 2, tmp_path)
    return made, data.site(data.sites[0]), TrainRequest("run", 0, 1, {n: t.clone() for n, t in made.model.state_dict().items()})


def moved(made: Workbench, site: Any, request: TrainRequest) -> dict[str, torch.Tensor]:
    assert isinstance(answer(request, site, made), ClientUpdate)
    return {n: made.tensors[n] - request.model[n] for n in request.model}


def test_rates_over_rounds_by_hand() -> None:
    cosine = Training(schedule="cosine", learning_rate=1.0)
    assert [round(learning_rate(cosine, r, 4), 4) for r in range(4)] == [1.0, 0.8536, 0.5, 0.1464]
    warm = Training(schedule="cosine", learning_rate=1.0, warmup=2.0)
    assert [learning_rate(warm, r, 6) for r in range(3)] == [0.5, 1.0, 1.0] and learning_rate(warm, 4, 6) == pytest.approx(0.5)
    drops = Training(schedule="step", learning_rate=1.0, schedule_step=2, schedule_factor=0.1)
    assert [learning_rate(drops, r, 6) for r in (0, 1, 2, 4)] == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_rates_over_steps_go_on_where_the_last_round_ended() -> None:
    training = Training(schedule="cosine", schedule_per="step", learning_rate=1.0, warmup=1.0)
    first, second, last = (rates_of_a_round(training, r, 3, 4) for r in (0, 1, 2))
    assert first == [0.25, 0.5, 0.75, 1.0]
    assert [*second, *last] == pytest.approx([(1 + torch.cos(torch.tensor(torch.pi * k / 8)).item()) / 2 for k in range(8)], abs=1e-6)
    assert rates_of_a_round(Training(learning_rate=0.3), 1, 3, 2) == [0.3, 0.3]


def test_a_block_is_a_name_up_to_its_first_number() -> None:
    assert [block_of(name) for name in NAMES] == ["stem", "layers.0", "layers.0", "layers.1", "head"]


def test_each_block_further_from_the_output_learns_slower_by_the_decay() -> None:
    assert list(layer_factors(Training(layer_decay=0.5), NAMES).values()) == [0.125, 0.25, 0.25, 0.5, 1.0]
    factors = layer_factors(Training(layer_decay=0.5, rate_factors={"*.bias": 2.0, "layers.*": 0.0}), NAMES)
    assert list(factors.values()) == [0.125, 0.0, 0.5, 0.0, 1.0], "the first pattern that matches counts"
    with pytest.raises(ConfigError, match=r"no parameter matches 'fc\.\*'; the first and the last are stem\.weight and head\.weight"):
        layer_factors(Training(rate_factors={"fc.*": 0.1}), NAMES)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"optimizer": "adamw"}])
def test_a_layer_whose_factor_is_0_stays_and_the_others_step_as_without_it(options: dict[str, Any], tmp_path: Path) -> None:
    part = moved(*bench(tmp_path / "a", steps=1, rate_factors={"layers.1.*": 0.0, "layers.4.bias": 0.5}, **options))
    whole = moved(*bench(tmp_path / "b", steps=1, **options))
    assert not part["layers.1.weight"].any() and not part["layers.1.bias"].any()
    assert torch.equal(part["layers.4.weight"], whole["layers.4.weight"])
    torch.testing.assert_close(part["layers.4.bias"], whole["layers.4.bias"] / 2)


def test_scaffolds_control_variate_knows_the_rates_inside_the_round(tmp_path: Path) -> None:
    """c_i⁺ = (x − y) / Σ η: with c = c_i = 0 it is the mean of the steps' gradients, weighted by their rates."""
    values = {"schedule_per": "step", "warmup": 1.0, "steps": 4}
    made, site, request = bench(tmp_path, **values)
    experiment = validate(Experiment, made.experiment.model_dump() | {"strategy": {"name": "scaffold"}}, "test")
    made = Workbench.set_up(experiment, (1, 8, 8), made.task.classes, 2, tmp_path / "scaffold")
    change = moved(made, site, TrainRequest("run", 0, 1, request.model, {"control": {}}))
    kept = made.states.current(site.id, 0)
    for name, delta in change.items():
        torch.testing.assert_close(kept[name], -delta / (0.1 * (0.25 + 0.5 + 0.75 + 1.0)))
