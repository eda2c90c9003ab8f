"""Images that other libraries hold become a data set, exactly, or are refused in words."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedvision.data.adapters import from_arrays, from_dictionaries, from_examples, from_huggingface
from fedvision.errors import DataError


def test_colour_images_with_the_channels_last_are_turned() -> None:
    image = np.zeros((1, 4, 5, 3), np.uint8)
    image[0, 1, 2] = (10, 20, 30)
    made = from_arrays("a", image, [0])
    assert made.shape == (3, 4, 5) and made.images[0, :, 1, 2].tolist() == [10, 20, 30]


def test_examples_of_a_torch_data_set_keep_their_pixels_and_text_labels_name_the_classes() -> None:
    grey = Image.fromarray(np.full((4, 4), 7, np.uint8))
    made = from_examples("e", [(grey, "zebra"), (torch.full((1, 4, 4), 9, dtype=torch.uint8), "ant"), (torch.full((4, 4), 0.2), "ant")])
    assert made.classes == ("ant", "zebra") and made.labels.tolist() == [1, 0, 0]
    assert made.images[:, 0, 0, 0].tolist() == [7, 9, 51]


def test_dictionaries_keep_whom_they_show_and_the_columns_that_are_asked_for() -> None:
    items = [{"image": np.full((1, 4, 4), n, np.uint8), "label": n % 2, "patient": f"p{n // 2}", "scanner": "s"} for n in range(4)]
    made = from_dictionaries(items, subject="patient", columns=["scanner"])
    assert made.subjects is not None and made.subjects.tolist() == ["p0", "p0", "p1", "p1"]
    assert {name: values.tolist() for name, values in made.columns.items()} == {"scanner": ["s"] * 4, "patient": ["p0", "p0", "p1", "p1"]}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"image": np.full((1, 4, 4), 300.0), "label": 0}, "float64 from 300.0 to 300.0; images are bytes, or floats from limits = (0, 1)"),
        ({"image": np.full((1, 4, 4), np.nan), "label": 0}, "from nan to nan"),
        ({"image": np.zeros((2, 4, 4), np.uint8), "label": 0}, "an image of shape [2, 4, 4]"),
        ({"image": np.zeros((4, 4), np.uint8)}, "item 0 has no 'label'; it has image"),
    ],
)
def test_images_whose_black_and_white_are_not_known_and_items_without_a_key_are_refused(item: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        from_dictionaries([item])
    assert words in str(caught.value)


def test_images_of_several_sizes_are_refused_with_both_sizes() -> None:
    with pytest.raises(DataError, match=r"image 0 is \[1, 4, 4\] and image 1 is \[1, 5, 4\]"):
        from_examples("e", [(np.zeros((4, 4), np.uint8), 0), (np.zeros((5, 4), np.uint8), 0)])


def test_a_hugging_face_data_set_keeps_its_class_names_and_its_columns() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"]), "who": datasets.Value("string")}
    )
    columns = {"image": [np.full((4, 4), n, np.uint8) for n in (5, 6, 7)], "kind": [1, 0, 1], "who": ["a", "b", "a"]}
    made = from_huggingface(datasets.Dataset.from_dict(columns, features=features), label="kind", subject="who", name="pets")
    assert made.classes == ("cat", "dog") and made.labels.tolist() == [1, 0, 1] and made.images[:, 0, 0, 0].tolist() == [5, 6, 7]
    assert made.subjects is not None and made.subjects.tolist() == ["a", "b", "a"]
    with pytest.raises(DataError, match="no column 'label'; its columns are image, kind, who"):
        from_huggingface(datasets.Dataset.from_dict(columns, features=features))
