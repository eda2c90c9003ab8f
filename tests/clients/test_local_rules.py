"""What the newer algorithms do at the sites, against steps made by hand on one small network."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients.algorithms.fednova import norm_of_a
from clients.answer import answer
from clients.training import batches
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.sums import COUNT, Total
from fedvision.types import ClientUpdate, Declined, EvaluateRequest, Measured, TrainRequest

State = dict[str, torch.Tensor]
Adjust = Callable[[str, torch.Tensor], torch.Tensor | float]
ETA, STEPS = 0.1, 3


def make(tmp_path: Path, **changes: Any) -> tuple[Workbench, Any, TrainRequest]:
    values: dict[str, Any] = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "iid", "sites": 2},
        "federation": {"rounds": 3, "weighting": "uniform"},
        "model": {"name": "mlp", "width": 4},
        "training": {"epochs": None, "steps": STEPS, "batch_size": 8, "learning_rate": ETA},
    }
    experiment = validate(Experiment, values | {k: values.get(k, {}) | v for k, v in changes.items()}, "test")
    data = open_federated(experiment)
    bench = Workbench.set_up(experiment, data.shape, data.classes, 2, tmp_path / "sites")
    model = {name: t.clone() for name, t in bench.model.state_dict().items()}
    return bench, data.site(data.sites[0]), TrainRequest("run", 0, 1, model)


def sent(bench: Workbench, reply: Any, field: str = "weights") -> dict[str, np.ndarray]:
    """A field of one site's reply, as the site meant it."""
    assert isinstance(reply, ClientUpdate), reply
    total = Total(bench.layout)
    total.add(reply.vector)
    over = total.whole(COUNT) / bench.layout.divisor if bench.layout.by_name[field].weighted else 1.0
    return {name: total.tensor(field, name, over) for name in bench.layout.slots[field]}


def by_hand(
    bench: Workbench, site: Any, w: State, *names: str | int, adjust: Adjust = lambda n, w: 0.0, still: str = "-", epochs: int = 0
) -> State:
    """SGD written out, over the batches of these names: w ← w − η (∇F(w) + adjust(name, w)); tensors named `still…` stand."""
    training = bench.experiment.training
    plan = training.model_copy(update={"epochs": epochs, "steps": None}) if epochs else training
    for positions in batches(len(site.train), plan, bench.experiment.seed, "site", site.id, "round", *names):
        batch = site.train.batch(positions)
        leaves = {name: t.clone().requires_grad_() for name, t in w.items()}
        logits = torch.func.functional_call(bench.model, leaves, batch.inputs)
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, batch.targets), list(leaves.values()))
        w = {
            name: w[name] if name.startswith(still) else w[name] - ETA * (g + adjust(name, w[name]))
            for (name, g) in zip(w, gradients, strict=True)
        }
    return w  # fmt: skip


