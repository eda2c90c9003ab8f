"""Early stopping: a run ends when the coordinator's criterion has not got better for a while."""

from dataclasses import replace

from fedvision.learning import Evaluation
from fedvision.tracking.figures import lower_is_better
from server.checkpoints import Progress


def better(metric: str, value: float, best: float | None, least: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `least`; anything is better than None.

    >>> better("accuracy", 0.9, 0.8), better("loss", 0.9, 0.8), better("accuracy", 0.85, 0.8, 0.1)
    (True, False, False)
    """
    if best is None:
        return True
    return (best - value if lower_is_better(metric) else value - best) > least


def watched(evaluation: Evaluation, progress: Progress, value: float | None) -> tuple[Progress, str | None]:
    """`progress` after an evaluation that gave `value` (None: the round was not evaluated), and, where the run is to stop,
    why.  What is counted lies in the checkpoint, so that a resumed run stops where it would have."""
    if evaluation.patience is None or value is None:
        return progress, None
    if better(evaluation.best, value, progress.mark, evaluation.min_gain):
        return replace(progress, mark=value, stale=0), None
    progress = replace(progress, stale=progress.stale + 1)
    if progress.stale < evaluation.patience:
        return progress, None
    by = f" by more than {evaluation.min_gain:g}" if evaluation.min_gain else ""
    said = (
        f"stopped early: {evaluation.best} on the server's validation data was not better than {progress.mark:.4g}{by} in "
        f"{progress.stale} evaluation{'s' if progress.stale > 1 else ''} (evaluation.patience = {evaluation.patience})"
    )
    return replace(progress, stopped=True), said
