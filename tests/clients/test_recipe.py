"""What a site does beyond the plain loop, each option against numbers made by hand or against the plain loop itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from clients.answer import answer
from clients.mixing import box, mix
from clients.recipe import Average, Recipe
from clients.training import batches
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.data.site import Site
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.learning import Training
from fedvision.schema import validate
from fedvision.seeds import stream
from fedvision.tasks import make_task
from fedvision.types import ClientUpdate, SiteId, State, TrainRequest
from simulations.run import simulate


def experiment(training: dict[str, Any], **blocks: Any) -> Experiment:
    values = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 20}, "federation": {"rounds": 3}, "model": {"name": "mlp", "width": 8},
        "training": {"epochs": None, "steps": 3, "batch_size": 12, "learning_rate": 0.1, **training}, **blocks,
    }  # fmt: skip
    return validate(Experiment, values, "test")


def opened(tmp_path: Path, training: dict[str, Any], **blocks: Any) -> tuple[Workbench, Site]:
    e = experiment(training, **blocks)
    data = open_federated(e)
    return Workbench.set_up(e, data.shape, data.classes, 20, tmp_path), data.site(data.sites[0])


def trained(tmp_path: Path, training: dict[str, Any], round: int = 0, **blocks: Any) -> State:
    """The site's weights after a round from the initial ones."""
    bench, site = opened(tmp_path, training, **blocks)
    reply = answer(TrainRequest("run", round, 1, {n: t.clone() for n, t in bench.model.state_dict().items()}), site, bench)
    assert isinstance(reply, ClientUpdate), reply
    return {n: t.clone() for n, t in bench.model.state_dict().items()}


def near(a: State, b: State, within: float = 1e-6) -> bool:
    return all(torch.allclose(a[n], b[n], atol=within, rtol=0) for n in a)


def test_plain_training_has_no_recipe_and_each_option_makes_one(tmp_path: Path) -> None:
    assert opened(tmp_path, {"warmup": 1.0, "layer_decay": 0.9, "schedule": "cosine", "gradient_clip": 1.0})[0].recipe is None
    for option in ({"schedule_per": "step"}, {"mixup": 0.2}, {"ema": 0.9}, {"precision": "bf16"}, {"accumulate": 2}, {"focal": 1.0}):
        assert opened(tmp_path, option)[0].recipe is not None


def test_pieces_of_a_batch_make_the_same_step_as_the_whole(tmp_path: Path) -> None:
    plain = trained(tmp_path, {"gradient_clip": 0.5})
    for pieces in (2, 5, 100):
        assert near(trained(tmp_path, {"accumulate": pieces, "gradient_clip": 0.5}), plain)


def test_channels_last_changes_no_number_by_more_than_rounding(tmp_path: Path) -> None:
    cnn = {"model": {"name": "cnn", "width": 4, "hidden": 8, "norm": "batch"}, "data": {"dataset": "digits", "image_size": 16}}
    assert near(trained(tmp_path, {"channels_last": True}, **cnn), trained(tmp_path, {}, **cnn), 1e-5)


def test_bf16_trains_near_fp32_and_keeps_fp32_weights(tmp_path: Path) -> None:
    half, plain = trained(tmp_path, {"precision": "bf16"}), trained(tmp_path, {})
    assert all(t.dtype == torch.float32 for t in half.values()) and not near(half, plain, 1e-6) and near(half, plain, 3e-3)


def test_fp16s_scaled_losses_give_unscaled_steps_and_need_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU, and the device is cpu"):
        opened(tmp_path, {"precision": "fp16"})
    bench, site = opened(tmp_path, {"gradient_clip": 1.0})
    recipe = Recipe(Training(precision="fp16", gradient_clip=1.0), bench.task, torch.device("cpu"), None, True)
    order = list(batches(len(site.train), bench.experiment.training, 0, "site", site.id, "round", 0))
    recipe.train(bench.model, site.train, order, bench.fresh_optimizer(0.1), [0.1] * 3, stream(0), None)
    assert near(bench.model.state_dict(), trained(tmp_path, {"gradient_clip": 1.0}), 1e-3)


