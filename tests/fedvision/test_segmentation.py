"""Segmentation: losses and measures by hand and against libraries."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedvision.errors import ConfigError
from fedvision.evaluation import add
from fedvision.learning import Training
from fedvision.segmenting import Segmentation as Settings
from fedvision.tasks import make_task, regions, surfaces

UNKNOWN = 255
CLASSES = ("ground", "bright", "dark")
TASK = make_task("segmentation", CLASSES)


def drawn(n: int = 6, sides: tuple[int, ...] = (9, 14), k: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of blocks and masks of blocks, with some pixels not known."""
    chance = torch.Generator().manual_seed(seed)
    coarse = tuple(-(-side // 3) for side in sides)
    block = torch.randint(0, k, (n, *coarse), generator=chance)
    for axis, side in enumerate(sides, 1):
        block = block.repeat_interleave(3, axis).narrow(axis, 0, side)
    targets = block.to(torch.uint8)
    targets[torch.rand(targets.shape, generator=chance) < 0.1] = UNKNOWN
    logits = torch.randn(n, k, *sides, generator=chance) + 1.5 * torch.nn.functional.one_hot(block, k).movedim(-1, 1)
    return logits, targets


def logits_of(p: list[list[float]]) -> Tensor:
    """Logits [1,2,1,n] of the probability of class 1 in each pixel."""
    second = torch.tensor(p)
    return torch.stack([(1 - second).log(), second.log()])[None].reshape(1, 2, *second.shape)


# ---------------------------------------------------------------------------------------------------------------- losses


def test_cross_entropy_is_the_mean_over_the_known_pixels_of_each_image_by_hand() -> None:
    logits, targets = logits_of([[0.5, 0.8, 0.9]]), torch.tensor([[[0, 1, UNKNOWN]]], dtype=torch.uint8)
    assert regions.cross_entropy(logits, targets).item() == pytest.approx((math.log(2) - math.log(0.8)) / 2)
    weighed = regions.cross_entropy(logits, targets, torch.tensor([3.0, 1.0]))
    assert weighed.item() == pytest.approx((3 * math.log(2) - math.log(0.8)) / 2)
    focal = regions.cross_entropy(logits, targets, gamma=2.0)
    assert focal.item() == pytest.approx((0.25 * math.log(2) - 0.04 * math.log(0.8)) / 2, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.0, 2.0])
def test_the_slope_of_the_focal_loss_is_a_number_where_the_network_is_sure_and_right(gamma: float) -> None:
    sure = torch.tensor([100.0, -100.0]).reshape(1, 2, 1, 1).requires_grad_()
    regions.cross_entropy(sure, torch.zeros(1, 1, 1, dtype=torch.uint8), gamma=gamma).sum().backward()
    assert sure.grad is not None and torch.equal(sure.grad, torch.zeros(1, 2, 1, 1))


def test_dice_and_tversky_by_hand() -> None:
    logits, targets = logits_of([[0.5, 0.8, 0.9]]), torch.tensor([[[0, 1, UNKNOWN]]], dtype=torch.uint8)
    right, said = 0.8, 0.5 + 0.8
    assert regions.dice(logits, targets, [1]).item() == pytest.approx(1 - (2 * right + 1) / (said + 1 + 1))
    false, missed = 0.5, 0.2
    wanted = 1 - (right + 1) / (right + 0.3 * false + 0.7 * missed + 1)
    assert regions.tversky(logits, targets, [1], 0.3, 0.7).item() == pytest.approx(wanted)


def test_a_class_that_is_neither_there_nor_said_costs_nothing() -> None:
    logits = torch.tensor([30.0, -30.0, -30.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    targets = torch.zeros(1, 4, 4, dtype=torch.uint8)
    assert regions.dice(logits, targets, [1, 2]).item() == pytest.approx(0, abs=1e-6)


def test_the_boundary_loss_is_zero_where_it_is_right_and_grows_with_the_distance_by_hand() -> None:
    targets = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    right = regions.boundary(logits_of([[1e-9, 1e-9, 1 - 1e-7, 1 - 1e-7]]), targets, [1])
    assert right.item() == pytest.approx(0, abs=1e-6)
    diagonal = math.hypot(1, 4)
    one_off = regions.boundary(logits_of([[1e-9, 1 - 1e-7, 1 - 1e-7, 1 - 1e-7]]), targets, [1])
    two_off = regions.boundary(logits_of([[1 - 1e-7, 1e-9, 1 - 1e-7, 1 - 1e-7]]), targets, [1])
    assert one_off.item() == pytest.approx(1 / diagonal / 4, rel=1e-4) and two_off.item() == pytest.approx(2 / diagonal / 4, rel=1e-4)
    absent = regions.boundary(logits_of([[0.5] * 4]), torch.zeros(1, 1, 4, dtype=torch.uint8), [1])
    assert absent.item() == 0


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "tversky", "boundary"])
@pytest.mark.parametrize("sides", [(9, 14), (5, 6, 7)])
def test_no_image_enters_anothers_loss_and_unknown_pixels_get_no_gradient(name: str, sides: tuple[int, ...]) -> None:
    task = make_task("segmentation", CLASSES, segmentation=Settings(losses={name: 1.0}, background="ground"))
    logits, targets = drawn(sides=sides)
    alone = torch.cat([task.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(len(logits))])
    torch.testing.assert_close(task.loss(logits, targets), alone)
    assert (alone >= 0).all()
    free = logits.clone().requires_grad_()
    task.loss(free, targets).sum().backward()
    assert free.grad is not None and (free.grad.movedim(1, -1)[targets == UNKNOWN] == 0).all() and (free.grad != 0).any()


def test_losses_are_added_up_with_their_weights() -> None:
    task = make_task("segmentation", CLASSES, segmentation=Settings(losses={"cross_entropy": 0.5, "dice": 2.0}, background="ground"))
    logits, targets = drawn()
    wanted = 0.5 * regions.cross_entropy(logits, targets) + 2 * regions.dice(logits, targets, [1, 2])
    torch.testing.assert_close(task.loss(logits, targets), wanted)


def test_an_image_of_which_nothing_is_known_costs_nothing() -> None:
    logits, targets = drawn(1)
    targets[:] = UNKNOWN
    assert TASK.loss(logits, targets).item() == 0 and TASK.metrics(TASK.sums(logits, targets)) == {}


def test_the_sites_own_rare_classes_weigh_more_by_its_pixels() -> None:
    class Held:
        targets = torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 1, UNKNOWN]]], dtype=torch.uint8)

        def __len__(self) -> int:
            return 1

        def targets_at(self, at: Tensor) -> Tensor:
            return self.targets[at]

    logits = torch.zeros(1, 3, 1, 9)
    loss = TASK.criterion(Training(balance="loss"), Held())  # type: ignore[arg-type]
    weights = (8 / (2 * 6), 8 / (2 * 2))  # of the two classes that there are
    assert loss(logits, Held.targets).item() == pytest.approx(math.log(3) * (6 * weights[0] + 2 * weights[1]) / 8)


