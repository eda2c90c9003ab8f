"""What can be learned.  A task owns its loss (per example), its metrics (as sums over examples) and its pictures."""

from typing import Any

from fedvision.brought import is_brought, make

TASKS = {"classification": "one label an image; cross-entropy per image; accuracy, balanced accuracy, F1, AUC, confusion"}


def make_task(name: str, classes: tuple[str, ...]) -> Any:
    """The task of that name over `classes`."""
    from fedvision.tasks.classification import Classification

    if name not in TASKS and is_brought(name, "tasks"):
        return make(name, "task", "tasks", classes)

    return {"classification": Classification}[name](classes)
