"""What `fedvision list` shows: the registries, a line each."""

from collections.abc import Callable, Iterable
from pathlib import Path

from fedvision.brought import by_entry_point

Rows = Iterable[tuple[str, str]]


def _brought(group: str) -> Rows:
    """What installed packages offer by an entry point."""
    for name, point in by_entry_point(group).items():
        yield name, f"{point.value}, brought by {point.dist.name if point.dist is not None else 'a package'}"


def _tasks() -> Rows:
    from fedvision.tasks import TASKS

    return TASKS.items()


def _models() -> Rows:
    from fedvision.models import MODELS
    from fedvision.models.sizes import table

    yield from MODELS.items()
    yield from ((size.name, str(size)) for size in table())


def _transforms() -> Rows:
    """Our filters, and the names of torchvision's random transforms that keep an image's shape as they come."""
    from fedvision.augment import FILTERS

    yield from FILTERS.items()
    yield "NAME", "any of torchvision.transforms.v2, e.g. {name: RandomHorizontalFlip, p: 0.5} (training.transforms)"


def _datasets() -> Rows:
    from fedvision.data.datasets import DATASETS

    return ((name, f"{entry.description} ({entry.licence})") for name, entry in DATASETS.items())


def _partitions() -> Rows:
    from fedvision.data.schemes import PARTITIONS

    return ((name, scheme.description) for name, scheme in PARTITIONS.items())


def _strategies() -> Rows:
    from fedvision.algorithms import ALGORITHMS

    return ((name, (kind.__doc__ or "").strip()) for name, kind in ALGORITHMS.items())


def _configs() -> Rows:
    """The configs under ./configs, each with the comment on its first line."""
    for path in sorted(Path("configs").glob("*.yaml")):
        with path.open(encoding="utf-8") as file:
            yield str(path), file.readline().strip().removeprefix("#").strip()


LISTS: dict[str, Callable[[], Rows]] = {
    "tasks": _tasks, "models": _models, "transforms": _transforms, "datasets": _datasets, "partitions": _partitions, "strategies": _strategies, "configs": _configs,
}  # fmt: skip


def listed(what: str) -> list[tuple[str, str]]:
    """The rows of one list."""
    return [*LISTS[what](), *_brought(what)]