def test_a_model_that_says_a_class_an_image_is_refused_by_what_it_gives() -> None:
    with pytest.raises(ConfigError, match=r"the model gives \[3\] for an image whose mask is \[9, 14\]"):
        TASK.loss(torch.zeros(6, 3), drawn()[1])


def test_a_background_that_is_no_class_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"segmentation\.background = 'sky' is no class of the data"):
        make_task("segmentation", CLASSES, segmentation=Settings(background="sky"))


# -------------------------------------------------------------------------------------------------------------- measures


def measured(logits: Tensor, targets: Tensor, task: Any = TASK) -> dict[str, float]:
    return {**task.metrics(task.sums(logits, targets)), **task.by_class(task.sums(logits, targets))}


def test_overlaps_of_all_pixels_by_hand() -> None:
    truth = torch.tensor([[[0, 0, 1, 1], [0, 0, 2, UNKNOWN]]], dtype=torch.uint8)
    said = torch.tensor([[[0, 1, 1, 1], [0, 0, 0, 2]]])
    found = measured(torch.nn.functional.one_hot(said, 3).movedim(-1, 1).float(), truth)
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert [found[f"iou_{name}"] for name in CLASSES] == pytest.approx([3 / 5, 2 / 3, 0])
    assert [found[f"dice_{name}"] for name in CLASSES] == pytest.approx([6 / 8, 4 / 5, 0])
    assert found["miou"] == pytest.approx((3 / 5 + 2 / 3) / 3)


