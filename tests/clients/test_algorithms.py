"""Each algorithm's half at the sites, against steps made by hand on one linear layer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.answer import answer
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.errors import RunFolderError
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.sums import COUNT, Total
from fedvision.types import ClientUpdate, Declined, EvaluateRequest, Measured, SiteId, TrainRequest

SITE = SiteId("site-0")
Made = tuple[Workbench, Callable[..., TrainRequest], Callable[[TrainRequest], ClientUpdate]]


def make(tmp_path: Path, **changes: object) -> tuple[Workbench, object, TrainRequest]:
    values = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "iid", "sites": 2},
        "federation": {"rounds": 3},
        "model": {"name": "mlp", "width": 4},
        "training": {"epochs": None, "steps": 3, "batch_size": 8, "learning_rate": 0.1},
        **changes,
    }
    experiment = validate(Experiment, values, "test")
    data = open_federated(experiment)
    bench = Workbench.set_up(experiment, data.shape, data.classes, 2, tmp_path / "sites")
    model = {name: t.clone() for name, t in bench.model.state_dict().items()}
    return bench, data.site(data.sites[0]), TrainRequest("run", 0, 1, model)


def change(bench: Workbench, update: object, field: str = "weights") -> dict[str, np.ndarray]:
    assert isinstance(update, ClientUpdate), update
    total = Total(bench.layout)
    total.add(update.vector)
    over = total.whole(COUNT) / bench.layout.divisor if bench.layout.by_name[field].weighted else 1.0
    return {name: total.tensor(field, name, over) for name in bench.layout.slots[field]}


def by_hand(
    bench: Workbench, site: object, request: TrainRequest, adjust: Callable[[str, torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """SGD written out: w ← w − η (∇F(w) + adjust(name, w)), over the same batches."""
    from clients.training import batches

    training = bench.experiment.training
    w = {name: t.clone() for name, t in request.model.items()}
    for positions in batches(len(site.train), training, bench.experiment.seed, "site", site.id, "round", request.round):  # type: ignore[attr-defined]
        batch = site.train.batch(positions)  # type: ignore[attr-defined]
        leaves = {name: t.clone().requires_grad_() for name, t in w.items()}
        logits = torch.func.functional_call(bench.model, leaves, batch.inputs)
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, batch.targets), list(leaves.values()))
        w = {name: w[name] - training.learning_rate * (g + adjust(name, w[name])) for (name, g) in zip(w, gradients, strict=True)}
    return w


def agree(sent: dict[str, np.ndarray], w: dict[str, torch.Tensor], request: TrainRequest) -> None:
    for name, delta in sent.items():
        np.testing.assert_allclose(delta, (w[name] - request.model[name]).numpy(), atol=2e-6)


def test_fedavgs_update_is_plain_sgd_over_the_named_batches(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path)
    agree(change(bench, answer(request, site, bench)), by_hand(bench, site, request, lambda n, w: torch.zeros(())), request)


def test_fedprox_pulls_every_step_back_towards_the_models_weights(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, strategy={"name": "fedprox", "mu": 0.7})
    agree(change(bench, answer(request, site, bench)), by_hand(bench, site, request, lambda n, w: 0.7 * (w - request.model[n])), request)


def test_scaffolds_steps_and_control_variates_are_algorithm_1_option_ii(tmp_path: Path) -> None:
    bench, site, first = make(tmp_path, strategy={"name": "scaffold"})
    draw = torch.Generator().manual_seed(0)
    c = {name: 0.1 * torch.randn(t.shape, generator=draw) for name, t in first.model.items()}
    first = TrainRequest("run", 0, 1, first.model, {"control": c})
    update = answer(first, site, bench)
    w = by_hand(bench, site, first, lambda n, _: c[n])  # c_i = 0
    agree(change(bench, update), w, first)
    c_i = {n: -c[n] + (first.model[n] - w[n]) / (3 * 0.1) for n in w}
    for name, delta in change(bench, update, "control").items():
        np.testing.assert_allclose(delta, c_i[name].numpy(), atol=2e-5)
    second = TrainRequest("run", 1, 1, first.model, {"control": c}, counted=0)
    w = by_hand(bench, site, second, lambda n, _: c[n] - c_i[n])
    agree(change(bench, answer(second, site, bench)), w, second)


def test_a_state_is_current_only_once_its_round_is_named_as_counted(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, strategy={"name": "scaffold"})
    request = TrainRequest("run", 0, 1, request.model, {"control": {}})
    once = answer(request, site, bench).vector.copy()  # type: ignore[union-attr]
    twice = answer(request, site, bench).vector.copy()  # type: ignore[union-attr]
    assert np.array_equal(once, twice), "asked twice, the same bytes: nothing moved"
    uncounted = answer(TrainRequest("run", 1, 1, request.model, {"control": {}}), site, bench).vector.copy()  # type: ignore[union-attr]
    counted = answer(TrainRequest("run", 1, 1, request.model, {"control": {}}, counted=0), site, bench).vector.copy()  # type: ignore[union-attr]
    assert not np.array_equal(uncounted, counted)
    kept = sorted(p.name for p in (tmp_path / "sites" / site.id).iterdir())  # type: ignore[attr-defined]
    assert kept == ["0.safetensors", "1.safetensors"], "the counted state lies beside the new one"
    answer(TrainRequest("run", 2, 1, request.model, {"control": {}}, counted=1), site, bench)
    assert sorted(p.name for p in (tmp_path / "sites" / site.id).iterdir()) == ["1.safetensors", "2.safetensors"]  # type: ignore[attr-defined]


def test_a_counted_round_whose_state_is_gone_is_declined_not_guessed(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, strategy={"name": "scaffold"})
    with pytest.raises(RunFolderError, match="has no state of round 5"):
        bench.states.current(site.id, 5)  # type: ignore[attr-defined]
    reply = answer(TrainRequest("run", 6, 1, request.model, {"control": {}}, counted=5), site, bench)
    assert isinstance(reply, Declined) and reply.code == "error" and "RunFolderError" in reply.reason


def test_fedbn_sends_no_batchnorm_layer_and_trains_and_tests_on_its_own(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, strategy={"name": "fedbn"}, model={"name": "cnn", "width": 2, "hidden": 8, "norm": "batch"})
    sent = change(bench, answer(request, site, bench))
    home = [n for n in request.model if n.startswith(("features.1.", "features.5."))]
    assert len(home) == 10 and not set(home) & set(sent) and "buffers" not in bench.layout.by_name
    measured = [answer(EvaluateRequest("run", 0, request.model, counted=counted), site, bench) for counted in (None, 0)]
    own = bench.states.current(site.id, 0)  # type: ignore[attr-defined]
    assert sorted(own) == sorted(home)
    assert all(isinstance(m, Measured) for m in measured)
    assert measured[0].sums["loss"] != measured[1].sums["loss"], "the second is measured with the layers that stayed home"  # type: ignore[union-attr]


def test_batchnorms_counter_never_travels_and_its_statistics_travel_as_updates(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, model={"name": "cnn", "width": 2, "hidden": 8, "norm": "batch"})
    assert [n for n in bench.parts.fixed] == ["features.1.num_batches_tracked", "features.5.num_batches_tracked"]
    assert set(change(bench, answer(request, site, bench), "buffers")) == {n for n in request.model if "running" in n}


def test_frozen_statistics_do_not_move_and_do_not_travel(tmp_path: Path) -> None:
    model = {"name": "cnn", "width": 2, "hidden": 8, "norm": "batch", "norm_statistics": "frozen"}
    bench, site, request = make(tmp_path, model=model)
    answer(request, site, bench)
    assert "buffers" not in bench.layout.by_name
    assert torch.equal(bench.model.get_buffer("features.1.running_mean"), torch.zeros(2))


def test_one_site_leaves_nothing_behind_for_the_next(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, training={"optimizer": "adamw", "learning_rate": 0.01, "epochs": 2})
    first = answer(request, site, bench).vector.copy()  # type: ignore[union-attr]
    other = TrainRequest("run", 0, 1, {n: t + 1 if t.is_floating_point() else t for n, t in request.model.items()})
    answer(other, site, bench)
    assert np.array_equal(first, answer(request, site, bench).vector)  # type: ignore[union-attr]


def test_a_diverged_site_declines_and_says_that_it_is_out_of_range(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, training={"learning_rate": 1e12})
    reply = answer(request, site, bench)
    assert isinstance(reply, Declined) and reply.code == "out_of_range"


def test_a_failure_at_a_site_is_a_value_that_names_code_and_no_data(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path)
    broken = {name: t for name, t in request.model.items() if name != "layers.1.bias"}
    reply = answer(TrainRequest("run", 0, 1, broken), site, bench)
    assert isinstance(reply, Declined) and reply.code == "error"
    assert reply.reason.startswith("KeyError in workbench.py:") and "layers" not in reply.reason
