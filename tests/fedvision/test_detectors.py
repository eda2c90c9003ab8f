"""Detectors: losses of an image alone, what is dealt to which box by hand, and that each can learn."""

import itertools
import math

import pytest
import torch

from fedvision.detection.anchors import RetinaNet, changes
from fedvision.detection.anchors import decoded as moved
from fedvision.detection.points import Fcos, OneStage, Truth
from fedvision.detection.points import decoded as reached
from fedvision.detection.sets import Detr
from fedvision.errors import ConfigError
from fedvision.learning import Model
from fedvision.models.deformable import DeformableAttention
from fedvision.models.detectors import detector
from fedvision.tasks.detection import METHODS, Detection, method_of

SMALL = Model(width=8, options={"channels": 16})
SETS = ("detr", "deformable_detr")  # of queries
OPTIONS = {"ssdlite": {}} | {name: {"channels": 32, "layers": 2, "queries": 10} for name in SETS}


def made(name: str, shape: tuple[int, int, int] = (3, 64, 64), classes: int = 3) -> tuple[torch.nn.Module, Detection]:
    torch.manual_seed(0)
    spec = SMALL.model_copy(update={"options": OPTIONS.get(name, SMALL.options)})
    return detector(name, shape, classes, spec), Detection(tuple("abcdefgh"[:classes]), method_of(f"detection/{name}", classes))


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_of_an_image_does_not_move_with_the_others(name: str) -> None:
    model, task = made(name)
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(5, 3, 64, 64, generator=g), task.possible(5, g, (3, 64, 64))
    y[0, :, 0], y[1, 1:, 0] = -1, -1  # an image without boxes, one with a single box
    outputs = model(x)
    alone = torch.cat([task.loss(outputs[i : i + 1], y[i : i + 1]) for i in range(5)])
    assert torch.allclose(task.loss(outputs, y), alone, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_rows_that_are_no_box_change_nothing(name: str) -> None:
    model, task = made(name)
    g = torch.Generator().manual_seed(2)
    outputs, y = model(torch.randn(3, 3, 64, 64, generator=g)), task.possible(3, g, (3, 64, 64))
    more = torch.cat([torch.tensor([-1.0, 5, 5, 9, 9]).expand(3, 4, 5), y], 1)
    assert torch.allclose(task.loss(outputs, y), task.loss(outputs, more), atol=1e-6)
    sums, again = task.sums(outputs, y), task.sums(outputs, more)
    assert all((sums[n] == again[n]).all() for n in ("found", "boxes", "images"))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(1, 32, 100), (4, 70, 33)])
def test_images_of_other_sizes_and_channels_go_through(name: str, shape: tuple[int, int, int]) -> None:
    model, task = made(name, shape, classes=1)
    g = torch.Generator().manual_seed(3)
    y = task.possible(2, g, shape)
    outputs = model(torch.randn(2, *shape, generator=g))
    assert torch.isfinite(task.loss(outputs, y)).all()
    found = task.found(outputs.detach())
    assert found.boxes.min() >= 0 and (found.boxes[..., 2] <= shape[2]).all() and (found.boxes[..., 3] <= shape[1]).all()


@pytest.mark.parametrize("name", METHODS)
def test_two_images_are_learned_by_heart(name: str) -> None:
    model, task = made(name, classes=2)
    x = torch.zeros(2, 3, 64, 64)
    x[0, 0, 8:32, 10:40], x[1, 1, 20:60, 24:48] = 2.0, 2.0
    y = torch.tensor([[[0.0, 10, 8, 40, 32]], [[1.0, 24, 20, 48, 60]]])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150 if name == "detr" else 60):
        optimizer.zero_grad()
        task.loss(model(x), y).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        assert task.metrics(task.sums(model.eval()(x), y))["ap50"] == 1.0


def test_a_site_without_boxes_of_a_class_is_measured_on_the_others_and_one_without_any_by_its_loss() -> None:
    model, task = made("fcos")
    x = torch.randn(2, 3, 64, 64)
    nothing = torch.full((2, 1, 5), -1.0)
    with torch.no_grad():
        sums = task.sums(model(x), nothing)
    assert set(task.metrics(sums)) == {"loss"} and task.by_class(sums) == {}
    one = torch.tensor([[[2.0, 4, 4, 40, 40]]])
    assert set(task.by_class(task.sums(model(x[:1]).detach(), one))) == {"ap50_c"}


def test_other_models_and_options_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"model\.name = 'cnn' and task = detection.*detection/fcos"):
        method_of("cnn", 2)
    with pytest.raises(ConfigError, match=r"detection/fcos.*depth"):
        detector("fcos", (3, 64, 64), 2, Model(options={"depth": 3}))
    with pytest.raises(ConfigError, match="32 pixels or more"):
        detector("fcos", (3, 16, 16), 2, Model())


# -------------------------------------------------------------------------------------------------- points, by hand


def grid(*rows: list[float], classes: int = 2) -> torch.Tensor:
    """Outputs at points (x, y, stride) of an image of 64 × 64, all numbers 0."""
    return torch.cat([torch.tensor([[64.0, 64.0, *row] for row in rows]), torch.zeros(len(rows), 4 + classes + 1)], 1)[None]


