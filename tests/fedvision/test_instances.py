"""Instances: masks measured as COCO's own code measures them, learned by heart, and drawn."""

import contextlib
import io

import numpy as np
import pytest
import torch
from rectangles import rectangles

from fedvision.detection.average_precision import average_precisions, histograms, mask_overlaps, matched, truths
from fedvision.detection.boxes import Found
from fedvision.detection.masks import around, bits, cover, drawn_out, laid_in
from fedvision.detection.packing import packed
from fedvision.detection.padding import padded
from fedvision.learning import Model
from fedvision.models.detectors import detector
from fedvision.tasks.coupled import TwoStage
from fedvision.tasks.drawing import MISSED, WRONG
from fedvision.tasks.instances import Instances

HEIGHT, WIDTH = 30, 34
Image = tuple[np.ndarray, np.ndarray]  # kinds [m] (or scores and kinds [n,2]), masks [m,H,W]


def task(classes: int = 2) -> Instances:
    return Instances(tuple("abcdefgh"[:classes]), TwoStage(classes, mask_overlaps))


def test_masks_pass_through_tensors_as_through_arrays() -> None:
    masks = np.random.default_rng(0).random((2, 3, 7, 11)) < 0.4
    rows = laid_in(torch.from_numpy(masks))
    assert (rows.numpy() == packed(masks)).all() and (drawn_out(rows, 7, 11).numpy() == masks).all()
    assert bits(rows).sum() == masks.sum()


def test_covers_and_boxes_of_masks_by_hand() -> None:
    a, b = torch.zeros(2, 6, 6, dtype=torch.bool)
    a[1:4, 1:5], b[2:6, 0:3] = True, True
    both, of_a, of_b = cover(laid_in(a)[None], laid_in(b)[None])
    assert both.tolist() == [[4]] and of_a.tolist() == [[12]] and of_b.tolist() == [12]
    assert around(torch.stack([a, b, a & ~a])).tolist() == [[1, 1, 5, 4], [0, 2, 3, 6], [0, 0, 0, 0]]


