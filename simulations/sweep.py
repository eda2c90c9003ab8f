"""`fedvision sweep`: one config over a grid of values and seeds, in one folder, one table and one plot.

    SWEEP/sweep.json        the plan, written before the first run: keys, seeds, and a folder for each run
    SWEEP/configs/*.yaml    the complete config of each run
    SWEEP/runs/*/           the run folders
    SWEEP/table.csv         a row a run;  points.csv: a row a point, with mean and spread over its seeds
    SWEEP/sweep.png         the plot

The plan is fixed when it is begun: `--resume SWEEP` does what is not done yet.
"""

import fcntl
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from fedvision.errors import ConfigError, FedvisionError, RunFolderError
from fedvision.experiment import Experiment, load, rooted
from fedvision.learning import METRICS
from fedvision.schema import read_yaml, render, validate, with_settings
from fedvision.tracking.folder import write_atomically

_MOST_RUNS = 10_000


@dataclass(frozen=True)
class Run:
    """One run of a sweep.  settings: the keys that are swept, with their values as they were written; seed: its seed."""

    folder: str
    settings: Mapping[str, str]
    seed: int

    @property
    def point(self) -> str:
        """What its point of the grid is called: the settings, without the seed."""
        return said(self.settings) or "as it is"


def said(settings: Mapping[str, str]) -> str:
    """Settings in few words: a key's last part, or the block's where the last part says what the block is.

    >>> said({"strategy.name": "fedavg", "training.learning_rate": "0.1"})
    'strategy=fedavg, learning_rate=0.1'
    """
    return ", ".join(f"{short(key)}={value}" for key, value in settings.items())


