"""Experiment: the frozen, validated value that a run is made of, read from a YAML file.

Every key carries its unit in its description; `render` writes them as comments, so that each config under `configs/`
and the `config.yaml` of each run folder are complete.  What may be combined with what is decided in one place, `fedvision.compatible`.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedvision.algorithms import SITE_STATE, FedAvg, Strategy
from fedvision.brought import from_folder, is_brought
from fedvision.compatible import complaints
from fedvision.errors import ConfigError
from fedvision.holdings import Data, Partition
from fedvision.learning import BEST, METRICS, Evaluation, Model, Training
from fedvision.protections import Central, DpSgd, Ledger, Local
from fedvision.schema import Positive, Probability, Section, read_yaml, validate, with_settings
from fedvision.segmenting import Segmentation

# --------------------------------------------------------------------------------------- the rounds and who takes part


class Federation(Section):
    """Rounds, participation and how replies are weighted."""

    rounds: Positive = Field(description="number of rounds")
    sampling: Literal["all", "fixed", "poisson"] = Field("all", description="who is asked: every site, a fixed number, or each by chance")
    cohort: Positive | None = Field(None, description="sites asked a round, where sampling = fixed")
    rate: float | None = Field(None, gt=0, le=1, description="chance of each site to be asked, where sampling = poisson")
    min_replies: int = Field(1, ge=0, le=2**31 - 1, description="fewest replies that make a round")
    on_missing: Literal["wait", "retry", "skip", "stop"] = Field(
        "retry",
        description="a round with fewer: wait = ask those missing again, retry = ask a fresh cohort, skip = leave the model as it is, stop",
    )
    max_attempts: Positive = Field(5, description="how often wait or retry ask before the run stops")
    weighting: Literal["examples", "uniform"] = Field("examples", description="weight of a site's update: its number of examples, or 1")
    max_examples: Positive = Field(100_000, description="public maximum of examples at one site, which weights are divided by")
    max_update_norm: float = Field(1e4, gt=0, description="largest L2 norm of one site's update; above it the update is refused")


class Acceptance(Section):
    """When a round is rejected whole: what nobody can see of one site's vector may show in the sum, or in the model that it makes."""

    loss_factor: float | None = Field(
        None,
        gt=1,
        description="largest loss of a new model on the server's validation data, over the lowest so far; above it, rejected; null = not looked at",
    )
    max_mean_norm: float | None = Field(
        None, gt=0, description="largest L2 norm of the sites' mean update; above it the round is rejected; null = not looked at"
    )
    on_rejected: Literal["skip", "retry", "stop"] = Field(
        "skip", description="skip = leave the model as it was and go on, retry = ask a fresh cohort (federation.max_attempts), stop"
    )


Misbehaviour = Literal[
    "nan", "inf", "huge", "wrong_shape", "wrong_names", "wrong_dtype", "negative_weight", "huge_weight", "raise", "opposite",
    "hang", "hang_once", "die", "die_once",
]  # fmt: skip
AT_WORKERS = {"hang", "hang_once", "die", "die_once"}  # done to the process that works for the site: on ray only


class Conditions(Section):
    """What goes wrong in a simulation, drawn by name: the same on every engine."""

    absent: Probability = Field(0.0, description="chance that an asked site does not answer at all, per round")
    dropout: Probability = Field(0.0, description="chance that a site trains and its reply is lost, per round")
    seconds_per_example: float = Field(0.001, ge=0, description="simulated time that a site takes, seconds per trained example")
    speed_sigma: float = Field(0.0, ge=0, le=5, description="σ of the log of the sites' slowness; 0 = all alike")
    deadline: float | None = Field(None, gt=0, description="replies later than this are not counted, simulated seconds; null = none")
    misbehaving: dict[str, Misbehaviour] = Field(
        default_factory=dict,
        description="sites that send rubbish or take their worker with them, by name, and how: a test of the coordinator and of the engine",
    )
    budgets: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="sites whose account holds less than the plan, by name: ε for its whole life, at privacy.delta; they decline beyond it",
    )

    @property
    def any(self) -> bool:
        """Whether anything at all is simulated to go wrong or to take time."""
        return bool(self.absent or self.dropout or self.speed_sigma or self.deadline or self.misbehaving)


