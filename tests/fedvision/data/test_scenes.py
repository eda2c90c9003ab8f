"""Composites and trees: boxes that hold what is seen of each object, and tiles that hold what lies in them."""

import numpy as np
from PIL import Image

from fedvision.data.boxed import _inside
from fedvision.data.composites import MOST, _scene
from fedvision.detection.packing import unpacked
from fedvision.seeds import stream

RED = Image.fromarray(np.full((12, 20, 4), [255, 0, 0, 255], np.uint8))
GREY = Image.fromarray(np.full((200, 300, 3), 128, np.uint8))


def test_each_box_and_mask_of_a_scene_holds_what_is_seen_of_its_object_and_ends_with_it() -> None:
    counts = []
    for number in range(60):
        rng = stream(number, "scene")
        image, rows = _scene(rng, [[RED]], GREY, np.ones(1), (0.3, 0.5), 64)
        masks = unpacked(rows[:, 5:], 64, 64)
        counts.append(len(rows))
        red = (image[0].astype(int) - image[1]) > 127
        assert (masks.sum(0) <= 1).all() and (masks.any(0) ^ red).mean() < 0.003  # a pixel is of one object at most
        for (kind, x1, y1, x2, y2), mask in zip(rows[:, :5].astype(int), masks, strict=True):
            down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert kind == 0 and (x1, y1, x2, y2) == (across[0], down[0], across[-1] + 1, down[-1] + 1)
    assert min(counts) == 0 and max(counts) == MOST


def test_a_scene_is_the_same_whenever_it_is_made() -> None:
    scenes = [_scene(stream(3, "scene"), [[RED]], GREY, np.ones(1), (0.3, 0.5), 48) for _ in range(2)]
    assert all((a == b).all() for a, b in zip(*scenes, strict=True))


def test_a_box_on_the_border_of_a_tile_is_cut_off_and_counts_where_half_of_it_lies() -> None:
    boxes = np.array([[0, 10, 10, 50, 50], [0, 180, 0, 220, 40], [0, 190, 0, 250, 40], [0, 300, 300, 340, 340]], float)
    assert _inside(boxes, 0, 0).tolist() == [[0, 10, 10, 50, 50], [0, 180, 0, 200, 40], [-2, 190, 0, 200, 40]]
    assert _inside(boxes, 200, 0).tolist() == [[0, 0, 0, 20, 40], [0, 0, 0, 50, 40]]
