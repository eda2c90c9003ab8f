"""A private step: who is sampled, what is added, and what it is divided by."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from odd_models import per_image, spec
from torch import nn

from fedvision.data.dataset import Dataset
from fedvision.data.site import Examples, Source
from fedvision.errors import ModelRefused
from privacy import noise
from privacy.noise import for_simulation_only
from privacy.training import Stepper, Units, make_stepper, train_privately, views


def _examples(n: int, subjects: list[str] | None = None, size: int = 4) -> Examples:
    images = np.random.default_rng(0).integers(0, 256, (max(n, 1), 1, size, size), dtype=np.uint8)
    labels = np.arange(max(n, 1)) % 3
    who = None if subjects is None else np.array(subjects)
    return Examples(
        Source(Dataset(name="t", images=images, labels=labels, classes=("a", "b", "c"), mean=(0.0,), std=(1.0,), subjects=who)),
        np.arange(n),
    )


def _stepper(sigma: float = 1.0, size: int = 4, **changes: object) -> tuple[nn.Module, Stepper]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(size * size, 3))
    return model, make_stepper(spec(**changes), sigma, model, [n for n, _ in model.named_parameters()], per_image, torch.device("cpu"))


def test_an_empty_sample_is_a_step_of_noise_alone() -> None:
    _, stepper = _stepper(sigma=2.0, size=32, clip=3.0, divisor=5.0)
    for examples in (_examples(0, size=32), _examples(8, size=32)):
        quiet = dataclasses.replace(stepper, spec=stepper.spec.model_copy(update={"sampling_rate": 1e-12}))
        x = quiet.release(examples, Units.of(examples, stepper.spec), for_simulation_only(0)).numpy()
        assert x.std() == pytest.approx(2.0 * 3.0 / 5.0, rel=0.08)
        assert abs(x.mean()) < 5 * x.std() / math.sqrt(len(x))


def test_the_noise_is_added_once_with_the_standard_deviation_of_the_plan_whatever_the_physical_batch() -> None:
    examples = _examples(12, size=32)
    for physical in (1, 5, 128):
        _, stepper = _stepper(sigma=1.5, size=32, clip=0.5, divisor=4.0, sampling_rate=1.0, physical_batch=physical)
        units = Units.of(examples, stepper.spec)
        noisy = stepper.release(examples, units, for_simulation_only(1))
        silent = stepper.clipped_sum(examples, units, np.arange(12), for_simulation_only(2)) / 4.0
        assert float((noisy - silent).std()) == pytest.approx(1.5 * 0.5 / 4.0, rel=0.08)


def test_the_sum_does_not_depend_on_the_physical_batch() -> None:
    examples = _examples(11)
    sums = []
    for physical in (1, 3, 64):
        _, stepper = _stepper(physical_batch=physical)
        sums.append(stepper.clipped_sum(examples, Units.of(examples, stepper.spec), np.arange(11), for_simulation_only(0)))
    assert torch.allclose(sums[0], sums[1], atol=1e-5) and torch.allclose(sums[0], sums[2], atol=1e-5)


def test_one_example_more_moves_the_release_by_at_most_the_clip_norm_over_the_divisor() -> None:
    _, stepper = _stepper(clip=0.3, divisor=7.0)
    ten, eleven = _examples(10), _examples(11)
    a = stepper.clipped_sum(ten, Units.of(ten, stepper.spec), np.arange(10), for_simulation_only(0))
    b = stepper.clipped_sum(eleven, Units.of(eleven, stepper.spec), np.arange(11), for_simulation_only(0))
    assert 0 < float((a - b).norm()) <= 0.3 * (1 + 1e-6)


def test_the_divisor_is_the_public_number_and_not_the_size_of_the_sample() -> None:
    examples = _examples(10)
    sums = {}
    for divisor in (2.0, 20.0):
        _, stepper = _stepper(divisor=divisor, sampling_rate=1.0)
        sums[divisor] = stepper.release(examples, Units.of(examples, stepper.spec), for_simulation_only(3))
    assert torch.allclose(sums[2.0], 10 * sums[20.0], rtol=1e-5)


def test_a_subject_is_sampled_whole_and_with_the_rate_whatever_it_holds() -> None:
    who = ["many"] * 30 + ["few"] * 2 + ["one"]
    units = Units.of(_examples(33, who), spec(unit="subject", max_images=4, sampling_rate=0.2))
    assert sorted(len(m) for m in units.members) == [1, 2, 30] and units.most == 4
    source = for_simulation_only(0)
    drawn = np.zeros(3)
    for _ in range(3000):
        drawn[source.poisson_sample(len(units), 0.2)] += 1
    assert np.abs(drawn / 3000 - 0.2).max() < 6 * math.sqrt(0.16 / 3000)


def test_of_a_subject_at_most_the_public_cap_of_images_is_taken_and_each_can_be() -> None:
    who = ["many"] * 6 + ["few"] * 2
    units = Units.of(_examples(8, who), spec(unit="subject", max_images=3))
    source = for_simulation_only(0)
    seen: set[int] = set()
    for _ in range(50):
        positions, there = units.rows(np.arange(2), source)
        assert there.sum(1).tolist() in ([2, 3], [3, 2])
        assert all(len(set(p[t].tolist())) == t.sum() for p, t in zip(positions, there, strict=True))
        seen |= set(positions[there].tolist())
    assert seen == set(range(8))


def test_a_subject_moves_the_sum_by_at_most_one_clip_norm_however_many_images_it_has() -> None:
    who = ["a"] * 5 + ["b"] * 5
    examples = _examples(10, who)
    _, stepper = _stepper(unit="subject", max_images=5, clip=0.25)
    units = Units.of(examples, stepper.spec)
    one = stepper.clipped_sum(examples, units, np.array([0]), for_simulation_only(0))
    assert 0.2 < float(one.norm()) <= 0.25
    _, apart = _stepper(clip=0.25)
    assert float(apart.clipped_sum(examples, Units.of(examples, apart.spec), np.arange(5), for_simulation_only(0)).norm()) > 0.28


def test_subjects_as_the_unit_need_a_data_set_that_knows_them() -> None:
    with pytest.raises(ModelRefused, match="does not know whom"):
        Units.of(_examples(4), spec(unit="subject", max_images=2))


def test_views_are_of_their_own_image_and_their_gradients_are_averaged_before_clipping() -> None:
    images = torch.arange(3.0)[:, None, None, None].expand(3, 1, 4, 4).contiguous()
    seen = views(images, spec(views=5, shift=2, flip=True), for_simulation_only(0))
    assert torch.equal(seen, images.repeat_interleave(5, 0))
    examples = _examples(1)
    still = spec(views=4, shift=1)
    made = views(examples.batch(np.array([0])).inputs, still, for_simulation_only(1))
    assert made.shape == (4, 1, 4, 4) and not torch.equal(made[0], made[1])
    model, stepper = _stepper(views=4, shift=1, clip=1e6)
    total = stepper.clipped_sum(examples, Units.of(examples, stepper.spec), np.array([0]), for_simulation_only(5))
    same = views(examples.batch(np.array([0])).inputs, stepper.spec, for_simulation_only(5))
    per_image(model(same), torch.zeros(4, dtype=torch.long)).mean().backward()
    assert torch.allclose(total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), atol=1e-5)


def test_the_views_of_one_image_cost_one_clip_norm() -> None:
    examples = _examples(1)
    _, stepper = _stepper(views=8, shift=1, clip=0.2)
    assert float(stepper.clipped_sum(examples, Units.of(examples, stepper.spec), np.array([0]), for_simulation_only(0)).norm()) <= 0.2


def test_training_steps_as_often_as_planned_and_says_nothing_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stepper = _stepper(divisor=4.0)
    taken: list[int] = []
    release = Stepper.release
    monkeypatch.setattr(Stepper, "release", lambda self, *a: (taken.append(1), release(self, *a))[1])
    said = train_privately(model, stepper, _examples(6), 5, torch.optim.SGD(model.parameters(), 0.1), noise.secret(), None)  # type: ignore[func-returns-value]
    assert said is None and len(taken) == 5