class Encoding(Section):
    """Fixed point in which updates are summed, exactly, in any order, in the clear and masked alike."""

    bits: Literal[16, 20, 24, 32, 64] = Field(
        64, description="of one number; 32 is for secure aggregation, fewer for masked runs over slow links, with a smaller range"
    )
    rounding: Literal["nearest", "stochastic"] = Field("nearest", description="to the grid: nearest, or up and down by chance, by name")
    range_weights: float = Field(16.0, gt=0, description="largest |update| of a trained parameter; beyond it a site declines")
    range_buffers: float = Field(4096.0, gt=0, description="largest |update| of a running statistic; beyond it a site declines")


class SecureAggregation(Section):
    """Masked sums: the coordinator learns one sum a round and no site's update, also when it lies."""

    enabled: bool = Field(False, description="true = sites mask their updates; false = they send them in the clear")
    min_cohort: int = Field(3, ge=2, description="fewest sites in a sum, and in whatever follows from several sums")
    threshold: int | None = Field(None, ge=2, description="fewest sites that sign a list of survivors; null = floor(2n/3) + 1 of n asked")
    planned_dropouts: int = Field(
        0, ge=0, description="sites of a round that may drop out; sites stricter than this leaves room for are left out"
    )


class Engine(Section):
    """Where the sites' work is done; changes no byte of the result."""

    name: Literal["inline", "ray", "flower", "vmap"] = Field(
        "inline", description="a loop, Ray workers, Flower's runtime, or many small sites at once (vmap: not to the same bytes)"
    )
    workers: Positive = Field(1, le=1024, description="processes (ray, flower)")
    threads: Positive = Field(1, le=1024, description="torch threads of each worker; part of what makes the bytes")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = a GPU where there is one")
    gpus_per_worker: float = Field(0.0, ge=0, le=16, description="share of a GPU that Ray gives each worker, e.g. 0.5")
    address: str | None = Field(None, description="of a Ray cluster that is already up; null = start one here")
    max_restarts: int = Field(10, ge=0, description="how often dead workers are replaced before the run stops")
    site_seconds: float | None = Field(
        None,
        gt=0,
        description="longest that a worker may take for one site, wall seconds (ray); longer, and it is replaced; null = no limit",
    )


class Tracking(Section):
    """What is kept of a run besides its folder."""

    mlflow: str | None = Field("local", description="local = an SQLite store beside the runs, a server's URI, or null = none")
    checkpoints: Positive = Field(3, description="newest checkpoints kept, besides the best")
    pictures: int = Field(4, ge=0, le=20, description="examples of each kind that the report shows, of tasks that have pictures; 0 = none")
    report: bool = Field(True, description="draw report.html at the end")


# ------------------------------------------------------------------------------------------------------ the experiment


class Experiment(Section):
    """One federated experiment, whole."""

    name: str = Field(
        "experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="letters, digits, dot, dash; names the run folder"
    )
    seed: int = Field(0, ge=0, description="of everything that may be known: partition, weights, shuffles, simulated faults")
    task: str = Field("classification", description="what is learned; `fedvision list tasks`, or FILE.py:NAME, PACKAGE.MODULE:NAME")
    data: Data
    partition: Partition
    federation: Federation
    acceptance: Acceptance = Field(default_factory=Acceptance)
    conditions: Conditions = Field(default_factory=Conditions)
    strategy: Strategy = Field(default_factory=FedAvg)
    model: Model = Field(default_factory=Model)
    training: Training = Field(default_factory=Training)
    segmentation: Segmentation | None = Field(None, description="losses and measures of task = segmentation; null = as they come")
    privacy: DpSgd | Central | Local | None = Field(None, discriminator="mechanism", description="what the run promises; null = nothing")
    ledger: Ledger = Field(default_factory=Ledger)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    encoding: Encoding = Field(default_factory=Encoding)
    secure_aggregation: SecureAggregation = Field(default_factory=SecureAggregation)
    engine: Engine = Field(default_factory=Engine)
    tracking: Tracking = Field(default_factory=Tracking)

    @model_validator(mode="before")
    @classmethod
    def _public_numbers_by_default(cls, values: Any) -> Any:
        """Under privacy, an absent key is what it must be, and not its usual default, which would be refused."""
        privacy = values.get("privacy") if isinstance(values, dict) else None
        if not isinstance(privacy, dict):
            return values
        must: dict[str, dict[str, Any]] = {"federation": {"weighting": "uniform"}, "evaluation": {"sites": "none"}}
        if privacy.get("amplified") is True:
            must["federation"]["min_replies"] = 0
        if privacy.get("mechanism") == "dp_sgd":
            must["training"] = {"batch_size": None, "epochs": None}
        given = {key: values.get(key) or {} for key in must}
        return values | {key: must[key] | given[key] for key in must if isinstance(given[key], dict)}

    @model_validator(mode="before")
    @classmethod
    def _best_of_the_task(cls, values: Any) -> Any:
        """Where evaluation.best is absent, the task's own main metric."""
        best = BEST.get(str(values.get("task"))) if isinstance(values, dict) else None
        given = (values.get("evaluation") or {}) if best is not None else None
        return values | {"evaluation": {"best": best} | given} if isinstance(given, dict) else values

    @field_validator("task")
    @classmethod
    def _is_known(cls, task: str) -> str:
        if task not in METRICS and not is_brought(task, "tasks"):
            near = difflib.get_close_matches(task, METRICS, 1, 0.4)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"allowed are {', '.join(METRICS)}, FILE.py:NAME and PACKAGE.MODULE:NAME{meant}")
        return task

    @field_validator("seed")
    @classmethod
    def _fits_in_63_bits(cls, seed: int) -> int:
        if seed >= 2**63:
            raise ValueError("it should be below 2^63")
        return seed

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        for complaint in complaints(self):
            raise ValueError(complaint)
        return self


