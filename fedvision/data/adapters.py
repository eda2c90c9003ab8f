"""Data sets of one's own code: what `data.source` returns, and ways to it from what other libraries hold.

A function that `data.source` names returns a `Dataset`; here it is made of arrays, of a list of (image, label), of a Hugging
Face data set, or of dictionaries as MONAI has them.  None of these libraries is imported here: what they give is looked at.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvision.brought import make
from fedvision.data.boxed import check_boxes, rescaled
from fedvision.data.dataset import Dataset, in_natural_order, normalisation
from fedvision.data.masks import check_masks, main_class
from fedvision.data.resize import resized, resized_masks
from fedvision.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedvision.holdings import Brought


def brought(data: "Brought") -> Dataset:
    """What data.source returns, resized and normalised as the config says; DataError where its arrays do not belong together."""
    made = make(data.source, "data.source", "datasets", **data.options)
    if not isinstance(made, Dataset):
        raise ConfigError(
            f"data.source = {data.source!r} returned {type(made).__name__}; it must return a fedvision.data.dataset.Dataset "
            "(fedvision.data.adapters makes one of arrays, examples, Hugging Face and MONAI data sets)"
        )
    check(made, f"data.source = {data.source!r}")
    channels = made.shape[0]
    means, stds = normalisation(data.mean, data.std, channels, 0.5, 0.5)
    if made.has_masks:
        check_masks(made, f"data.source = {data.source!r}")
    if made.has_boxes:
        check_boxes(made, f"data.source = {data.source!r}")
    return replace(
        made,
        targets=made.targets if data.image_size is None else _resized(made, data.image_size),
        images=made.images if data.image_size is None else resized(made.images, data.image_size),
        labels=made.labels.astype(np.int64),
        classes=tuple(made.classes),
        mean=made.mean if data.mean is None else means,
        std=made.std if data.std is None else stds,
        digest=None,  # of the bytes as they are now, and not as somebody else says
    )


def _resized(made: Dataset, side: int) -> np.ndarray | None:
    """The targets of `made` where its images become side × side."""
    if made.targets is None:
        return None
    if made.has_masks:
        return resized_masks(made.targets, side)
    return rescaled(made.targets, made.images.shape[2:], side) if made.has_boxes else made.targets


def check(dataset: Dataset, whose: str) -> None:
    """DataError naming what does not belong together in a data set that somebody else made."""
    images, n = dataset.images, len(dataset.labels)
    if images.dtype != np.uint8 or images.ndim not in {4, 5} or len(images) != n or not n:
        raise DataError(
            f"{whose}: images are {images.dtype} {list(images.shape)}, and must be uint8 [N,C,H,W] (volumes: [N,C,D,H,W]) with one label each ({n})"
        )
    if dataset.labels.ndim != 1 or not np.issubdtype(dataset.labels.dtype, np.integer):
        raise DataError(f"{whose}: labels are {dataset.labels.dtype} {list(dataset.labels.shape)}, and must be whole numbers [N]")
    if dataset.labels.min() < 0 or dataset.labels.max() >= len(dataset.classes):
        raise DataError(
            f"{whose}: labels go from {dataset.labels.min()} to {dataset.labels.max()}, and there are {len(dataset.classes)} classes"
        )
    if len(dataset.mean) != images.shape[1] or len(dataset.std) != images.shape[1]:
        raise DataError(f"{whose}: mean and std need a value for each of the {images.shape[1]} channels")
    for name, values in {**dataset.columns, **({} if dataset.subjects is None else {"subjects": dataset.subjects})}.items():
        if len(values) != n or np.asarray(values).dtype.kind != "U":
            raise DataError(f"{whose}: {name} must be an array of text with one value an image ({n}), and is {np.asarray(values).dtype}")


def from_arrays(
    name: str,
    images: Any,
    labels: Any,
    classes: Sequence[str] | None = None,
    *,
    subjects: Any = None,
    columns: Mapping[str, Any] | None = None,
    masks: Any = None,
) -> Dataset:
    """A data set of arrays in memory.  images: uint8, grey [N,H,W], or [N,C,H,W], or [N,H,W,C] with 1 or 3 channels; volumes
    [N,C,D,H,W].

    classes: their names in the order of the labels' numbers; None = the numbers.  subjects: whom each image shows.
    masks: uint8 [N,H,W] or [N,D,H,W] of numbers of classes, 255 where it is not known (task segmentation, which needs `classes`);
        labels may then be None: each image counts under the class that it is richest in.

    >>> from_arrays("dots", np.zeros((2, 8, 8), np.uint8), [0, 1], ["off", "on"]).shape
    (1, 8, 8)
    """
    pictures = np.asarray(images)
    if pictures.ndim == 3:
        pictures = pictures[:, None]
    elif pictures.ndim == 4 and pictures.shape[1] not in {1, 3} and pictures.shape[3] in {1, 3}:
        pictures = pictures.transpose(0, 3, 1, 2)
    if masks is not None and classes is None:
        raise DataError(f"{name}: masks hold numbers of classes: give their names as classes")
    targets = None if masks is None else np.ascontiguousarray(masks)
    numbers = main_class(targets, len(classes or ())) if labels is None and targets is not None else np.asarray(labels)
    known = tuple(classes) if classes is not None else tuple(str(k) for k in range(int(numbers.max(initial=0)) + 1))
    text = {column: np.asarray(values).astype(str) for column, values in (columns or {}).items()}
    channels = pictures.shape[1] if pictures.ndim >= 4 else 1
    made = Dataset(
        name, np.ascontiguousarray(pictures), numbers, known, (0.5,) * channels, (0.5,) * channels,
        None if subjects is None else np.asarray(subjects).astype(str), text, targets=targets,
    )  # fmt: skip
    check(made, name)
    if targets is not None:
        check_masks(made, name)
    return made


def from_examples(
    name: str, examples: Iterable[tuple[Any, Any]], classes: Sequence[str] | None = None, *, limits: tuple[float, float] = (0, 1)
) -> Dataset:
    """A data set of (image, label), as torch and torchvision data sets are.  image: a PIL image, an array or a tensor; label: a
    number, or a text, which is then the class's name.  limits: black and white of images of floats."""
    pairs = [(_pixels(image, limits, f"{name}, example {number}"), label) for number, (image, label) in enumerate(examples)]
    if not pairs:
        raise DataError(f"{name} has no example")
    numbers, known = _numbered([label for _, label in pairs], classes, name)
    return from_arrays(name, _stacked([image for image, _ in pairs], name), numbers, known)


