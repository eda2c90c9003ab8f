"""What belongs to an object: COCO's polygons and runs, as COCO's own code reads and writes them, and what is wrong with them named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from fedvision.data.box_files import Annotated, read_coco, write_coco
from fedvision.data.boxed import box_folder
from fedvision.data.outlines import Shape, compressed, decompressed, filled, shape_of
from fedvision.data.targets import with_targets
from fedvision.detection.packing import BOX, packed, unpacked
from fedvision.errors import DataError
from fedvision.holdings import BoxFolder

RING = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]], bool)


def test_runs_are_written_and_read_as_cocos_own_code_does() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.3, 0.9, 1.0):
        for height, width in ((1, 1), (7, 60), (90, 33)):
            mask = rng.random((height, width)) < share
            mask[:, width // 2 :] &= share > 0.5  # long runs too
            shape = Shape.of_mask(mask)
            text = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
            assert compressed(shape.runs) == text and tuple(decompressed(text)) == shape.runs
            assert (shape.mask(height, width) == mask).all()


def test_a_polygon_holds_what_cocos_own_code_says_but_for_pixels_at_its_edge() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        angles, reach = np.sort(rng.uniform(0, 2 * np.pi, 12)), rng.uniform(20, 60, 12)
        corners = rng.uniform(20, 100, 2) + np.stack([np.cos(angles) * reach, np.sin(angles) * reach], 1)  # some leave the image
        own = filled(corners, 110, 120)
        its = coco_masks.decode(coco_masks.frPyObjects([corners.ravel().tolist()], 110, 120))[..., 0].astype(bool)
        assert (own & its).sum() / (own | its).sum() > 0.95


def test_a_shape_of_two_polygons_is_both_and_is_stretched_with_its_image() -> None:
    shape = shape_of([[0, 0, 4, 0, 4, 2, 0, 2], [6, 2, 8, 2, 8, 4, 6, 4]], (8, 4))
    small = np.array([[1, 1, 0, 0], [0, 0, 0, 1]], bool)
    assert (shape.mask(2, 4) == small).all() and (shape.mask(4, 8) == small.repeat(2, 0).repeat(2, 1)).all()
    runs = Shape.of_mask(RING)
    assert (runs.mask(6, 8) == RING.repeat(2, 0).repeat(2, 1)).all()


def test_masks_pass_through_rows_of_numbers_unchanged() -> None:
    rng = np.random.default_rng(2)
    for height, width in ((1, 1), (4, 6), (5, 5), (33, 47)):
        masks = rng.random((2, 3, height, width)) < 0.5
        rows = packed(masks)
        assert rows.dtype == np.float32 and rows.shape == (2, 3, -(-height * width // 24))
        assert (unpacked(rows, height, width) == masks).all()
    assert packed(np.empty((0, 5, 5), bool)).shape == (0, 2)


def mark(**changes: Any) -> dict[str, Any]:
    polygon = [[2, 3, 12, 3, 12, 8, 2, 8]]
    return {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 5], "iscrowd": 0, "segmentation": polygon} | changes


def coco(folder: Path, *marks: dict[str, Any]) -> Path:
    path = folder / "x.json"
    images = [{"id": 1, "file_name": "a.png", "width": 40, "height": 20}]
    path.write_text(json.dumps({"images": images, "annotations": list(marks), "categories": [{"id": 1, "name": "dog"}]}))
    return path


@pytest.mark.parametrize(
    ("segmentation", "kind", "said"),
    [
        (None, "of a broken mask", "no segmentation"),
        ([], "of a broken mask", "no segmentation"),
        ([[2, 3, 12, 8]], "of a broken mask", "a polygon of 4 numbers, and three corners or more"),
        ([[2, 3, 12, 3, 12, 8, 2]], "of a broken mask", "a polygon of 7 numbers"),
        ([[2, 3, 12, 3, "a", 8]], "of a broken mask", "a polygon of 0 numbers"),
        ({"size": [20, 30], "counts": [600]}, "of a broken mask", r"an RLE of size \[20, 30\], and its image has \[20, 40\]"),
        ({"size": [20, 40], "counts": [100, 5]}, "of a broken mask", "an RLE of 105 pixels, and its image has 800"),
        ({"size": [20, 40], "counts": [900, -100]}, "of a broken mask", "no row of runs"),
        ({"size": [20, 40], "counts": "P"}, "of a broken mask", "breaks off"),
        ({"size": [20, 40], "counts": "6 1"}, "of a broken mask", "with the character ' '"),
        ([[30, 3, 38, 3, 38, 8]], "of a mask outside its box", "empty or lies outside its box"),
        ({"size": [20, 40], "counts": [800]}, "of a mask outside its box", "empty or lies outside its box"),
    ],
)
def test_a_mask_that_cannot_be_is_named_and_stops_or_is_left_out_and_counted(
    tmp_path: Path, segmentation: Any, kind: str, said: str
) -> None:
    path = coco(tmp_path, mark(segmentation=segmentation), mark(id=2))
    assert len(read_coco(path, None, True).boxes[0]) == 2  # who learns boxes alone does not look
    with pytest.raises(DataError, match=f"box 1 of a.png has .*{said}.*data.on_bad_box"):
        read_coco(path, None, True, masks=True)
    found = read_coco(path, None, False, masks=True)
    assert found.problems.counts == {kind: 1} and len(found.boxes[0]) == len(found.shapes[0]) == 1


def test_what_is_written_is_read_again_and_cocos_own_code_reads_the_same(tmp_path: Path) -> None:
    mask = np.zeros((20, 40), bool)
    mask[3:8, 2:12] = True
    mask[5, 5] = False
    polygon = shape_of([[2, 3, 12, 3, 12, 8, 2, 8]], (40, 20))
    rows = [np.array([[0, 2, 3, 12, 8], [0, 2, 3, 12, 8], [-2, 2, 3, 12, 8]], float)]
    said = Annotated(("dog",), ["a.png"], [(40, 20)], rows, shapes=[[Shape.of_mask(mask), polygon, Shape.of_mask(mask)]])
    write_coco(tmp_path / "x.json", said)
    again = read_coco(tmp_path / "x.json", None, True, masks=True)
    assert (again.boxes[0] == rows[0]).all()
    assert [(one.mask(20, 40) == other.mask(20, 40)).all() for one, other in zip(again.shapes[0], said.shapes[0], strict=True)] == [
        True
    ] * 3
    from pycocotools.coco import COCO

    its = COCO(str(tmp_path / "x.json"))
    assert (its.annToMask(its.anns[1]) == mask).all() and (its.annToMask(its.anns[3]) == mask).all()
    assert its.annToMask(its.anns[2]).sum() == 50 and its.anns[3]["iscrowd"] == 1


def test_a_folder_of_instances_is_stretched_and_what_is_left_of_no_pixel_is_not_looked_for(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(tmp_path / "a.png")
    thin = mark(id=2, bbox=[20, 3, 0.5, 5], segmentation=[[20, 3, 20.5, 3, 20.5, 8]])
    path = coco(tmp_path, mark(), thin)
    data = BoxFolder(root=str(tmp_path), annotations=str(path), image_size=20, masks=True)
    dataset = with_targets(box_folder(data), "instances")
    assert dataset.targets is not None and "1 objects without a pixel" in " ".join(dataset.notes)
    assert dataset.targets[0, :, :BOX].round(3).tolist() == [[0, 1, 3, 6, 8], [-2, 10, 3, 10.25, 8]]
    there = unpacked(dataset.targets[0, :, BOX:], 20, 20)
    assert there[0, 3:8, 1:6].all() and there[0].sum() == 25 and not there[1].any()
    alone = with_targets(dataset, "detection").targets
    assert alone is not None and alone.shape == (1, 2, BOX)
    with pytest.raises(DataError, match=r"has boxes without masks: set data\.masks to true"):
        with_targets(box_folder(data.model_copy(update={"masks": False})), "instances")


def test_masks_of_another_size_than_their_images_are_named() -> None:
    from dataclasses import replace

    from rectangles import rectangles

    good = rectangles(masks=True)
    assert good.targets is not None
    with pytest.raises(DataError, match="7 numbers behind their boxes, and the masks of images of 64 × 64 pixels take 171"):
        with_targets(replace(good, targets=good.targets[..., :12]), "instances")
