"""Composites and trees: boxes that hold what is seen of each object, and tiles that hold what lies in them."""

import numpy as np
from PIL import Image

from fedvision.data.boxed import _inside
from fedvision.data.composites import MOST, _scene
from fedvision.seeds import stream

RED = Image.fromarray(np.full((12, 20, 4), [255, 0, 0, 255], np.uint8))
GREY = Image.fromarray(np.full((200, 300, 3), 128, np.uint8))


def test_each_box_of_a_scene_holds_the_pixels_of_its_objects_and_ends_with_them() -> None:
    counts = []
    for number in range(60):
        rng = stream(number, "scene")
        image, boxes = _scene(rng, [[RED]], GREY, np.ones(1), (0.3, 0.5), 64)
        counts.append(len(boxes))
        red = (image[0].astype(int) - image[1]) > 100
        inside = np.zeros_like(red)
        for kind, x1, y1, x2, y2 in boxes:
            assert kind == 0 and 0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64
            inside[int(y1) : int(y2), int(x1) : int(x2)] = True
        assert not (red & ~inside).any()
        if len(boxes) == 1:
            down, across = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
            assert np.abs(boxes[0, 1:] - [across[0], down[0], across[-1] + 1, down[-1] + 1]).max() <= 1
    assert min(counts) == 0 and max(counts) == MOST


def test_a_scene_is_the_same_whenever_it_is_made() -> None:
    scenes = [_scene(stream(3, "scene"), [[RED]], GREY, np.ones(1), (0.3, 0.5), 48) for _ in range(2)]
    assert all((a == b).all() for a, b in zip(*scenes, strict=True))


def test_a_box_on_the_border_of_a_tile_is_cut_off_and_counts_where_half_of_it_lies() -> None:
    boxes = np.array([[0, 10, 10, 50, 50], [0, 180, 0, 220, 40], [0, 190, 0, 250, 40], [0, 300, 300, 340, 340]], float)
    assert _inside(boxes, 0, 0).tolist() == [[0, 10, 10, 50, 50], [0, 180, 0, 200, 40], [-2, 190, 0, 200, 40]]
    assert _inside(boxes, 200, 0).tolist() == [[0, 0, 0, 20, 40], [0, 0, 0, 50, 40]]