def short(key: str) -> str:
    """The part of a key that says most."""
    block, _, last = key.rpartition(".")
    return block if last in {"name", "scheme", "dataset", "mechanism"} and block else last


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do.  metric: the one that the plot shows; over: the values of each key, in the order of the grid."""

    name: str
    metric: str
    over: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    runs: Sequence[Run]


class Sweep:
    """A sweep's folder, with its plan."""

    def __init__(self, path: Path, plan: Plan):
        self.path, self.plan = path, plan

    def config(self, run: Run) -> Path:
        """The complete config of one run."""
        return self.path / "configs" / f"{run.folder}.yaml"

    def folder(self, run: Run) -> Path:
        """The run folder of one run."""
        return self.path / "runs" / run.folder

    @classmethod
    def create(cls, config: Path, settings: list[str], over: list[str], seeds: int, metric: str | None, out: Path | None) -> "Sweep":
        """A new sweep: every config of the grid is checked, and its data and model opened, before anything is written."""
        keys = grid(over)
        planned = experiments(config, settings, keys, seeds)
        first = planned[0][1]
        plan = Plan(
            first.name, _metric(metric, first), keys, list(dict.fromkeys(run.seed for run, _ in planned)), [run for run, _ in planned]
        )
        _try_each_point(planned)
        sweep = cls(out if out is not None else Path("runs") / f"{first.name}-sweep-{datetime.now():%Y%m%d-%H%M%S}", plan)
        sweep._write([experiment for _, experiment in planned])
        return sweep

    @classmethod
    def open(cls, path: Path) -> "Sweep":
        """The sweep that was begun in `path`; RunFolderError where there is none."""
        try:
            kept = json.loads((path / "sweep.json").read_bytes())
            runs = [Run(**run) for run in kept.pop("runs")]
            return cls(path, Plan(**kept, runs=runs))
        except FileNotFoundError:
            raise RunFolderError(
                f"{path} holds no sweep (it has no sweep.json); give the folder that a sweep named as its sweep_dir"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunFolderError(f"{path / 'sweep.json'} cannot be read: {error}") from None

    def _write(self, planned: Sequence[Experiment]) -> None:
        if self.path.is_dir() and any(self.path.iterdir()):
            begun = f"go on with it with --resume {self.path}, or give" if (self.path / "sweep.json").is_file() else "give"
            raise RunFolderError(f"{self.path} is not empty: {begun} another folder with --out")
        try:
            (self.path / "configs").mkdir(parents=True, exist_ok=True)
            (self.path / "runs").mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be made: {error.strerror}; give another folder with --out") from None
        for run, experiment in zip(self.plan.runs, planned, strict=True):
            write_atomically(self.config(run), render(experiment).encode())
        write_atomically(self.path / "sweep.json", json.dumps(asdict(self.plan), indent=1).encode())  # last: with it, all is there

    @contextmanager
    def alone(self) -> Iterator[None]:
        """RunFolderError where another process is at work in this folder."""
        with open(self.path / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(f"{self.path}: another `fedvision sweep` is at work in this folder; wait for it, or end it") from None
            yield


# ------------------------------------------------------------------------------------------------------------ the grid


def grid(over: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key.

    >>> grid(["training.learning_rate=0.1,0.01", "data.mean=[0.1, 0.2],null"])
    {'training.learning_rate': ['0.1', '0.01'], 'data.mean': ['[0.1, 0.2]', 'null']}
    """
    keys: dict[str, list[str]] = {}
    for given in over:
        key, equals, text = given.partition("=")
        key, values = key.strip(), [value.strip() for value in _split(text)]
        if not equals or not key or not all(values):
            raise ConfigError(f"--over {given!r}: write it as key=a,b, for example --over training.learning_rate=0.1,0.01")
        if key == "seed":
            raise ConfigError(f"--over {given!r}: seeds are swept by --seeds N, which counts on from the config's seed")
        if key in keys:
            raise ConfigError(f"--over {key} is given twice; write its values once, with commas")
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ConfigError(f"--over {given!r} has the value {twice} twice")
        keys[key] = values
    return keys


def _split(text: str) -> list[str]:
    """`text` at its commas, but for those inside brackets, braces or quotes."""
    return list(re.split(r""",(?![^\[]*\])(?![^{]*\})(?=(?:[^"]*"[^"]*")*[^"]*$)(?=(?:[^']*'[^']*')*[^']*$)""", text))


def experiments(config: Path, settings: list[str], keys: Mapping[str, Sequence[str]], seeds: int) -> list[tuple[Run, Experiment]]:
    """Every run of the grid with its experiment; ConfigError naming each point that cannot be."""
    total = seeds
    for given in keys.values():
        total *= len(given)
    if total > _MOST_RUNS:
        raise ConfigError(f"the grid has {total:,} runs, more than {_MOST_RUNS:,}: sweep fewer values")
    base = load(config, settings).seed
    values = read_yaml(config)
    planned: list[tuple[Run, Experiment]] = []
    wrong: dict[str, list[str]] = {}
    for number, point in enumerate(itertools.product(*keys.values())):
        chosen = dict(zip(keys, point, strict=True))
        for seed in range(base, base + seeds):
            run = Run(f"{number:03}-{_slug(chosen)}seed-{seed}", chosen, seed)
            wanted = [*settings, *(f"{key}={value}" for key, value in chosen.items()), f"seed={seed}"]
            try:
                planned.append((run, rooted(validate(Experiment, with_settings(values, wanted, Experiment), str(config)), config.parent)))
            except ConfigError as error:
                wrong.setdefault(str(error), []).append(run.point)
                break
    if wrong:
        raise ConfigError("\n".join(f"{_points(points)}: {message}" for message, points in wrong.items()))
    return planned


def _points(points: Sequence[str]) -> str:
    more = f" and {len(points) - 3} more points" if len(points) > 3 else ""
    return f"{'; '.join(points[:3])}{more}"


def _slug(settings: Mapping[str, str]) -> str:
    text = "-".join(f"{short(key)}-{value}" for key, value in settings.items())
    safe = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:80]
    return f"{safe}-" if safe else ""


def _metric(metric: str | None, first: Experiment) -> str:
    """The metric of the plot: the one asked for, else what picks the best model."""
    if metric is None:
        return first.evaluation.best
    known = METRICS.get(first.task, ())
    base = re.sub(r"^site_(mean|worst|spread)_", "", metric)
    if known and base not in known and not metric.startswith("recall_"):
        raise ConfigError(f"--metric {metric}: allowed are {', '.join(known)}, each also as site_mean_, site_worst_ or site_spread_...")
    return metric


def _try_each_point(planned: Sequence[tuple[Run, Experiment]]) -> None:
    """Open the data and build the model of each point once; the first run must not be what finds a missing file."""
    from fedvision.data.federation import open_federated
    from fedvision.models import build
    from fedvision.tasks import task_of

    tried: set[str] = set()
    wrong: dict[str, list[str]] = {}
    for run, experiment in planned:
        what = {"data", "partition", "model", "task", "evaluation", "strategy"}
        key = experiment.model_dump_json(include=what)
        if key in tried:
            continue
        tried.add(key)
        try:
            data = open_federated(experiment)
            build(experiment, data.shape, task_of(experiment, data.classes).outputs)
        except FedvisionError as error:
            wrong.setdefault(str(error), []).append(run.point)
    if wrong:
        raise ConfigError("\n".join(f"{_points(points)}: {message}" for message, points in wrong.items()))