def blobs(rng: np.random.Generator, n: int) -> np.ndarray:
    """bool [n,H,W]: turned ellipses, some of which leave the image, but none wholly."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    found = np.zeros((n, HEIGHT, WIDTH), bool)
    for mask in found:
        (cx, cy), (a, b), turn = rng.uniform(2, 28, 2), rng.uniform(2, 10, 2), rng.uniform(0, np.pi)
        u, v = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn), (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        mask[:] = (u / a) ** 2 + (v / b) ** 2 <= 1
    return found


def scene(rng: np.random.Generator, images: int, classes: int) -> tuple[list[Image], list[Image]]:
    """What is there and what is said of each image: masks moved, doubled, missed and made up; crowds, empty images, equal scores."""
    there, said = [], []
    for _ in range(images):
        m = int(rng.integers(0, 6))
        masks, kinds = blobs(rng, m), rng.integers(0, classes, m)
        there.append((np.where(rng.random(m) < 0.1, -2 - kinds, kinds), masks))
        copies = np.repeat(np.arange(m), rng.integers(0, 3, m))
        moved = [np.roll(masks[i], rng.integers(-2, 3, 2), (0, 1)) for i in copies]
        made_up = blobs(rng, int(rng.integers(0, 4)))
        right = np.concatenate([np.ones(len(copies)), np.zeros(len(made_up))])
        scores = (1 / (1 + np.exp(-rng.normal(2 * (right - 0.5), 1.0)))).round(2)
        order = np.argsort(-scores, kind="stable")
        labels = np.concatenate([kinds[copies], rng.integers(0, classes, len(made_up))])
        said.append((np.stack([scores, labels], 1)[order], np.array([*moved, *made_up], bool).reshape(-1, HEIGHT, WIDTH)[order]))
    return there, said


def coco(there: list[Image], said: list[Image], classes: int) -> tuple[float, ...]:
    """AP, AP50 and AP75 of masks by COCO's own code."""
    from pycocotools import mask as coco_masks
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def one(image: int, kind: float, mask: np.ndarray) -> dict[str, object]:
        return {"image_id": image, "category_id": int(kind), "segmentation": coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))}

    marks = [
        one(i, -2 - k if k < 0 else k, mask) | {"iscrowd": int(k < 0), "area": float(mask.sum()), "bbox": [0, 0, 1, 1]}
        for i, (kinds, masks) in enumerate(there)
        for k, mask in zip(kinds.tolist(), masks, strict=True)
    ]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(len(there))],
        "annotations": [mark | {"id": n + 1} for n, mark in enumerate(marks)],
        "categories": [{"id": k} for k in range(classes)],
    }
    found = [
        one(i, row[1], mask) | {"score": row[0]}
        for i, (rows, masks) in enumerate(said)
        for row, mask in zip(rows.tolist(), masks, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(found), "segm")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return tuple(judged.stats[:3])


def of(there: list[Image], said: list[Image], classes: int) -> tuple[np.ndarray, np.ndarray]:
    truth = padded([np.concatenate([kinds[:, None], np.zeros((len(kinds), 4)), packed(masks)], 1) for kinds, masks in there])
    rows = padded([np.concatenate([row[:, 1:], np.zeros((len(row), 4)), packed(masks)], 1) for row, masks in said])
    scores = padded([np.repeat(row[:, :1], 5, 1) for row, _ in said])[..., 1]
    found = Found(*map(torch.from_numpy, (rows[..., 1:5], scores, rows[..., 0].astype(int), rows[..., 5:])))
    return histograms(found, torch.from_numpy(truth), classes, mask_overlaps), truths(torch.from_numpy(truth), classes)


@pytest.mark.parametrize("classes", [1, 4])
def test_summed_over_sites_masks_agree_with_cocos_code_on_the_pooled_images(classes: int) -> None:
    rng = np.random.default_rng(classes)
    sites = [scene(rng, n, classes) for n in (5, 40, 1, 120)]
    parts = [of(*site, classes) for site in sites]
    precisions = average_precisions(sum(counts for counts, _ in parts), sum(n for _, n in parts))
    wanted = coco([t for site in sites for t in site[0]], [f for site in sites for f in site[1]], classes)
    assert np.nanmean(precisions) == pytest.approx(wanted[0], abs=0.005)
    assert [np.nanmean(precisions[n]) for n in (0, 5)] == pytest.approx(wanted[1:], abs=0.005)
    assert 0.02 < wanted[0] < 0.98


def test_a_mask_and_its_box_are_judged_each_by_itself() -> None:
    inside = torch.zeros(2, 8, 8, dtype=torch.bool)
    inside[0, :, :4], inside[1, :, :] = True, True  # what is said fills half of the object, and all of its box
    found = Found(torch.tensor([[[0.0, 0, 8, 8]]]), torch.tensor([[0.9]]), torch.tensor([[0]]), laid_in(inside[:1])[None])
    target = torch.cat([torch.tensor([[[0.0, 0, 0, 8, 8]]]), laid_in(inside[1:])[None]], -1)
    assert matched(found, target)[0, :, 0].all() and matched(found, target, mask_overlaps)[0, :, 0].tolist() == [1] + [0] * 9


def test_mask_rcnn_learns_the_boxes_and_masks_of_a_few_images_by_heart() -> None:
    data = rectangles(8, masks=True)
    x, y = torch.from_numpy(data.images).float() / 127.5 - 1, torch.from_numpy(data.targets)
    torch.manual_seed(0)
    model, its = detector("mask_rcnn", (3, 64, 64), 2, Model(width=8, options={"channels": 16, "hidden": 64, "proposals": 32})), task()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for step in range(80):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1.0, (80 - step) / 40)
        optimizer.zero_grad()
        its.batch_loss(model, x, y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        figures = its.metrics(its.sums(model.eval()(x), y))
    assert figures["mask_ap50"] > 0.9 and figures["ap50"] > 0.9 and figures["mask_map"] > 0.5 and "loss" not in figures
    assert set(its.shapes) == set(its.sums(model(x[:1]).detach(), y[:1]))


@pytest.mark.parametrize("shape", [(1, 32, 100), (4, 70, 33)])
def test_images_of_other_sizes_and_channels_and_without_objects_go_through(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model, its = detector("mask_rcnn", shape, 1, Model(width=8, options={"channels": 16, "hidden": 32, "proposals": 16})), task(1)
    y = its.possible(2, torch.Generator().manual_seed(3), shape)
    y[0, :, 0] = -1
    assert torch.isfinite(its.batch_loss(model, torch.randn(2, *shape), y))
    with torch.no_grad():
        outputs = model.eval()(torch.randn(2, *shape))
    assert outputs.shape[2] == 6 + -(-shape[1] * shape[2] // 24)
    assert set(its.metrics(its.sums(outputs, y))) >= ({"mask_map", "map"} if (y[..., 0] >= 0).any() else set())


def test_the_pictures_show_masks_and_what_was_missed_and_what_was_wrongly_said() -> None:
    data = rectangles(6, masks=True)
    target = data.targets[0]  # a red and a blue one
    said = torch.zeros(2, 6 + target.shape[1] - 5)
    said[:, :4], said[:, 4], said[:, 6:] = torch.from_numpy(target[:2, 1:5]), 0.9, torch.from_numpy(target[:2, 5:])
    said[1, :4] -= 2.0  # the second is called red too, and seen beside its place
    panels = task().panels(data.images[0], target, said)
    last = list(panels.values())[2]
    assert [p.shape for p in panels.values()] == [(320, 320, 3)] * 3
    assert (last == MISSED).all(-1).any() and (last == WRONG).all(-1).any()
    said[1, 5] = 1.0
    last = list(task().panels(data.images[0], target, said).values())[2]
    assert not (last == MISSED).all(-1).any() and not (last == WRONG).all(-1).any()