def test_fcos_deals_a_point_to_the_smallest_box_around_it_of_its_strides_size_near_its_middle() -> None:
    outputs = grid([12, 12, 8], [44, 12, 8], [60, 60, 8], [32, 32, 32])
    boxes = torch.tensor([[[0.0, 0, 0, 24, 24], [1.0, 4, 4, 20, 20], [0.0, 0, 0, 64, 64]]])
    positive, whose = Fcos(2).assigned(outputs, Truth.of(boxes, outputs))
    # the second point lies in the large box alone, far from its middle; the coarsest grid takes no box of less than 4 strides
    assert positive[0].tolist() == [True, False, False, False] and whose[0, 0] == 1


def test_a_point_in_a_region_to_be_ignored_is_not_taught_that_nothing_is_there() -> None:
    outputs = grid([12, 12, 8], [50, 50, 8])
    outputs[..., -3:-1] = 3.0  # both say that something is there
    lone, crowd = (Fcos(2).loss(outputs, torch.tensor([[[kind, 0.0, 0, 24, 24]]])) for kind in (-1.0, -2.0))
    assert lone[0] == pytest.approx(2 * crowd[0].item())


def test_distances_reach_from_the_point_and_end_at_the_image() -> None:
    outputs = grid([12, 20, 8])
    outputs[0, 0, 5:9] = torch.tensor([1.0, 0.5, 2.0, 9.0])
    assert reached(outputs)[0, 0].tolist() == [4, 16, 28, 64]


def test_the_one_stage_net_deals_a_box_its_best_points_and_none_that_lies_outside() -> None:
    outputs = grid([12, 12, 8], [20, 12, 8], [44, 44, 8])[..., :-1]
    outputs[..., 5:9] = 1.0
    positive, _, aligned = OneStage(2, top=2).assigned(outputs, Truth.of(torch.tensor([[[1.0, 4, 4, 24, 20]]]), outputs))
    assert positive[0].tolist() == [True, True, False]
    assert aligned[0].tolist() == pytest.approx([0.8, 0.8 * (0.5 / 0.8) ** 6, 0.0])  # the best has its IoU, the other one less by IoU⁶


# ------------------------------------------------------------------------------------------------- anchors, by hand


def test_a_change_of_an_anchor_and_what_would_make_it_are_each_others_inverse() -> None:
    outputs = torch.zeros(1, 2, 12)
    outputs[..., :2], outputs[..., 2:6] = 64, torch.tensor([[4.0, 4, 20, 20], [10.0, 10, 30, 50]])
    boxes = torch.tensor([[[6.0, 2, 18, 30], [1.0, 2, 60, 61]]])
    outputs[..., 6:10] = changes(outputs, boxes, (0.1, 0.1, 0.2, 0.2))
    assert torch.allclose(moved(outputs, (0.1, 0.1, 0.2, 0.2)), boxes, atol=1e-4)


def test_a_box_that_no_anchor_overlaps_by_half_has_the_anchor_that_overlaps_it_most() -> None:
    from fedvision.detection.anchors import assigned

    outputs = torch.zeros(1, 3, 12)
    outputs[..., 2:6] = torch.tensor([[0.0, 0, 16, 16], [16.0, 0, 32, 16], [48.0, 48, 64, 64]])
    positive, whose, negative = assigned(outputs, Truth.of(torch.tensor([[[0.0, 0, 0, 6, 16]]]), outputs), 0.5, 0.4)
    assert positive[0].tolist() == [True, False, False] and negative[0].tolist() == [False, True, True] and whose[0, 0] == 0
    assert RetinaNet(2).loss(outputs, torch.full((1, 1, 5), -1.0)).isfinite().all()


# ----------------------------------------------------------------------------------------------------- sets, by hand


def queries(*rows: list[float]) -> torch.Tensor:
    """Outputs of one image of 64 × 64, one layer: middle, sides, logits of two classes and of nothing."""
    return torch.cat([torch.full((len(rows), 2), 64.0), torch.tensor(rows)], 1)[None, None]


def test_each_box_is_matched_to_a_query_of_its_own_and_the_sum_is_the_least() -> None:
    q = queries([0.25, 0.25, 0.2, 0.2, 0, 0, 0], [0.3, 0.3, 0.2, 0.2, 0, 0, 0], [0.8, 0.8, 0.2, 0.2, 0, 0, 0])[0, 0]
    truth = torch.tensor([[0.26, 0.26, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2]])  # both are nearest to the first query
    mine, its = Detr(2).matching(q[:, 6:], q[:, 2:6], torch.tensor([0, 0]), truth)
    assert dict(zip(mine.tolist(), its.tolist(), strict=True)) == {0: 1, 1: 0}


