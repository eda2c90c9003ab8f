"""Boxes: overlaps by hand, suppression by hand."""

import pytest
import torch

from fedvision.detection.boxes import centred, cornered, giou_loss, ious, picked, soft_nms

A, B, C = [0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 30.0, 30.0]


def test_overlaps_by_hand() -> None:
    found = ious(torch.tensor([A]), torch.tensor([A, B, C, [3.0, 3.0, 3.0, 3.0]]))
    assert found[0].tolist() == pytest.approx([1, 50 / 150, 0, 0])


def test_the_generalised_loss_grows_with_the_gap_between_boxes_that_do_not_meet() -> None:
    a = torch.tensor([A, A, A])
    losses = giou_loss(a, torch.tensor([A, C, [40.0, 40.0, 50.0, 50.0]]))
    assert losses[0] == 0 and losses[1] == pytest.approx(1 + 700 / 900) and losses[1] < losses[2] < 2


def test_middles_and_corners_are_each_others_inverse() -> None:
    boxes = torch.tensor([A, B, C])
    assert centred(boxes)[1].tolist() == [10, 5, 10, 10]
    assert torch.equal(cornered(centred(boxes)), boxes)


def test_a_box_that_says_the_same_again_goes_and_one_of_another_class_or_elsewhere_stays() -> None:
    near = [1.0, 0.0, 11.0, 10.0]
    scores = torch.tensor([[[0.9, 0.0], [0.8, 0.7], [0.0, 0.3]]])
    found = picked(torch.tensor([[A, near, C]]), scores, most=10, threshold=0.5)
    assert found.labels[0].tolist() == [0, 1, 1]
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert found.boxes[0].tolist() == [A, near, C]


def test_images_that_say_nothing_have_no_labels() -> None:
    found = picked(torch.tensor([[A], [A]]), torch.tensor([[[0.9]], [[0.0]]]), most=10, threshold=0.5)
    assert found.labels.tolist() == [[0], [-1]]


def test_soft_suppression_by_hand() -> None:
    boxes, labels = torch.tensor([A, B, C, A]), torch.tensor([0, 0, 0, 1])
    order, scores = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.5, 0.3]), labels, 0.5, 0.01)
    fallen = 0.8 * torch.exp(torch.tensor(-((1 / 3) ** 2) / 0.5)).item()  # 0.64: still better than the one apart
    assert order.tolist() == [0, 1, 2, 3] and scores.tolist() == pytest.approx([0.9, fallen, 0.5, 0.3])


def test_soft_suppression_drops_what_falls_below_the_least() -> None:
    order, _ = soft_nms(torch.tensor([A, A]), torch.tensor([0.9, 0.05]), torch.tensor([0, 0]), 0.5, 0.01)
    assert order.tolist() == [0]


def test_soft_suppression_of_nothing_is_nothing() -> None:
    order, scores = soft_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5, 0.01)
    assert len(order) == len(scores) == 0
