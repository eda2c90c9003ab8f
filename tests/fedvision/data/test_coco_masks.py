"""Masks from COCO's polygons and run lengths: against pycocotools, and refused or left out by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_mask_folders import opened

from fedvision.data.dataset import Dataset
from fedvision.errors import DataError

SQUARE = [1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]  # columns 1 to 3 of rows 1 and 2


def written(root: Path, objects: list[dict[str, Any]], **image: Any) -> Path:
    """Two images of 5 × 4 pixels, the first with these objects, the second with one square road."""
    (root / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (5, 4)).save(root / "images" / name)
    images = [{"id": n, "file_name": name, "width": 5, "height": 4, "site": name[0]} for n, name in enumerate(("a.png", "b.png"), 7)]
    images[0] |= image
    kinds = [{"id": 3, "name": "road"}, {"id": 5, "name": "roof"}, {"id": 9, "name": "dog"}]
    marks = [{"image_id": 7, **mark} for mark in objects] + [{"image_id": 8, "category_id": 3, "segmentation": [SQUARE]}]
    path = root / "all.json"
    path.write_text(json.dumps({"images": images, "categories": kinds, "annotations": marks}))
    return path


def read(root: Path, objects: list[dict[str, Any]], image: dict[str, Any] | None = None, **data: Any) -> Dataset:
    return opened(root, annotations=str(written(root, objects, **(image or {}))), **data)


def road(segmentation: Any, **mark: Any) -> dict[str, Any]:
    return {"category_id": 3, "segmentation": segmentation, **mark}


def test_polygons_and_runs_become_masks_and_other_fields_columns(tmp_path: Path) -> None:
    runs = {"size": [4, 5], "counts": [5, 2, 2, 2, 9]}  # rows 1 and 2 of columns 1 and 2, down the columns
    found = read(tmp_path, [{"category_id": 5, "segmentation": runs}, {"category_id": 9, "segmentation": [SQUARE]}])
    assert found.targets is not None
    assert found.targets[0].tolist() == [[0] * 5, [0, 2, 2, 0, 0], [0, 2, 2, 0, 0], [0] * 5]
    assert found.targets[1].tolist() == [[0] * 5, [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0] * 5]
    assert found.columns["site"].tolist() == ["a", "b"] and found.notes == (
        "1 objects of categories that data.classes does not name count as ground",
    )


def test_what_two_classes_claim_and_what_a_crowd_claims_alone_is_not_known(tmp_path: Path) -> None:
    right = [3.0, 0.0, 5.0, 0.0, 5.0, 4.0, 3.0, 4.0]
    found = read(
        tmp_path,
        [
            road([SQUARE]), {"category_id": 5, "segmentation": [right]}, road([SQUARE]),
            road({"size": [4, 5], "counts": [0, 6, 14]}, iscrowd=1),
        ],
    )  # fmt: skip
    assert found.targets is not None
    assert found.targets[0].tolist() == [[255, 255, 0, 2, 2], [255, 1, 1, 255, 2], [255, 1, 1, 255, 2], [255, 0, 0, 2, 2]]


BAD = {
    "corner outside": (
        [road([[1.0, 1.0, 9.0, 1.0, 9.0, 3.0]])],
        {},
        "their mask does not decode",
        r"corner at \(9, 1\), and the image has 5 × 4",
    ),
    "two corners": ([road([[1.0, 1.0, 2.0, 2.0]])], {}, "their mask does not decode", "a polygon of 4 numbers, and three corners or more"),
    "not a number": ([road([[1.0, 1.0, float("nan"), 2.0, 3.0, 3.0]])], {}, "their mask does not decode", "a polygon of 6 numbers"),
    "no polygon": ([road([])], {}, "their mask does not decode", "object 0 of a.png has no segmentation"),
    "runs too short": (
        [road({"size": [4, 5], "counts": [5, 2]})],
        {},
        "their mask does not decode",
        "an RLE of 7 pixels, and its image has 20",
    ),
    "runs of another size": (
        [road({"size": [5, 4], "counts": [20]})],
        {},
        "their mask does not decode",
        r"of size \[5, 4\], and its image has \[4, 5\]",
    ),
    "runs cut off": ([road({"size": [4, 5], "counts": "P"})], {}, "their mask does not decode", "breaks off"),
    "another size": ([], {"width": 6}, "their mask is of another size", "a.png has 5 × 4 pixels, and its mask a.png 6 × 4"),
    "no category": (
        [{"category_id": 4, "segmentation": [SQUARE]}],
        {},
        "a class is out of range",
        "is of category 4, and the categories are 3, 5, 9",
    ),
    "nothing": ([], {}, "their mask is empty", "a.png shows no class but ground"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_and_stops_or_is_left_out_and_counted(tmp_path: Path, case: str) -> None:
    objects, image, kind, said = BAD[case]
    with pytest.raises(DataError, match=f"{said}.*; set data.on_bad = skip"):
        read(tmp_path, objects, image, on_empty="bad")
    found = read(tmp_path, objects, image, on_empty="bad", on_bad="skip")
    assert len(found) == 1 and found.notes[0].startswith(f"1 of the images left out, {kind}: ")


@pytest.mark.parametrize(
    ("objects", "image", "data", "said"),
    [
        ([road([SQUARE], image_id=1)], {}, {}, "an object is of image 1, which the file does not name"),
        ([], {}, {"classes": ["ground", "rode"]}, "data.classes names 'rode', and the categories of .* are road, roof, dog"),
        ([], {"file_name": "../a.png"}, {"images": "."}, "lies outside data.root"),
        ([], {"file_name": "b.png"}, {}, "names images/b.png more than once"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    tmp_path: Path, objects: list[dict[str, Any]], image: dict[str, Any], data: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, objects, image, **data)


def test_objects_of_images_that_the_file_does_not_name_are_counted_where_the_config_says_skip(tmp_path: Path) -> None:
    found = read(tmp_path, [road([SQUARE]), road([SQUARE], image_id=1)], on_bad="skip")
    assert len(found) == 2 and found.notes == ("1 objects are of images that the file does not name",)


def test_a_file_that_is_no_coco_is_refused(tmp_path: Path) -> None:
    written(tmp_path, [])
    for content in ("[]", "{", '{"images": [], "categories": [], "annotations": [{}]}'):
        (tmp_path / "odd.json").write_text(content)
        with pytest.raises(DataError, match=r"odd\.json is no COCO file"):
            opened(tmp_path, annotations=str(tmp_path / "odd.json"))
