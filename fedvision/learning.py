"""The sections of a config about learning: the network, what a site does with it in a round, and how it is measured."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedvision.schema import Fraction, Positive, Section, Transforms, Units


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
    hidden: Units | None = Field(128, description="units of the cnn's hidden linear layer; null = none")
    dropout: Fraction = Field(0.0, description="share of hidden units dropped in training (cnn, mlp)")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="further keywords of the library's constructor (torchvision/NAME, timm/NAME), or of a model of your own, e.g. {drop_path_rate: 0.1}",
    )
    weights: str | None = Field(None, description="safetensors (or .pt, .pth) file to start from; null = drawn from the seed")
    weights_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="what the SHA-256 of that file must be; null = not checked"
    )
    weights_except: list[str] = Field(
        default_factory=list,
        description="tensors that are not read from it but drawn, by name or pattern, e.g. [fc.*] for another set of classes",
    )

    @model_validator(mode="after")
    def _weights_belong_together(self) -> "Model":
        for key in ("weights_sha256", "weights_except"):
            if getattr(self, key) and self.weights is None:
                raise ValueError(
                    f"model.{key} = {getattr(self, key)!r} is of model.weights, which is null: give the file, or leave {key} out"
                )
        fixed = sorted(
            set(self.options)
            & {"weights", "weights_backbone", "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
        )
        if fixed:
            raise ValueError(f"model.options.{fixed[0]}: nothing is fetched, and local weights are given by model.weights; leave it out")
        return self


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
    schedule_per: Literal["round", "step"] = Field("round", description="when the rate is set anew: at a round's start, or at every step")
    warmup: float = Field(0.0, ge=0, description="rounds over which the rate rises linearly to learning_rate; 0 = none")
    schedule_step: Positive = Field(10, description="rounds between two drops, where schedule = step")
    schedule_factor: float = Field(0.5, gt=0, le=1, description="factor of each drop, where schedule = step")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="factor on the rate for each block of layers further from the output; null = all alike"
    )
    rate_factors: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="factors on the rate by parameter name or pattern, e.g. {features.*: 0.1}; 0 = they stay as they are",
    )
    gradient_clip: float | None = Field(None, gt=0, description="largest L2 norm of a batch's gradient; null = not clipped")
    label_smoothing: Fraction = Field(0.0, description="share of each label that is spread over all classes")
    focal: float = Field(
        0.0, ge=0, description="γ of the focal loss (Lin et al. 2017), which weighs down what is already right; 0 = cross-entropy"
    )
    class_weights: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="factor on the loss of each class's images (of each label's positives, where several), public; null = all alike"
    )
    balance: Literal["none", "loss", "sampling"] = Field(
        "none",
        description="of rare classes, by the site's own counts: weigh their loss up, draw them more often (with replacement), or neither",
    )
    mixup: float = Field(0.0, ge=0, description="α of mixup (Zhang et al. 2018), Beta(α, α) mixtures of images and losses; 0 = none")
    cutmix: float = Field(
        0.0, ge=0, description="α of CutMix (Yun et al. 2019), pasted boxes; with mixup, each step takes one of the two; 0 = none"
    )
    transforms: Transforms = Field(
        default_factory=list,
        description="random changes of each training image, by name: torchvision.transforms.v2's, or those of `fedvision list transforms`",
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay a step of the average of the site's weights, which is what it sends; null = the last weights"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="of the forward and backward pass (autocast); weights and sums stay fp32; fp16 needs a GPU"
    )
    accumulate: Positive = Field(1, description="pieces that each step's batch goes through the model in: less memory, the same step")
    channels_last: bool = Field(False, description="images in memory with their channels last, which convolutions may like")
    compile: bool = Field(False, description="torch.compile the model: minutes at first, for long runs of large models")

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


BEST = {
    "segmentation": "dice",
    "detection": "ap50",
    "instances": "mask_ap50",
    "regression": "r2",
}  # of tasks that are not measured by accuracy, where evaluation.best is absent
METRICS = {  # that can pick the best model, by task
    "classification": ("accuracy", "balanced_accuracy", "f1", "loss", "auc", "sensitivity", "ece"),
    "multilabel": ("accuracy", "exact_match", "f1", "loss", "auc", "sensitivity", "ece"),
    "segmentation": ("dice", "miou", "accuracy", "loss", "image_dice", "boundary_f", "hd95"),
    "detection": ("map", "ap50", "ap75", "recall", "loss"),
    "instances": ("mask_map", "mask_ap50", "mask_ap75", "mask_recall", "map", "ap50", "ap75", "recall"),
    "regression": ("mae", "rmse", "r2", "loss"),
}


class Evaluation(Section):
    """When and on what the model is measured."""

    every: Positive = Field(1, description="rounds between two evaluations; the last round is always evaluated")
    sites: Literal["all", "cohort", "none"] = Field("all", description="whose own test data is used")
    batch_size: Positive = Field(256, description="examples at a time; changes no figure")
    best: str = Field(
        "accuracy", description="metric that picks the best checkpoint, on the server's validation data (else its test, else the sites')"
    )
    specificity: float = Field(
        0.9, gt=0, lt=1, description="share of the images without a class that must be told so, where sensitivity is read"
    )
    soft_nms: float | None = Field(
        None, gt=0, description="width σ of soft-NMS (Bodla et al. 2017), of task = detection; null = what overlaps a better box is dropped"
    )
    patience: Positive | None = Field(
        None, description="evaluations without a better `best` on the server's data after which the run stops; null = all rounds"
    )
    min_gain: float = Field(0.0, ge=0, description="least change of `best` that patience takes for better")
    server: ServerData | None = Field(None, description="the coordinator's own public data; null = none")
