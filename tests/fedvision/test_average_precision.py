"""Average precision from sums: by hand, and against COCO's own code on the pooled images."""

import contextlib
import io

import numpy as np
import pytest
import torch

from fedvision.detection.average_precision import average_precision, average_precisions, histograms, matched, truths
from fedvision.detection.boxes import Found
from fedvision.detection.padding import padded
from fedvision.seeds import stream

BOX = [0.0, 0.0, 10.0, 10.0]


def found(*rows: tuple[float, int, list[float]]) -> Found:
    """One image's detections: score, class, box."""
    return Found(
        torch.tensor([[r[2] for r in rows]]), torch.tensor([[r[0] for r in rows]]), torch.tensor([[r[1] for r in rows]])
    )  # fmt: skip


def target(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([list(rows)])


def test_the_better_of_two_detections_of_a_box_is_right_and_the_other_one_wrong() -> None:
    said = found((0.9, 0, BOX), (0.8, 0, BOX))
    assert matched(said, target([0.0, *BOX]))[0, 0].tolist() == [1, 0]


def test_a_detection_of_another_class_is_wrong_and_one_of_no_class_is_none() -> None:
    said = found((0.9, 1, BOX), (0.8, -1, BOX))
    assert matched(said, target([0.0, *BOX]))[0, 0].tolist() == [0, -1]


def test_what_lies_in_a_region_to_be_ignored_is_neither_right_nor_wrong_however_often() -> None:
    inside = [1.0, 1.0, 4.0, 4.0]  # all of it in the region, of which it is a small part
    said = found((0.9, 0, inside), (0.8, 0, inside), (0.7, 0, [20.0, 20.0, 30.0, 30.0]))
    assert matched(said, target([-2.0, *BOX]))[0, 0].tolist() == [-1, -1, 0]
    assert truths(target([-2.0, *BOX], [0.0, *BOX]), 2).tolist() == [1, 0]


def test_a_box_half_as_tall_is_a_match_at_one_half_and_not_beyond() -> None:
    said = found((0.9, 0, [0.0, 0.0, 10.0, 5.0]))
    assert matched(said, target([0.0, *BOX]))[0, :, 0].tolist() == [1] + [0] * 9


def test_all_found_in_order_is_one_and_nothing_found_is_zero() -> None:
    counts = np.zeros((2, 8), int)
    assert average_precision(counts, 3, stream(0)) == 0
    counts[1, 5:] = 1
    assert average_precision(counts, 3, stream(0)) == 1


def scene(rng: np.random.Generator, images: int, classes: int, sharp: float, most: int = 6) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Truths [m,5] and detections [n,6] (score, class, box) of each image: boxes moved about, doubled, missed and made up; some crowds,
    some images without boxes."""
    all_truths, all_found = [], []
    for _ in range(images):
        m = int(rng.integers(0, most + 1))
        corners = rng.uniform(0, 60, (m, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, 40, (m, 2))], 1)
        kinds = rng.integers(0, classes, m).astype(float)
        crowd = rng.random(m) < 0.1
        all_truths.append(np.concatenate([np.where(crowd, -2 - kinds, kinds)[:, None], boxes], 1))
        copies = np.repeat(np.arange(m), rng.integers(0, 3, m))
        moved = boxes[copies] + rng.normal(0, 3, (len(copies), 4))
        made_up = rng.uniform(0, 50, (int(rng.integers(0, 5)), 2))
        moved = np.concatenate([moved, np.concatenate([made_up, made_up + rng.uniform(5, 40, made_up.shape)], 1)])
        labels = np.concatenate([kinds[copies], rng.integers(0, classes, len(made_up))])
        right = np.concatenate([np.ones(len(copies)), np.zeros(len(made_up))])
        scores = 1 / (1 + np.exp(-rng.normal(sharp * (right - 0.5), 1.0)))
        order = np.argsort(-scores, kind="stable")
        all_found.append(np.concatenate([scores[:, None], labels[:, None], moved], 1)[order])
    return all_truths, all_found


def coco(all_truths: list[np.ndarray], all_found: list[np.ndarray], classes: int) -> tuple[float, float, float]:
    """AP, AP50 and AP75 by COCO's own code."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box: np.ndarray) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    truth = COCO()
    marks = [
        {"image_id": i, "category_id": int(-2 - r[0] if r[0] < 0 else r[0]), "bbox": xywh(r[1:]), "area": (r[3] - r[1]) * (r[4] - r[2]), "iscrowd": int(r[0] < 0)}
        for i, rows in enumerate(all_truths)
        for r in rows
    ]  # fmt: skip
    truth.dataset = {
        "images": [{"id": i} for i in range(len(all_truths))],
        "annotations": [mark | {"id": n + 1} for n, mark in enumerate(marks)],
        "categories": [{"id": k} for k in range(classes)],
    }
    said = [{"image_id": i, "category_id": int(r[1]), "bbox": xywh(r[2:]), "score": r[0]} for i, rows in enumerate(all_found) for r in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(said), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return tuple(judged.stats[:3])  # type: ignore[return-value]


def of(all_truths: list[np.ndarray], all_found: list[np.ndarray], classes: int) -> tuple[np.ndarray, np.ndarray]:
    rows = padded([np.concatenate([r[:, 1:2], r[:, 2:], r[:, :1]], 1)[:, :5] for r in all_found])
    scores = padded([np.concatenate([r[:, 1:2], np.repeat(r[:, :1], 4, 1)], 1) for r in all_found])[..., 1]
    said = Found(torch.from_numpy(rows[..., 1:]), torch.from_numpy(scores), torch.from_numpy(rows[..., 0]).long())
    truth = torch.from_numpy(padded(all_truths))
    return histograms(said, truth, classes), truths(truth, classes)


@pytest.mark.parametrize(("classes", "sharp"), [(1, 1.0), (3, 2.0), (8, 6.0), (5, 25.0)])
def test_summed_over_sites_it_agrees_with_cocos_code_on_the_pooled_images(classes: int, sharp: float) -> None:
    rng = np.random.default_rng(classes)
    sites = [scene(rng, n, classes, sharp) for n in (5, 60, 1, 150)]
    parts = [of(*site, classes) for site in sites]
    precisions = average_precisions(sum(counts for counts, _ in parts), sum(there for _, there in parts))
    wanted = coco([t for site in sites for t in site[0]], [f for site in sites for f in site[1]], classes)
    assert np.nanmean(precisions) == pytest.approx(wanted[0], abs=0.005)
    assert np.nanmean(precisions[0]) == pytest.approx(wanted[1], abs=0.005)
    assert np.nanmean(precisions[5]) == pytest.approx(wanted[2], abs=0.005)
    assert 0.02 < wanted[0] < 0.98  # it was a test of something


def test_one_image_and_a_few_hundred_boxes_agree_too() -> None:
    rng = np.random.default_rng(9)
    all_truths, all_found = scene(rng, 3, 2, 2.0, most=120)
    all_found = [rows[:100] for rows in all_found]  # COCO's code counts the best hundred of a class
    counts, there = of(all_truths, all_found, 2)
    assert np.nanmean(average_precisions(counts, there)) == pytest.approx(coco(all_truths, all_found, 2)[0], abs=0.005)


def test_of_equal_scores_it_is_the_mean_of_what_cocos_code_says_over_the_orders_of_the_images() -> None:
    rng = np.random.default_rng(4)
    all_truths, all_found = scene(rng, 80, 1, 1.0)
    for rows in all_found:
        rows[:, 0] = np.round(rows[:, 0] * 8).clip(1, 7) / 8
    orders = [rng.permutation(80) for _ in range(16)]
    said = [coco([all_truths[i] for i in order], [all_found[i] for i in order], 1)[1] for order in orders]
    assert np.std(said) > 0.004  # COCO's code takes equal scores in the order of the images
    assert average_precisions(*of(all_truths, all_found, 1))[0, 0] == pytest.approx(np.mean(said), abs=0.005)
