"""A simulation from config to report: open the data, make the folder, run the rounds on an engine, draw the report."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clients.recipe import check_training
from fedvision.brought import digests
from fedvision.data.federation import Federated, open_federated
from fedvision.data.site import Examples
from fedvision.errors import ConfigError, RunFolderError
from fedvision.experiment import Experiment
from fedvision.models import build
from fedvision.protections import Central, DpSgd
from fedvision.schema import flat_values
from fedvision.tasks import task_of
from fedvision.tracking.environment import differences, environment
from fedvision.tracking.folder import RunFolder, write_atomically
from fedvision.tracking.progress import Progress
from fedvision.types import Exchange
from privacy.amplification import forget
from privacy.attacks.audit import audited
from server.journal import Listener
from server.run import Assignment, federate, room_needed
from simulations.conditions import Troubled, check_names
from simulations.engines import ENGINES, Engine
from simulations.ledgers import found_ledgers
from simulations.masked import founded
from simulations.pictures import illustrate
from simulations.setting import Setting

ARTEFACTS = ("config.yaml", "summary.json", "rounds.jsonl", "environment.json", "model.safetensors", "report.html", "audit.json")
FREE_TO_CHANGE = ("engine.", "tracking.", "name")  # what a resumed run may do otherwise: none of it changes a byte


def simulate(
    experiment: Experiment, out: Path | None, resume: Path | None, quiet: bool = False, engine: Engine | None = None
) -> tuple[RunFolder, dict[str, Any]]:
    """Run (or go on with) a federated simulation; its folder and its summary.  engine: another than engine.name's."""
    folder, data = set_up(experiment, "simulate", out, resume)
    with Progress(experiment.evaluation.best, quiet) as display, logged_to(folder), concluded(experiment, folder, display) as told:
        display.message(f"{experiment.name}: {len(data.sites)} sites, engine {experiment.engine.name}, run folder {folder.path}")
        for note in notes_of(experiment, data):
            display.message(f"note: {note}")
        states = folder.path / "sites"
        roster = founded(states, experiment, data.sites, display.message) if experiment.secure_aggregation.enabled else None
        ledgers = found_ledgers(folder, states, experiment, data.sites, display.message)
        coordinator = None if ledgers is None else ledgers.coordinator
        job = Assignment(
            experiment,
            folder,
            data.shape,
            data.classes,
            own_examples(experiment, data),
            notes_of(experiment, data),
            told,
            roster,
            coordinator,
        )

        def conduct(exchange: Exchange) -> dict[str, Any]:
            return federate(job, _troubled(exchange, experiment, data), display)

        setting = Setting(experiment, data, states, display.message)
        try:
            summary = (engine or ENGINES[experiment.engine.name])(setting, conduct)
            illustrate(experiment, folder, data)
            summary = _attacked(experiment, folder, summary, display)
        except BaseException:
            display.finish()
            display.message(f"finished rounds are kept in {folder.path}; go on with: fedvision simulate --resume {folder.path}")
            raise
        if ledgers is not None:
            summary["privacy"]["ledger_head"] = head = ledgers.close(display.message)
            forget(folder.run)
            folder.write_summary(summary)
            display.message(f"ledger: head {head}; note it elsewhere, and check the run with: fedvision privacy verify {folder.path}")
    return folder, summary


def _attacked(experiment: Experiment, folder: RunFolder, summary: dict[str, Any], display: Progress) -> dict[str, Any]:
    """The summary, with what the run's own canaries say of its promise; as it is where it had none."""
    if not isinstance(experiment.privacy, DpSgd | Central) or experiment.privacy.audit is None:
        return summary
    verdict = audited(folder.path)
    display.message("\n".join(verdict.words()))
    summary |= {"notes": [*summary["notes"], *verdict.words()], "privacy": summary["privacy"] | {"audit": verdict.as_json()}}
    folder.write_summary(summary)
    return summary


def set_up(experiment: Experiment, kind: str, out: Path | None, resume: Path | None) -> tuple[RunFolder, Federated]:
    """The run's folder, new or found, and its data: the partition of a resumed run is the one that it kept."""
    _check_device(experiment)
    digests(experiment)  # what is brought is looked for before anything is begun
    if resume is not None:
        folder = RunFolder.open(resume)
        check_same(experiment, folder)
        for difference in differences(folder.environment(), environment(experiment)):
            print(f"note: the bytes may differ from an uninterrupted run's: {difference}", file=sys.stderr)
        kept = folder.path / "partition.npz"
        return folder, open_federated(experiment, kept if kept.exists() else None)
    if experiment.privacy is not None and kind != "simulate":
        raise ConfigError(
            f"privacy.mechanism = {experiment.privacy.mechanism}: {kind} trains without protection and would not keep the promise; for the line "
            "without privacy set privacy to null, with training.batch_size and epochs or steps"
        )
    data = open_federated(experiment)
    check_names(experiment.conditions, data.sites)
    task = task_of(experiment, data.classes)
    model = build(experiment, data.shape, task.outputs)
    check_training(experiment.training, model, task, data.shape)
    parameters = sum(t.numel() for t in model.state_dict().values())
    folder = RunFolder.create(experiment, kind, out, room_needed(experiment, parameters, len(data.sites)))
    folder.write_environment(environment(experiment))
    data.partition.save(folder.path / "partition.npz")
    write_atomically(folder.path / "partition.json", json.dumps(data.summary()).encode())
    return folder, data