def test_sums_of_two_sites_are_the_sums_of_all_and_have_the_declared_shapes() -> None:
    logits, targets = drawn(10)
    apart = add(TASK.sums(logits[:3], targets[:3]), TASK.sums(logits[3:], targets[3:]))
    whole = TASK.sums(logits, targets)
    assert {name: array.shape for name, array in whole.items()} == TASK.shapes
    assert all(array.dtype == np.int64 and (array >= 0).all() and np.array_equal(array, apart[name]) for name, array in whole.items())


@pytest.mark.parametrize("sides", [(9, 14), (5, 6, 7)])
def test_miou_and_dice_agree_with_scikit_learn(sides: tuple[int, ...]) -> None:
    from sklearn.metrics import f1_score, jaccard_score

    logits, targets = drawn(8, sides)
    known = targets != UNKNOWN
    said, truth = logits.argmax(1)[known], targets.long()[known]
    found = measured(logits, targets)
    assert found["miou"] == pytest.approx(jaccard_score(truth, said, average="macro"), abs=1e-9)
    assert found["dice"] == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-9)


def test_image_dice_is_the_mean_of_the_images_own() -> None:
    logits, targets = drawn(5)
    each = [measured(logits[i : i + 1], targets[i : i + 1]) for i in range(5)]
    wanted = np.mean([np.mean([one[f"dice_{name}"] for one in each if f"dice_{name}" in one]) for name in CLASSES])
    assert measured(logits, targets)["image_dice"] == pytest.approx(wanted, abs=1e-6)


def test_a_class_that_no_image_of_a_site_shows_and_none_is_said_to_is_in_no_mean() -> None:
    truth = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    perfect = torch.nn.functional.one_hot(truth.long(), 3).movedim(-1, 1).float() * 9
    found = measured(perfect, truth)
    assert (
        found["miou"] == found["dice"] == found["image_dice"] == found["boundary_f"] == 1 and "iou_dark" not in found and found["hd95"] == 0
    )


def brute(truth: np.ndarray, said: np.ndarray, k: int, tolerance: float) -> tuple[float, float]:
    """(boundary F, Hausdorff-95) of one class, every border pixel against every other, from scipy's own erosion."""
    from scipy.ndimage import binary_erosion
    from scipy.spatial.distance import cdist

    sides = [mask & ~binary_erosion(mask) for mask in (truth == k, (said == k) & (truth != UNKNOWN))]
    away = cdist(np.argwhere(sides[0]), np.argwhere(sides[1]))
    recall, precision = (away.min(1) <= tolerance).mean(), (away.min(0) <= tolerance).mean()
    return 2 * precision * recall / (precision + recall), max(np.percentile(away.min(1), 95), np.percentile(away.min(0), 95))


@pytest.mark.parametrize("sides", [(30, 41), (9, 12, 14)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_borders_agree_with_brute_force_within_an_eighth_of_a_pixel(sides: tuple[int, ...], seed: int) -> None:
    logits, targets = drawn(1, sides, seed=seed)
    said = (logits + 2 * torch.nn.functional.one_hot(targets.clamp(max=2).long(), 3).movedim(-1, 1)).argmax(1)[0].numpy()
    counts, distances = surfaces.compared(targets[0].numpy(), said.astype(np.uint8), 3, 1.0)
    for k in range(3):
        f, hausdorff = brute(targets[0].numpy(), said, k, 1.0)
        assert surfaces.f_scores(counts)[k] == pytest.approx(f, abs=1e-9)
        found = surfaces.mean_distance(distances)[k]
        assert found is not None and abs(found - hausdorff) <= 0.125


def test_a_distance_bin_is_within_its_bound() -> None:
    for distance in [0, 0.1, 1.0, 7.3, 63.99, 64.0, 70.0, 500.0, 9000.0]:
        value = surfaces.middles()[surfaces.bin_of(distance)]
        assert abs(value - distance) <= max(0.125, 0.011 * distance)


def test_surfaces_that_are_not_measured_are_in_no_sum() -> None:
    task = make_task("segmentation", CLASSES, segmentation=Settings(surfaces=False))
    logits, targets = drawn()
    assert task.sums(logits, targets).keys() == task.shapes.keys() and "hd95" not in measured(logits, targets, task)