def from_huggingface(
    table: Any,
    *,
    image: str = "image",
    label: str = "label",
    subject: str | None = None,
    columns: Sequence[str] = (),
    name: str | None = None,
) -> Dataset:
    """A Hugging Face `datasets.Dataset`: images in its column `image`, class labels or their names in `label`.

    subject, columns: columns that say whom an image shows, and by which a natural partition may go.
    """
    for column in (image, label, *columns, *([subject] if subject is not None else [])):
        if column not in table.column_names:
            raise DataError(f"the data set has no column {column!r}; its columns are {', '.join(table.column_names)}")
    said = name or getattr(table.info, "dataset_name", None) or "huggingface"
    labels = list(table[label])
    numbers, known = _numbered(labels, getattr(table.features[label], "names", None), said)
    pictures = [_pixels(row[image], (0, 1), f"{said}, row {number}") for number, row in enumerate(table)]
    wanted = {column: list(table[column]) for column in columns}
    who = None if subject is None else list(table[subject])
    return from_arrays(said, _stacked(pictures, said), numbers, known, subjects=who, columns=wanted)


def from_dictionaries(
    items: Iterable[Mapping[str, Any]],
    *,
    image: str = "image",
    label: str = "label",
    subject: str | None = None,
    columns: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    limits: tuple[float, float] = (0, 1),
    name: str = "dictionaries",
) -> Dataset:
    """Dictionaries, as a MONAI dictionary data set gives them: `items[n]["image"]` [C,H,W], `items[n]["label"]`.

    limits: black and white of images of floats, as the last transform leaves them (ScaleIntensityd: 0 and 1).
    """
    pictures, labels = [], []
    kept: dict[str, list[str]] = {column: [] for column in [*columns, *([subject] if subject is not None else [])]}
    for number, item in enumerate(items):
        lacking = [key for key in (image, label, *kept) if key not in item]
        if lacking:
            raise DataError(f"{name}, item {number} has no {lacking[0]!r}; it has {', '.join(map(str, item))}")
        pictures.append(_pixels(item[image], limits, f"{name}, item {number}"))
        labels.append(item[label])
        for column, values in kept.items():
            values.append(str(item[column]))
    if not pictures:
        raise DataError(f"{name} has no item")
    numbers, known = _numbered(labels, classes, name)
    who = kept[subject] if subject is not None else None
    return from_arrays(name, _stacked(pictures, name), numbers, known, subjects=who, columns=kept)


# ------------------------------------------------------------------------------------------------- images and labels


def _pixels(image: Any, limits: tuple[float, float], whose: str) -> np.ndarray:
    """uint8 [C,H,W] of a PIL image [H,W] or [H,W,C], an array or tensor [H,W] or [C,H,W] of bytes, or of floats within `limits`."""
    if hasattr(image, "convert"):  # PIL
        picture = np.asarray(image if image.mode in {"L", "RGB"} else image.convert("RGB"))
        return picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
    values = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[0] not in {1, 3}:
        raise DataError(f"{whose}: an image of shape {list(values.shape)}; it must be [H,W] or [C,H,W] with 1 or 3 channels")
    if values.dtype == np.uint8:
        return values
    black, white = limits
    if not np.issubdtype(values.dtype, np.floating) or not (values.min() >= black and values.max() <= white):
        raise DataError(
            f"{whose}: {values.dtype} from {values.min()} to {values.max()}; images are bytes, or floats from limits = ({black:g}, {white:g}), "
            "so that black and white are not made of what one image happens to hold"
        )
    return np.rint((values - black) * (255 / (white - black))).astype(np.uint8)


def _stacked(pictures: Sequence[np.ndarray], name: str) -> np.ndarray:
    odd = next((number for number, picture in enumerate(pictures) if picture.shape != pictures[0].shape), None)
    if odd is not None:
        raise DataError(
            f"{name}: image 0 is {list(pictures[0].shape)} and image {odd} is {list(pictures[odd].shape)}, as channels, height, width: bring "
            "them to one size and one number of channels first"
        )
    return np.stack(pictures)


def _numbered(labels: Sequence[Any], classes: Sequence[str] | None, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """int64 [N], and the names of the classes, where they are known."""
    if not any(isinstance(label, str) for label in labels):
        return np.asarray([int(label) for label in labels], np.int64), None if classes is None else tuple(classes)
    known = tuple(classes) if classes is not None else tuple(in_natural_order({str(label) for label in labels}))
    number = {value: k for k, value in enumerate(known)}
    other = next((label for label in labels if label not in number), None)
    if other is not None:
        raise DataError(f"{name} has the label {other!r}, and its classes are {', '.join(known)}")
    return np.asarray([number[label] for label in labels], np.int64), known
