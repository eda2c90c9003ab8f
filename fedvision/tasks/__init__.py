"""What can be learned.  A task owns its loss (per example), its metrics (as sums over examples) and its pictures."""

from typing import TYPE_CHECKING, Any

from fedvision.brought import is_brought, make

if TYPE_CHECKING:
    from fedvision.experiment import Experiment

TASKS = {
    "classification": "one label an image; cross-entropy per image; accuracy, balanced accuracy, F1, AUC, sensitivity, ECE, confusion",
    "multilabel": "several labels an image, missing ones allowed; binary cross-entropy; accuracy, exact match, F1, AUC, sensitivity, ECE",
    "regression": "one or more numbers an image, missing ones allowed; squared error; MAE, RMSE, R²",
}


def make_task(name: str, classes: tuple[str, ...], specificity: float = 0.9) -> Any:
    """The task of that name over `classes`; specificity: at which a sensitivity is read."""
    from fedvision.tasks.classification import Classification
    from fedvision.tasks.multilabel import MultiLabel
    from fedvision.tasks.regression import Regression

    if name not in TASKS and is_brought(name, "tasks"):
        return make(name, "task", "tasks", classes)
    return {"classification": Classification, "multilabel": MultiLabel, "regression": Regression}[name](classes, specificity)


def task_of(experiment: "Experiment", classes: tuple[str, ...]) -> Any:
    """The experiment's task over `classes`."""
    return make_task(experiment.task, classes, experiment.evaluation.specificity)