def _check_device(experiment: Experiment) -> None:
    import torch

    if experiment.engine.device == "cuda" and experiment.engine.address is None and not torch.cuda.is_available():
        raise ConfigError("engine.device = cuda, and torch finds no GPU here; set engine.device to auto or cpu, or run where there is one")
    if experiment.training.precision == "fp16" and experiment.engine.address is None and not torch.cuda.is_available():
        raise ConfigError("training.precision = fp16, and torch finds no GPU here; set it to bf16 or fp32, or run where there is one")


def check_same(experiment: Experiment, folder: RunFolder) -> None:
    """ConfigError unless `experiment` is what the folder's run was begun with, but for where it runs."""
    begun, wanted = flat_values(folder.experiment()), flat_values(experiment)
    other = [k for k in {**begun, **wanted} if begun.get(k) != wanted.get(k) and not k.startswith(FREE_TO_CHANGE)]
    if (begun.get("engine.name") == "vmap") != (wanted.get("engine.name") == "vmap"):
        other = ["engine.name", *other]  # vmap ends at other bytes than the other engines
    if other:
        key = other[0]
        raise ConfigError(
            f"--resume {folder.path}: {key} = {wanted.get(key)!r}, and the run was begun with {begun.get(key)!r}"
            f"{f' ({len(other) - 1} more keys differ)' if len(other) > 1 else ''}; resume with its own config, "
            f"`fedvision simulate {folder.path / 'config.yaml'} --resume {folder.path}`, or start another run"
        )


def notes_of(experiment: Experiment, data: Federated) -> tuple[str, ...]:
    """What a reader of the run's figures has to know."""
    if experiment.engine.name != "vmap":
        return data.notes
    return (*data.notes, "engine vmap: its figures agree with the other engines' within float tolerance, not to the bit")


def own_examples(experiment: Experiment, data: Federated) -> Mapping[str, Examples]:
    """The coordinator's own examples by part, those that it has."""
    if experiment.evaluation.server is None:
        return {}
    return {part: data.server(part) for part in ("validation", "test") if len(data.server(part))}


def _troubled(exchange: Exchange, experiment: Experiment, data: Federated) -> Exchange:
    if not experiment.conditions.any:
        return exchange
    from fedvision.fields import declare
    from fedvision.models import parts

    model = build(experiment, data.shape, task_of(experiment, data.classes).outputs)
    layout = declare(experiment, model.state_dict(), parts(model, experiment), len(data.sites))
    return Troubled(exchange, experiment.conditions, layout, experiment.seed)


@contextmanager
def logged_to(folder: RunFolder) -> Iterator[None]:
    """What fedvision logs goes to the folder's run.log."""
    handler = logging.FileHandler(folder.path / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk is said once, and not by the log
    root = logging.getLogger("fedvision")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with suppress(OSError):  # a disk that is full has its own message, which this must not hide
            handler.close()


@contextmanager
def concluded(experiment: Experiment, folder: RunFolder, display: Progress) -> Iterator[list[Listener]]:
    """Whatever becomes of a run inside: its report is drawn, and MLflow is told, where the config wants them."""
    log = None
    if experiment.tracking.mlflow is not None:
        from fedvision.tracking.mlflow_log import MlflowLog

        log = MlflowLog(folder, experiment.tracking.mlflow, say=display.message)
        log.log_params(experiment.model_dump())
    failed = False
    try:
        yield [log] if log is not None else []
    except BaseException as error:  # raised again: a run that ended before its first round says so too
        failed = True
        summary = folder.summary()
        if summary["status"] == "running":
            ended = (
                {"status": "interrupted", "error": None}
                if isinstance(error, KeyboardInterrupt)
                else {"status": "failed", "error": str(error)}
            )
            folder.write_summary(summary | ended)
        raise
    finally:
        display.finish()
        try:
            draw(experiment, folder)
        except RunFolderError as error:
            if not failed:
                raise
            display.message(str(error))  # what ended the run is the message that counts
        if log is not None:
            summary = folder.summary()
            artefacts = [folder.path / name for name in ARTEFACTS if (folder.path / name).exists()]
            notes = log.finish(summary["status"], artefacts, summary["metrics"])
            if notes:
                folder.write_summary(summary | {"notes": [*summary.get("notes", []), *notes]})
                draw(experiment, folder)


def draw(experiment: Experiment, folder: RunFolder) -> None:
    """Draw report.html, where the config wants it."""
    if experiment.tracking.report:
        from fedvision.tracking.report import draw_report

        draw_report(folder.path)


def config_of(run: Path) -> Path:
    """The config of the run that is to go on."""
    folder = RunFolder.open(run)
    if folder.kind != "simulate":
        raise RunFolderError(f"--resume {run}: it is a {folder.kind} run; only simulate is resumed, run it again")
    return folder.path / "config.yaml"
