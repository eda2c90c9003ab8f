"""Files of boxes: COCO's and VOC's, read and written back, and what is wrong in them named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedvision.data.box_files import Annotated, read_coco, read_voc, write_coco, write_voc
from fedvision.data.boxed import box_folder, main_class
from fedvision.errors import CorruptImage, DataError
from fedvision.holdings import BoxFolder


def mark(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 3, 10, 5], "iscrowd": 0} | changes


def coco(path: Path, *marks: dict[str, Any], images: list[dict[str, Any]] | None = None) -> Path:
    images = images or [
        {"id": 1, "file_name": "a.png", "width": 40, "height": 20},
        {"id": 2, "file_name": "b.png", "width": 20, "height": 20},
    ]
    kinds = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    path.write_text(json.dumps({"images": images, "annotations": list(marks), "categories": kinds}))
    return path


def two_images(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(folder / "a.png")
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(folder / "b.png")
    return folder


def test_a_coco_file_by_hand_its_classes_by_their_ids_and_its_crowds_to_be_ignored(tmp_path: Path) -> None:
    found = read_coco(coco(tmp_path / "x.json", mark(), mark(id=2, iscrowd=1, category_id=3)), None, True)
    assert found.classes == ("cat", "dog") and found.names == ["a.png", "b.png"] and found.sizes == [(40, 20), (20, 20)]
    assert found.boxes[0].tolist() == [[1, 2, 3, 12, 8], [-2, 2, 3, 12, 8]] and len(found.boxes[1]) == 0


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"bbox": [30, 3, 15, 5]}, "outside the image", r"box 1 of a\.png is from \(30, 3\) to \(45, 8\), and the image has 40 × 20"),
        ({"bbox": [2, 3, 0, 5]}, "of no area", "holds nothing"),
        ({"bbox": [2, 3, -4, 5]}, "of no area", "holds nothing"),
        ({"bbox": [2, 3, 5]}, "no box", "is no box"),
        ({"bbox": "2359"}, "no box", "is no box"),
        ({"bbox": [2, 3, float("nan"), 5]}, "no box", "no box of four numbers"),
        ({"category_id": 9}, "of an unknown class", r"has the class 9, and there are \[3, 7\]"),
        ({"category_id": [7]}, "no box", "is no box: TypeError"),
        ({"bbox": [2, 3, 10**400, 5]}, "no box", "is no box: OverflowError"),
        ({"image_id": 5}, "of an unknown image", "is of the image 5, which is not in the file"),
    ],
)
def test_a_box_that_cannot_be_is_named_and_stops_or_is_left_out_and_counted(
    tmp_path: Path, change: dict[str, Any], kind: str, said: str
) -> None:
    path = coco(tmp_path / "x.json", mark(**change), mark(id=2))
    with pytest.raises(DataError, match=f"{said}.*data.on_bad_box"):
        read_coco(path, None, True)
    found = read_coco(path, None, False)
    assert found.problems.counts == {kind: 1} and len(found.boxes[0]) == 1
    assert found.problems.notes()[0].startswith(f"1 left out, being {kind}; the first: ")


def test_an_id_that_is_there_twice_is_named(tmp_path: Path) -> None:
    found = read_coco(coco(tmp_path / "x.json", mark(), mark(bbox=[1, 1, 2, 2])), None, False)
    assert found.problems.counts == {"of an id that another box has": 1} and found.boxes[0].tolist() == [[1, 2, 3, 12, 8]]
    same = {"id": 1, "file_name": "a.png", "width": 40, "height": 20}
    with pytest.raises(DataError, match="has the image id 1 twice"):
        read_coco(coco(tmp_path / "x.json", images=[same, same | {"file_name": "b.png"}]), None, True)
    with pytest.raises(DataError, match=r"has the image 'a\.png' twice"):
        read_coco(coco(tmp_path / "x.json", images=[same, same | {"id": 2}]), None, True)


def test_a_box_that_leaves_the_image_by_rounding_is_cut_off_at_its_edge(tmp_path: Path) -> None:
    found = read_coco(coco(tmp_path / "x.json", mark(bbox=[-0.4, 3, 40.9, 17.2])), None, True)
    assert found.boxes[0][0, 1:].tolist() == pytest.approx([0, 3, 40, 20])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": []}', '{"images": 3, "annotations": [], "categories": []}', "[" * 100_000])
def test_what_is_no_coco_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.json is no COCO file"):
        read_coco(path, None, True)
    with pytest.raises(DataError, match="there is no such file"):
        read_coco(tmp_path / "y.json", None, True)


def test_what_is_written_is_read_again_as_coco_and_as_voc(tmp_path: Path) -> None:
    boxes = [np.array([[1, 2, 3, 12, 8], [-2, 0, 0, 40, 20]], float), np.empty((0, 5))]
    said = Annotated(("cat", "dog"), ["a.png", "b.png"], [(40, 20), (20, 20)], boxes, {"site": ["north", "south"]})
    write_coco(tmp_path / "x.json", said)
    again = read_coco(tmp_path / "x.json", None, True)
    assert again.classes == said.classes and again.columns == said.columns and again.sizes == said.sizes
    assert all((a == b).all() for a, b in zip(again.boxes, boxes, strict=True))
    write_voc(tmp_path / "voc", said)
    again = read_voc(tmp_path / "voc", ("cat", "dog"), True)
    assert again.names == said.names and all((a == b).all() for a, b in zip(again.boxes, boxes, strict=True))


def test_the_first_pixel_of_a_voc_file_is_number_one(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>40</width><height>20</height></size><object><name>dog</name>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>20</ymax></bndbox></object></annotation>"
    )
    assert read_voc(tmp_path, None, True).boxes[0].tolist() == [[0, 0, 0, 40, 20]]
    with pytest.raises(DataError, match="has the class 'dog', and there are cat"):
        read_voc(tmp_path, ("cat",), True)
    (tmp_path / "b.xml").write_text("<annotation><filename>../b.png</filename></annotation>")
    with pytest.raises(DataError, match=r"b\.xml: size/width"):
        read_voc(tmp_path, None, True)
    (tmp_path / "b.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"b\.xml is no XML"):
        read_voc(tmp_path, None, True)


def test_a_voc_object_that_says_no_class_is_a_problem_and_makes_none(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (tmp_path / "a.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>40</width><height>20</height></size>"
        f"<object><name>dog</name>{box}</object><object>{box}</object><object><name> </name>{box}</object></annotation>"
    )
    found = read_voc(tmp_path, None, False)
    assert found.classes == ("dog",) and len(found.boxes[0]) == 1 and found.problems.counts == {"of an unknown class": 2}


def test_voc_keeps_a_box_that_is_smaller_than_a_pixel_and_refuses_two_images_in_one_file(tmp_path: Path) -> None:
    slim = Annotated(("dog",), ["a.png"], [(40, 20)], [np.array([[0, 3.1, 4.2, 3.4, 9.0], [0, 39.8, 19.7, 40.0, 20.0]])])
    write_voc(tmp_path, slim)
    assert read_voc(tmp_path, None, True).boxes[0].tolist() == [[0, 3, 4, 4, 9], [0, 39, 19, 40, 20]]
    with pytest.raises(DataError, match="the image 'a' twice"):
        write_voc(tmp_path, Annotated(("dog",), ["x/a.png", "y/a.png"], [(40, 20)] * 2, [np.empty((0, 5))] * 2))


def test_a_folder_of_images_is_stretched_and_its_boxes_with_it(tmp_path: Path) -> None:
    images = [
        {"id": i, "file_name": f"{n}.png", "width": w, "height": 20, "site": s} for i, n, w, s in ((1, "a", 40, "x"), (2, "b", 20, "y"))
    ]
    path = coco(tmp_path / "x.json", mark(), images=images)
    data = box_folder(BoxFolder(root=str(two_images(tmp_path / "i")), annotations=str(path), image_size=32))
    assert data.images.shape == (2, 3, 32, 32) and data.classes == data.target_names == ("cat", "dog")
    assert data.targets is not None and data.targets.shape == (2, 1, 5) and data.targets.dtype == np.float32
    assert data.targets[0, 0].tolist() == pytest.approx([1, 1.6, 4.8, 9.6, 12.8]) and data.targets[1, 0, 0] == -1
    assert data.columns["site"].tolist() == ["x", "y"] and data.labels.tolist() == [1, 0]
    assert "1 boxes in 2 images, of which 1 have none" in data.notes and "no box is of cat" in data.notes


def test_a_missing_a_broken_and_a_differing_image_stop_the_run_or_are_left_out_and_counted(tmp_path: Path) -> None:
    root = two_images(tmp_path / "i")
    (root / "broken.png").write_bytes(b"no image")
    names = (("a.png", 40), ("b.png", 21), ("broken.png", 9), ("gone.png", 9))
    images = [{"id": i, "file_name": n, "width": w, "height": 20} for i, (n, w) in enumerate(names, 1)]
    config = {"root": str(root), "annotations": str(coco(tmp_path / "x.json", mark(), images=images)), "image_size": 32}
    with pytest.raises(CorruptImage, match=r"b\.png has 20 × 20 pixels, and its boxes were drawn in 21 × 20"):
        box_folder(BoxFolder(**config))
    data = box_folder(BoxFolder(**config, on_corrupt="skip"))
    assert len(data) == 1 and data.targets is not None and data.targets[0, 0, 0] == 1
    notes = " ".join(data.notes)
    assert (
        "1 left out, being missing images" in notes and "1 left out, being images of another size" in notes and "1 corrupt images" in notes
    )
    with pytest.raises(DataError, match=r"outside data\.root"):
        far = coco(tmp_path / "y.json", images=[{"id": 1, "file_name": "../i/../../x.png", "width": 4, "height": 4}])
        box_folder(BoxFolder(root=str(root), annotations=str(far)))


@pytest.mark.parametrize("name", ["a\x00.png", "a" * 5000, "\ud800.png"])
def test_a_name_that_no_file_can_have_is_one_of_a_missing_image(tmp_path: Path, name: str) -> None:
    images = [{"id": 1, "file_name": "a.png", "width": 40, "height": 20}, {"id": 2, "file_name": name, "width": 40, "height": 20}]
    config = {"root": str(two_images(tmp_path / "i")), "annotations": str(coco(tmp_path / "x.json", mark(), images=images))}
    with pytest.raises(CorruptImage, match="can be no file"):
        box_folder(BoxFolder(**config))
    data = box_folder(BoxFolder(**config, on_corrupt="skip"))
    assert len(data) == 1 and any(note.startswith("1 left out, being missing images") for note in data.notes)


def test_an_image_counts_under_the_class_of_most_of_its_boxes() -> None:
    boxes = [np.array([[2, 0, 0, 1, 1], [1, 0, 0, 1, 1], [2, 0, 0, 1, 1]]), np.empty((0, 5)), np.array([[-3, 0, 0, 1, 1]])]
    assert main_class(boxes, 3).tolist() == [2, 0, 0]