def test_a_compiled_model_keeps_its_names_and_takes_the_same_steps(tmp_path: Path) -> None:
    """Compiling itself takes a minute: what it makes is compared in benchmarks/bench_training.py, and here run uncompiled."""
    assert opened(tmp_path, {"compile": True})[0].model._compiled_call_impl is not None
    with torch.compiler.set_stance("force_eager"):
        assert near(trained(tmp_path, {"compile": True}), trained(tmp_path, {}), 0.0)


def test_the_average_of_the_weights_by_hand() -> None:
    w = torch.nn.Parameter(torch.tensor([0.0]))
    average = Average(torch.optim.SGD([w], lr=1.0), 0.5)
    for value in (1.0, 2.0, 3.0):
        w.data.fill_(value)
        average.step()
    average.give()
    a = 0.0
    for step, value in enumerate((1.0, 2.0, 3.0), start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        a = decay * a + (1 - decay) * value
    assert w.item() == pytest.approx(a)


def test_a_site_sends_the_average_of_its_weights(tmp_path: Path) -> None:
    one, last = trained(tmp_path, {"ema": 0.99, "steps": 1}), trained(tmp_path, {"steps": 1})
    start = opened(tmp_path, {})[0].model.state_dict()
    assert near(one, {n: start[n] + (last[n] - start[n]) * 9 / 11 for n in start})


def test_mixup_is_a_mixture_of_images_and_of_their_losses(tmp_path: Path) -> None:
    images = torch.arange(8.0).reshape(4, 1, 1, 2)
    mixed = mix(images, Training(mixup=0.4), stream(3, "mix"))
    drawn = stream(3, "mix")
    share, partner = drawn.beta(0.4, 0.4), drawn.permutation(4)
    assert mixed.share == share and mixed.partner.tolist() == partner.tolist()
    torch.testing.assert_close(mixed.inputs, share * images + (1 - share) * images[partner])


def test_a_step_of_mixup_is_written_out(tmp_path: Path) -> None:
    bench, site = opened(tmp_path, {"mixup": 0.4, "steps": 1})
    before = {n: t.clone().requires_grad_() for n, t in bench.model.state_dict().items()}
    names = ("site", site.id, "round", 0)
    (positions,) = batches(len(site.train), bench.experiment.training, 0, *names)
    batch, mixed = site.train.batch(positions), mix(site.train.batch(positions).inputs, Training(mixup=0.4), stream(0, *names, "recipe"))
    outputs = torch.func.functional_call(bench.model, before, mixed.inputs)
    one, other = (functional.cross_entropy(outputs, t) for t in (batch.targets, batch.targets[mixed.partner]))
    gradients = torch.autograd.grad(mixed.share * one + (1 - mixed.share) * other, list(before.values()))
    after = {n: w.detach() - 0.1 * g for (n, w), g in zip(before.items(), gradients, strict=True)}
    assert near(trained(tmp_path, {"mixup": 0.4, "steps": 1}), after)


def test_cutmix_pastes_a_box_and_counts_what_is_left() -> None:
    images = torch.stack([torch.full((1, 10, 20), float(k)) for k in range(5)])
    for seed in range(20):
        mixed = mix(images, Training(cutmix=1.0), stream(seed))
        kept = (mixed.inputs == images).float().mean((1, 2, 3))
        others = mixed.partner != torch.arange(5)
        assert torch.allclose(kept[others], torch.tensor(mixed.share).float(), atol=1e-6)
        assert set(mixed.inputs[0].unique().tolist()) <= {0.0, float(mixed.partner[0])}
    sides = [box(0.75, 100, 100, stream(seed)) for seed in range(50)]
    inner = [b - t for t, b, left, right in sides if t > 0 and b < 100]
    assert set(inner) == {50}, "a quarter of the area is half of each side"


def test_both_ways_of_mixing_are_taken_in_turn_by_chance() -> None:
    images = torch.arange(6 * 64.0).reshape(6, 1, 8, 8)  # no value twice: what is whole was pasted, what is not was blended
    mixed = [mix(images, Training(mixup=1.0, cutmix=1.0), stream(s)).inputs for s in range(40)]
    assert 10 < sum(bool((m == m.round()).all()) for m in mixed) < 30


def test_smoothing_weights_and_focus_agree_with_torch_and_with_the_paper() -> None:
    task, logits, targets = make_task("classification", ("a", "b", "c")), torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    plain = functional.cross_entropy(logits, targets, reduction="none")
    assert task.criterion(Training()) == task.loss
    smoothed = 0.7 * plain + 0.3 * (-torch.log_softmax(logits, 1)).mean(1)
    torch.testing.assert_close(task.criterion(Training(label_smoothing=0.3))(logits, targets), smoothed)
    weighed = task.criterion(Training(class_weights=[1.0, 2.0, 5.0]))(logits, targets)
    torch.testing.assert_close(weighed, plain * torch.tensor([1.0, 2.0, 5.0, 5.0, 2.0, 1.0]))
    p = torch.softmax(logits, 1)[torch.arange(6), targets]
    torch.testing.assert_close(task.criterion(Training(focal=2.0))(logits, targets), (1 - p) ** 2 * plain)
    with pytest.raises(ConfigError, match="class_weights has 2 numbers, and there are 3 classes: a, b, c"):
        task.criterion(Training(class_weights=[1.0, 2.0]))


class Labelled:
    """Examples of which only the labels matter."""

    def __init__(self, labels: list[int]):
        self.labels = np.array(labels)

    def __len__(self) -> int:
        return len(self.labels)


def test_balance_weighs_rare_classes_up_so_that_all_weigh_the_same() -> None:
    task, labels = make_task("classification", ("a", "b", "c")), [0, 0, 0, 1]
    loss = task.criterion(Training(balance="loss"), Labelled(labels))
    each = loss(torch.zeros(4, 3), torch.tensor(labels)) / np.log(3)
    assert each.tolist() == pytest.approx([4 / 6] * 3 + [4 / 2]), "n / (classes that are there · n_k): three of 2/3, one of 2"


def test_balanced_sampling_draws_every_class_alike(tmp_path: Path) -> None:
    recipe = Recipe(Training(balance="sampling"), None, torch.device("cpu"), None, True)
    labels = [0] * 90 + [1] * 10
    drawn = torch.cat(list(recipe._drawn([torch.arange(500)] * 4, Labelled(labels), stream(0))))  # type: ignore[arg-type]
    assert abs(float((drawn >= 90).float().mean()) - 0.5) < 0.03


FLIPS = {"transforms": [{"name": "RandomHorizontalFlip", "p": 0.5}, {"name": "RandomCrop", "size": 8, "padding": 1}]}


def test_transforms_change_each_image_alone_and_the_same_round_gives_the_same_bytes(tmp_path: Path) -> None:
    bench, site = opened(tmp_path, {"transforms": [{"name": "RandomHorizontalFlip", "p": 0.5}]})
    assert bench.recipe is not None and bench.recipe.pipeline is not None
    torch.manual_seed(0)
    at = torch.arange(16)
    straight, changed = site.train.batch(at), site.train.changed(at, bench.recipe.pipeline)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(changed.inputs, straight.inputs, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(changed.inputs, straight.inputs, strict=True)]
    assert all(a or b for a, b in zip(mirrored, kept, strict=True)) and 0 < sum(mirrored) < 16
    assert torch.equal(changed.targets, straight.targets)
    assert near(trained(tmp_path, FLIPS), trained(tmp_path, FLIPS), 0.0)
    assert not near(trained(tmp_path, FLIPS), trained(tmp_path, {}))


def test_no_piece_of_a_batch_is_one_example_where_batchnorm_needs_two(tmp_path: Path) -> None:
    bench, site = opened(tmp_path, {"accumulate": 12}, model={"name": "cnn", "width": 2, "hidden": 8, "norm": "batch"})
    sizes: list[int] = []
    bench.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    request = TrainRequest("run", 0, 1, {n: t.clone() for n, t in bench.model.state_dict().items()})
    assert isinstance(answer(request, site, bench), ClientUpdate) and min(sizes) == 2


PRIVATE = {
    "privacy": {
        "mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-5, "sampling_rate": 0.2, "divisor": 10.0, "simulation_only_seed": 1,
    },
    "evaluation": {"server": {"test": 0.1}}, "federation": {"rounds": 3, "weighting": "uniform"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("training", "blocks", "said"),
    [
        ({"warmup": 3.5}, {}, "warmup = 3.5 is not over before federation.rounds = 3"),
        ({"precision": "fp16"}, {"engine": {"device": "cpu"}}, "fp16 and engine.device = cpu exclude each other"),
        ({"ema": 0.9}, {"strategy": {"name": "scaffold"}}, "scaffold and training.ema = 0.9 exclude each other: what it would send"),
        ({"layer_decay": 0.9}, {"strategy": {"name": "scaffold"}}, "scaffold and training.layer_decay"),
        (
            {"precision": "fp16"},
            {"strategy": {"name": "scaffold"}, "engine": {"device": "cuda"}},
            "a step whose gradients overflow is left out",
        ),
        ({"schedule_per": "step"}, {"strategy": {"name": "fednova"}}, "fednova and training.schedule_per = step exclude each other"),
        ({"ema": 0.9}, {"strategy": {"name": "feddyn"}}, "feddyn and training.ema = 0.9"),
        ({"schedule_per": "step"}, {"strategy": {"name": "qfedavg"}}, "its 1/L is the rate of the whole round"),
        ({"balance": "loss", "class_weights": [1.0] * 10}, {}, "both weigh the classes"),
        ({"mixup": 0.1}, PRIVATE, "training.mixup = 0.1 and privacy.mechanism = dp_sgd exclude each other: it mixes examples"),
        ({"cutmix": 0.1}, PRIVATE, "training.cutmix = 0.1 and privacy"),
        ({"balance": "sampling"}, PRIVATE, "reads how much a site holds of each class, which is private"),
        (FLIPS, PRIVATE, r"set privacy\.views"),
        ({"compile": True}, PRIVATE, "hooks"),
        ({"balance": "sampling"}, {"task": "multilabel"}, "set balance to loss"),
        ({"focal": 2.0}, {"task": "regression"}, "there are no classes; leave focal out"),
        ({"transforms": [{"size": 8}]}, {}, "has no name"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(training: dict[str, Any], blocks: dict[str, Any], said: str) -> None:
    if blocks is PRIVATE:
        training = {"batch_size": None, **training}
    with pytest.raises(ConfigError, match=said):
        experiment(training, **blocks)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"transforms": [{"name": "RandomHorizontalFlop"}]}, "did you mean RandomHorizontalFlip"),
        ({"class_weights": [1.0]}, "class_weights has 1 numbers, and there are 10 classes"),
        ({"rate_factors": {"fc.*": 0.1}}, "no parameter matches 'fc"),
    ],
)
def test_what_only_model_and_data_show_to_be_wrong_is_said_before_anything_is_written(
    training: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        simulate(experiment(training), tmp_path / "run", None, quiet=True)
    assert not (tmp_path / "run").exists()


def test_under_dp_sgd_a_smoothed_loss_is_the_one_that_is_checked_and_clipped(tmp_path: Path) -> None:
    public = {"batch_size": None, "learning_rate": 0.5}
    smoothed = trained(tmp_path / "a", {**public, "label_smoothing": 0.5}, **PRIVATE)
    assert not near(smoothed, trained(tmp_path / "b", public, **PRIVATE), 1e-4)


def test_a_schedule_inside_the_round_and_a_recipe_do_not_depend_on_which_site_came_before(tmp_path: Path) -> None:
    options = {"schedule_per": "step", "warmup": 1.0, "mixup": 0.3, "ema": 0.9, "momentum": 0.9}
    bench, site = opened(tmp_path, options)
    request = TrainRequest("run", 0, 1, {n: t.clone() for n, t in bench.model.state_dict().items()})
    first = np.array(answer(request, site, bench).vector)  # type: ignore[union-attr]
    other = Site(SiteId("other"), site.test, site.validation, site.train)
    answer(request, other, bench)
    assert np.array_equal(first, answer(request, site, bench).vector)  # type: ignore[union-attr]
