"""What each image's task is about: a class, numbers beside it, or a mask that lies in it."""

from dataclasses import replace

import numpy as np

from fedvision.data.boxed import check_boxes, without_masks
from fedvision.data.dataset import Dataset
from fedvision.data.listing import Listing
from fedvision.data.masks import check_masks
from fedvision.errors import DataError

LARGEST = 1000.0  # |number| to be learned, in its unit: what the sums of a regression hold


def with_targets(dataset: Dataset, task: str) -> Dataset:
    """`dataset` with the targets that `task` learns; DataError where it has none that will do.

    A data set of one class an image serves the other tasks as well: as one label there and all others not (multilabel), or,
    where its classes are called by numbers, as that number (regression).
    """
    if task == "segmentation":
        check_masks(dataset, f"task = segmentation: data set {dataset.name}")
        return dataset
    if task == "detection":
        dataset = without_masks(dataset)
        check_boxes(dataset, f"task = detection: data set {dataset.name}")
        return dataset
    if task == "instances":
        check_boxes(dataset, f"task = instances: data set {dataset.name}", masks=True)
        return dataset
    if task not in {"multilabel", "regression"}:
        return dataset if dataset.targets is None else replace(dataset, targets=None, target_names=())
    if dataset.targets is None or dataset.has_masks or dataset.has_boxes:
        dataset = _from_classes(dataset, task)
    assert dataset.targets is not None
    known = dataset.targets[~np.isnan(dataset.targets)]
    if task == "multilabel" and not np.isin(known, (0.0, 1.0)).all():
        odd = known[~np.isin(known, (0.0, 1.0))][0]
        raise DataError(f"task = multilabel: a label is 1, 0 or empty, and one is {odd:g}; set task to regression to learn numbers")
    if task == "regression" and len(known) and np.abs(known).max() > LARGEST:
        raise DataError(
            f"task = regression: a target is {np.abs(known).max():g}, and sums hold up to ±{LARGEST:g}: give it in a larger unit"
        )
    return dataset


def _from_classes(dataset: Dataset, task: str) -> Dataset:
    if task == "multilabel":
        return replace(dataset, targets=np.eye(len(dataset.classes), dtype=np.float32)[dataset.labels], target_names=dataset.classes)
    try:
        numbers = np.array([float(name) for name in dataset.classes], np.float32)
    except ValueError:
        shown = ", ".join(dataset.classes[:3])
        raise DataError(
            f"task = regression needs numbers, and the classes are called {shown}, ...: name their columns in data.targets"
        ) from None
    return replace(dataset, targets=numbers[dataset.labels][:, None], target_names=("value",))


def targets_of(listing: Listing, names: list[str], manifest: str) -> np.ndarray:
    """float32 [N,T]: the columns `names` of a manifest as numbers, NaN where a field is empty."""
    columns = []
    for name in names:
        if name not in listing.columns:
            raise DataError(f"data.targets names {name!r}, and {manifest} has the columns {', '.join(listing.columns)}")
        columns.append([_number(text, name, image) for text, image in zip(listing.columns[name], listing.names, strict=True)])
    return np.array(columns, np.float32).T.copy()


def _number(text: str, column: str, image: str) -> float:
    if text == "":
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{image} has {text!r} in the column {column!r}: give a number, or leave the field empty where it is not known")
    return value