def keeps_replies(experiment: Experiment) -> bool:
    """Whether sites store what they released, so that asking again draws no noise again."""
    return experiment.privacy is not None and experiment.privacy.simulation_only_seed is None and experiment.privacy.mechanism != "central"


def has_site_state(experiment: Experiment) -> bool:
    """Whether the sites keep something from round to round, which the coordinator's checkpoints must not overtake."""
    return experiment.strategy.name in SITE_STATE or getattr(experiment.strategy, "site_state", False)


def load(path: str | Path, settings: list[str] | None = None) -> Experiment:
    """The experiment in a YAML file, with "a.b=value" settings put in; ConfigError (exit 2) where it cannot be.

    Relative paths in it (data.root, data.manifest, data.annotations, data.names, data.statistics, model.weights, partition.load, files of
    one's own code) start at the file's folder.  The mean and std of data.statistics are put in.
    """
    path = Path(path)
    values = with_settings(read_yaml(path), settings or [], Experiment)
    return rooted(validate(Experiment, values, str(path)), path.parent)


def from_values(values: Mapping[str, Any], settings: list[str] | None = None, folder: str | Path = ".") -> Experiment:
    """The experiment in nested mappings, as a YAML file would hold it; its relative paths start at `folder`.

    >>> blocks = {"data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 4}, "federation": {"rounds": 2}}
    >>> from_values(blocks, ["federation.rounds=3"]).federation.rounds
    3
    """
    return rooted(validate(Experiment, with_settings(values, settings or [], Experiment), "experiment"), Path(folder))


def _with_constants(data: Any, privacy: Any) -> Any:
    """`data` with the mean and std of its statistics in their place: a run's own config names no file that could change.
    ConfigError where the run is private and they do not keep its promise."""
    if data.statistics is None:
        return data
    from fedvision.data.statistics import constants

    mean, std, released = constants(Path(data.statistics), data.dataset)
    noise = None
    if privacy is not None:
        unit = getattr(privacy, "unit", "site")
        if released is None or released.unit != unit:
            what = "exact sums over private images" if released is None else f"a release that protects one {released.unit}"
            raise ConfigError(
                f"data.statistics = {data.statistics} is of {what}, and this run promises something for each {unit}: make the statistics with this "
                "config (`fedvision statistics`), or use public constants as data.mean and data.std"
            )
        noise = released.noise_multiplier
    return data.model_copy(update={"mean": mean, "std": std, "statistics": None, "statistics_noise": noise})


def rooted(experiment: Experiment, folder: Path) -> Experiment:
    """`experiment` with its relative paths made absolute, starting at `folder`."""

    def absolute(section: Section, *names: str) -> Section:
        given = {n: getattr(section, n) for n in names if getattr(section, n, None) is not None}
        return section.model_copy(update={n: str((folder / value).resolve()) for n, value in given.items()})

    def brought(section: Section, *names: str) -> Section:
        given = {n: getattr(section, n, None) for n in names}
        return section.model_copy(update={n: from_folder(value, folder) for n, value in given.items() if value is not None})

    update: dict[str, Any] = {
        "data": _with_constants(
            brought(absolute(experiment.data, "root", "manifest", "annotations", "names", "statistics"), "source"), experiment.privacy
        ),
        "partition": brought(absolute(experiment.partition, "load"), "source"),
        "strategy": brought(experiment.strategy, "source", "client"),
        "model": brought(absolute(experiment.model, "weights"), "name"),
        "task": from_folder(experiment.task, folder),
    }
    return experiment.model_copy(update=update)