def test_the_loss_between_sets_by_hand() -> None:
    outputs = queries([0.5, 0.5, 0.5, 0.5, 0, 0, 0], [0.1, 0.1, 0.1, 0.1, 0, 0, 0])
    loss = Detr(2).loss(outputs, torch.tensor([[[0.0, 16, 16, 48, 48], [-1.0, 0, 0, 0, 0]]]))
    assert loss[0] == pytest.approx(torch.log(torch.tensor(3.0)).item(), abs=1e-5)  # the box is right, the classes are not known
    wide = outputs.clone()
    wide[0, 0, 0, 4] = 0.6  # 1/10 too wide: 5 · 0.1, and 2 · (1 − 0.5 / 0.6)
    loss = Detr(2).loss(wide, torch.tensor([[[0.0, 16, 16, 48, 48]]]))
    assert loss[0] == pytest.approx(1.098612 + 0.5 + 2 / 6, abs=1e-4)


def test_more_boxes_than_queries_and_numbers_that_are_none_do_not_end_it() -> None:
    outputs = queries([0.5, 0.5, 0.5, 0.5, 0, 0, 0])
    many = torch.tensor([[[0.0, 0, 0, 10, 10], [1.0, 10, 10, 50, 50], [1.0, 50, 50, 60, 60]]])
    assert torch.isfinite(Detr(2).loss(outputs, many)).all()
    assert Detr(2).loss(outputs * torch.nan, many).shape == (1,)


def looked(one: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """What a map [d,h,w] holds between its places, by the four around (x, y), pixels, and zeros outside: [d]."""
    total = torch.zeros(len(one), dtype=one.dtype)
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < one.shape[1] and 0 <= column < one.shape[2]:
                total += (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row)) * one[:, row, column]
    return total


def test_deformable_attention_is_the_sum_over_points_that_its_equation_says() -> None:
    g = torch.Generator().manual_seed(0)
    sizes, heads, points, width = [(5, 7), (3, 4), (2, 2)], 2, 3, 8
    attend = DeformableAttention(width, heads, points).double()
    for parameter in attend.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g, dtype=torch.double) * 0.7  # points also lie outside
    tokens = torch.randn(2, sum(h * w for h, w in sizes), width, generator=g, dtype=torch.double)
    x, near = torch.randn(2, 4, width, generator=g, dtype=torch.double), torch.rand(2, 4, 2, generator=g, dtype=torch.double)
    values, offsets = attend.value(tokens).view(2, -1, heads, width // heads), attend.offsets(x).view(2, 4, heads, 3, points, 2)
    weights = attend.weights(x).view(2, 4, heads, -1).softmax(-1).view(2, 4, heads, 3, points)
    wanted = torch.zeros(2, 4, width, dtype=torch.double)
    for b, n, head in itertools.product(range(2), range(4), range(heads)):
        first = 0
        for level, (h, w) in enumerate(sizes):
            one = values[b, first : first + h * w, head].T.reshape(-1, h, w)
            first += h * w
            for p in range(points):
                dx, dy = offsets[b, n, head, level, p].tolist()
                seen = looked(one, near[b, n, 0].item() * w + dx, near[b, n, 1].item() * h + dy)
                wanted[b, n, head * 4 : head * 4 + 4] += weights[b, n, head, level, p] * seen
    assert torch.allclose(attend(x, near, tokens, sizes), attend.out(wanted), atol=1e-10)


def test_the_pictures_of_an_image_show_what_was_missed_and_what_was_wrongly_said() -> None:
    from fedvision.tasks.drawing import MISSED, WRONG

    task = Detection(("cat", "dog"), Fcos(2))
    outputs = grid([20, 20, 8], [44, 44, 8], [8, 52, 8])[0]
    outputs[:, 5:9] = 1.0
    outputs[:, 9:11], outputs[:, -1] = torch.tensor([[9.0, -9], [-9, 9], [-9, -9]]), 9.0
    image = torch.zeros(3, 64, 64, dtype=torch.uint8).numpy()
    right, gone = [0.0, 12, 12, 28, 28], [1.0, 2, 40, 20, 60]  # the cat is found, one dog is missed, and another one said
    panels = task.panels(image, torch.tensor([right, gone]).numpy(), outputs)
    assert [panel.shape for panel in panels.values()] == [(320, 320, 3)] * 3

    def shown(shade: tuple[int, int, int]) -> bool:
        return bool((list(panels.values())[2] == shade).all(-1).any())

    assert shown(MISSED) and shown(WRONG)
    panels = task.panels(image, torch.tensor([right, [1.0, 36, 36, 52, 52]]).numpy(), outputs)
    assert not shown(MISSED) and not shown(WRONG)


@pytest.mark.parametrize(("name", "steps"), [("detr", 200), ("deformable_detr", 60)])
def test_sixteen_images_are_learned_by_heart(name: str, steps: int) -> None:
    from rectangles import rectangles

    data = rectangles(16)
    x, y = torch.from_numpy(data.images).float() / 127.5 - 1, torch.from_numpy(data.targets)
    model, task = made(name, classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (steps - step) / (0.4 * steps))
        optimizer.zero_grad()
        task.loss(model(x), y).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        assert task.metrics(task.sums(model(x), y))["ap50"] > 0.9