def agree(found: dict[str, np.ndarray], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, numbers in found.items():
        np.testing.assert_allclose(numbers, wanted[name].numpy(), atol=3e-6)


def loss_of(bench: Workbench, site: Any, w: State) -> float:
    everything = site.train.batch(np.arange(len(site.train)))
    return float(torch.nn.functional.cross_entropy(torch.func.functional_call(bench.model, w, everything.inputs), everything.targets))


@pytest.mark.parametrize(("tau", "rho", "norm"), [(3, 0.0, 3.0), (1, 0.5, 1.0), (3, 0.5, 1 + 1.5 + 1.75)])
def test_the_norm_of_a_counts_how_often_each_gradient_enters_the_update(tau: int, rho: float, norm: float) -> None:
    assert norm_of_a(tau, rho) == pytest.approx(norm)


def test_fednova_sends_the_update_of_one_step_and_their_number(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, strategy={"name": "fednova"})
    reply, w = answer(request, site, bench), by_hand(bench, site, request.model, 0)
    agree(sent(bench, reply), {n: (w[n] - request.model[n]) / STEPS for n in w})
    assert sent(bench, reply, "tau")[""] == pytest.approx(STEPS)


def test_feddyns_regulariser_follows_where_the_site_ended_last(tmp_path: Path) -> None:
    alpha = 0.5
    bench, site, first = make(tmp_path, strategy={"name": "feddyn", "alpha": alpha})
    w = by_hand(bench, site, first.model, 0, adjust=lambda n, x: alpha * (x - first.model[n]))
    agree(sent(bench, answer(first, site, bench)), {n: w[n] - first.model[n] for n in w})
    g = {n: -alpha * (w[n] - first.model[n]) for n in w}
    second = replace(first, round=1, counted=0)
    w2 = by_hand(bench, site, first.model, 1, adjust=lambda n, x: alpha * (x - first.model[n]) - g[n])
    agree(sent(bench, answer(second, site, bench)), {n: w2[n] - first.model[n] for n in w2})
    kept = bench.states.current(site.id, 1)
    np.testing.assert_allclose(kept["layers.4.bias"], g["layers.4.bias"] - alpha * (w2["layers.4.bias"] - first.model["layers.4.bias"]), atol=2e-6)  # fmt: skip


HEAD = "layers.4"  # the mlp's last layer


def test_fedrep_trains_its_head_first_then_the_rest_and_sends_the_rest_alone(tmp_path: Path) -> None:
    bench, site, first = make(tmp_path, strategy={"name": "fedrep", "head_epochs": 2})
    reply = answer(first, site, bench)
    w = by_hand(bench, site, first.model, 0, "head", still="layers.1", epochs=2)
    w = by_hand(bench, site, w, 0, still=HEAD)
    agree(sent(bench, reply), {n: w[n] - first.model[n] for n in w if not n.startswith(HEAD)})
    own = bench.states.current(site.id, 0)
    assert set(own) == {f"{HEAD}.weight", f"{HEAD}.bias"}
    np.testing.assert_allclose(own[f"{HEAD}.bias"], w[f"{HEAD}.bias"], atol=2e-6)
    assert isinstance(reply, ClientUpdate) and reply.work == 2 * len(site.train) + 8 * STEPS


def test_fedreps_second_round_begins_at_the_sites_own_head_and_measures_with_it(tmp_path: Path) -> None:
    bench, site, first = make(tmp_path, strategy={"name": "fedrep"})
    answer(first, site, bench)
    mixed = {**first.model, **bench.states.current(site.id, 0)}
    w = by_hand(bench, site, by_hand(bench, site, mixed, 1, "head", still="layers.1", epochs=1), 1, still=HEAD)
    agree(sent(bench, answer(replace(first, round=1, counted=0), site, bench)), {n: w[n] - mixed[n] for n in w if not n.startswith(HEAD)})
    received, own = (answer(EvaluateRequest("run", 0, first.model, counted=c), site, bench) for c in (None, 0))
    assert isinstance(received, Measured) and isinstance(own, Measured)
    assert own.sums["loss"] < received.sums["loss"]


def test_a_head_of_two_layers_can_stay_and_one_of_all_layers_cannot(tmp_path: Path) -> None:
    cnn = {"name": "cnn", "width": 2, "hidden": 8}
    bench, *_ = make(tmp_path, strategy={"name": "fedrep", "head_layers": 2}, model=cnn)
    assert len(bench.parts.home) == 4 and all(n.startswith("head.") for n in bench.parts.home)
    from fedvision.errors import ConfigError

    with pytest.raises(ConfigError, match=r"strategy.head_layers = 4: this model has 4 layers, and one at least must be shared"):
        make(tmp_path, strategy={"name": "fedrep", "head_layers": 4}, model=cnn)


def test_dittos_shared_half_is_fedavgs_to_the_bit(tmp_path: Path) -> None:
    plain, site, request = make(tmp_path / "plain")
    bench, _, _ = make(tmp_path / "ditto", strategy={"name": "ditto", "mu": 0.3})
    first, second = (answer(r, site, bench) for r in (request, replace(request, round=1, counted=0)))
    assert isinstance(first, ClientUpdate) and isinstance(second, ClientUpdate)
    for reply, round in ((first, 0), (second, 1)):
        alone = answer(replace(request, round=round), site, plain)
        assert isinstance(alone, ClientUpdate) and np.array_equal(reply.vector, alone.vector) and reply.work == 2 * alone.work


def test_dittos_personal_model_is_drawn_to_the_shared_one_and_stays_at_the_site(tmp_path: Path) -> None:
    mu = 0.3
    bench, site, first = make(tmp_path, strategy={"name": "ditto", "mu": mu})
    answer(first, site, bench)
    v = by_hand(bench, site, first.model, 0, "personal", adjust=lambda n, x: mu * (x - first.model[n]))
    agree({n: t.numpy() for n, t in bench.states.current(site.id, 0).items()}, v)
    moved = {n: t + 0.1 for n, t in first.model.items()}
    answer(TrainRequest("run", 1, 1, moved, counted=0), site, bench)
    v = by_hand(bench, site, v, 1, "personal", adjust=lambda n, x: mu * (x - moved[n]))
    agree({n: t.numpy() for n, t in bench.states.current(site.id, 1).items()}, v)
    shared, own = (answer(EvaluateRequest("run", 1, moved, counted=c), site, bench) for c in (None, 1))
    assert isinstance(shared, Measured) and isinstance(own, Measured) and own.sums["loss"] != shared.sums["loss"]


@pytest.mark.parametrize("q", [0.0, 1.0, 2.0])
def test_q_fedavg_weighs_its_update_by_its_loss_before_training(tmp_path: Path, q: float) -> None:
    bench, site, request = make(tmp_path, strategy={"name": "qfedavg", "q": q})
    reply, w = answer(request, site, bench), by_hand(bench, site, request.model, 0)
    f, move = loss_of(bench, site, request.model), {n: w[n] - request.model[n] for n in w}
    agree(sent(bench, reply), {n: f**q * move[n] for n in w})
    square = sum(float((x**2).sum()) for x in move.values())
    assert sent(bench, reply, "h")[""] == pytest.approx(f**q + q * f ** (q - 1) * square / ETA, rel=1e-4)


def test_a_loss_beyond_the_public_bound_makes_a_site_decline(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, strategy={"name": "afl", "largest_loss": 1.0})
    reply = answer(replace(request, extras={"mixture": {"site-000": torch.tensor(0.5), "site-001": torch.tensor(0.5)}}), site, bench)
    assert isinstance(reply, Declined) and reply.code == "out_of_range" and reply.reason.startswith("losses: 2.")


def test_afl_sends_its_share_of_the_mixture_and_its_loss_in_its_own_slot(tmp_path: Path) -> None:
    bench, site, request = make(tmp_path, strategy={"name": "afl"})
    mixture = {"site-001": torch.tensor(0.75), "site-000": torch.tensor(0.25)}
    reply, w = answer(replace(request, extras={"mixture": mixture}), site, bench), by_hand(bench, site, request.model, 0)
    agree(sent(bench, reply), {n: 0.25 * (w[n] - request.model[n]) for n in w})
    assert sent(bench, reply, "share")[""] == pytest.approx(0.25)
    np.testing.assert_allclose(sent(bench, reply, "losses")[""], [loss_of(bench, site, request.model), 0.0], rtol=1e-5)
