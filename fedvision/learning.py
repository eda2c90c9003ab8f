"""The sections of a config about learning: the network, what a site does with it in a round, and how it is measured."""

from typing import Any, Literal

from pydantic import Field, model_validator

from fedvision.schema import Fraction, Positive, Section, Units


class Model(Section):
    """The network, by name."""

    name: str = Field(
        "cnn", description="cnn, mlp, torchvision/NAME, timm/NAME, FILE.py:NAME or PACKAGE.MODULE:NAME; `fedvision list models`"
    )
    norm: Literal["none", "batch", "group"] | None = Field(None, description="normalisation layers: as built (null), or replaced by these")
    norm_statistics: Literal["averaged", "frozen"] = Field(
        "averaged", description="BatchNorm's running mean and variance: averaged over sites, or left as they are"
    )
    width: Units = Field(32, description="channels of the first layer (cnn), units of the hidden layer (mlp)")
    hidden: Units = Field(128, description="units of the cnn's hidden linear layer")
    dropout: Fraction = Field(0.0, description="share of hidden units dropped in training (cnn, mlp)")
    options: dict[str, Any] = Field(
        default_factory=dict, description="what a model of your own is called with, by name, besides shape and outputs"
    )
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
