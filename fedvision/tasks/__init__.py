"""What can be learned.  A task owns its loss (per example), its metrics (as sums over examples) and its pictures."""

from typing import TYPE_CHECKING, Any

from fedvision.brought import is_brought, make

if TYPE_CHECKING:
    import torch

    from fedvision.experiment import Experiment
    from fedvision.segmenting import Segmentation

TASKS = {
    "classification": "one label an image; cross-entropy per image; accuracy, balanced accuracy, F1, AUC, sensitivity, ECE, confusion",
    "multilabel": "several labels an image, missing ones allowed; binary cross-entropy; accuracy, exact match, F1, AUC, sensitivity, ECE",
    "segmentation": "a class for each pixel or voxel; cross-entropy, Dice, Tversky, boundary losses; Dice, mIoU, boundary F-score, Hausdorff-95",
    "detection": "boxes around objects; the detector's own loss, divided by what the image holds; average precision at IoUs from 0.5 to 0.95",
    "instances": "a box and a mask for each object, by a model that is trained on whole batches; average precision of boxes and of masks",
    "regression": "one or more numbers an image, missing ones allowed; squared error; MAE, RMSE, R²",
}


def make_task(name: str, classes: tuple[str, ...], specificity: float = 0.9, segmentation: "Segmentation | None" = None) -> Any:
    """The task of that name over `classes`; specificity: at which a sensitivity is read; segmentation: that section of the config."""
    if name == "segmentation":
        from fedvision.tasks.segmentation import Segmentation as Masks

        return Masks(classes) if segmentation is None else Masks(classes, segmentation)
    from fedvision.tasks.classification import Classification
    from fedvision.tasks.multilabel import MultiLabel
    from fedvision.tasks.regression import Regression

    if name not in TASKS and is_brought(name, "tasks"):
        return make(name, "task", "tasks", classes)
    return {"classification": Classification, "multilabel": MultiLabel, "regression": Regression}[name](classes, specificity)


def task_of(experiment: "Experiment", classes: tuple[str, ...]) -> Any:
    """The experiment's task over `classes`."""
    if experiment.task == "detection":
        from fedvision.tasks.detection import Detection, method_of

        if experiment.model.name == "detection/faster_rcnn":
            from fedvision.tasks.coupled import CoupledDetection, TwoStage

            return CoupledDetection(classes, TwoStage(len(classes)))
        return Detection(classes, method_of(experiment.model.name, len(classes), experiment.evaluation.soft_nms))
    if experiment.task == "instances":
        from fedvision.detection.average_precision import mask_overlaps
        from fedvision.tasks.coupled import TwoStage
        from fedvision.tasks.instances import Instances

        return Instances(classes, TwoStage(len(classes), mask_overlaps))
    return make_task(experiment.task, classes, experiment.evaluation.specificity, experiment.segmentation)


def possible_targets(task: Any, n: int, generator: "torch.Generator", shape: tuple[int, ...]) -> "torch.Tensor":
    """Targets that could be, of `n` images of `shape` [C,...]: for trying a model without data."""
    found: torch.Tensor = task.possible(n, generator, shape) if getattr(task, "geometry", "") else task.possible(n, generator)
    return found
