"""What the federated algorithms are called, what each may be told, and what each needs.

The two halves of an algorithm live where they run (`clients/algorithms/`, `server/strategies/`); this table is the one
place that both, the config and `fedvision list strategies` read.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from fedvision.schema import Positive, Section

ServerLearningRate = Annotated[float, Field(gt=0, description="η_g, factor on the averaged update; 1 = plain averaging")]


class FedAvg(Section):
    """Weighted average of the sites' updates.  McMahan et al. 2017, algorithm 1."""

    name: Literal["fedavg"] = Field("fedavg", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0


class FedAvgM(Section):
    """FedAvg with momentum at the server.  Hsu, Qi, Brown 2019, section 4.3."""

    name: Literal["fedavgm"] = Field("fedavgm", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    momentum: float = Field(0.9, ge=0, lt=1, description="β, share of the last step kept; 0 = FedAvg")


class FedAdam(Section):
    """Adam at the server, on the averaged update as pseudo-gradient.  Reddi et al. 2021, algorithm 2."""

    name: Literal["fedadam"] = Field("fedadam", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 0.01
    beta1: float = Field(0.9, ge=0, lt=1, description="β₁, decay of the first moment")
    beta2: float = Field(0.99, ge=0, lt=1, description="β₂, decay of the second moment")
    tau: float = Field(1e-3, gt=0, description="τ, degree of adaptivity, added to √v")


class FedProx(Section):
    """FedAvg with a proximal term at the sites.  Li et al. 2020, algorithm 2."""

    name: Literal["fedprox"] = Field("fedprox", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    mu: float = Field(0.01, ge=0, description="μ, weight of ½‖w − w_t‖² in each site's loss; 0 = FedAvg")


class Scaffold(Section):
    """Control variates against client drift.  Karimireddy et al. 2020, algorithm 1, option II."""

    name: Literal["scaffold"] = Field("scaffold", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0


class FedBN(Section):
    """FedAvg in which the BatchNorm layers stay at their site.  Li et al. 2021."""

    name: Literal["fedbn"] = Field("fedbn", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0


class FedYogi(Section):
    """FedAdam with a second moment that forgets slowly.  Reddi et al. 2021, algorithm 2."""

    name: Literal["fedyogi"] = Field("fedyogi", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 0.01
    beta1: float = Field(0.9, ge=0, lt=1, description="β₁, decay of the first moment")
    beta2: float = Field(0.99, ge=0, lt=1, description="β₂, decay of the second moment")
    tau: float = Field(1e-3, gt=0, description="τ, degree of adaptivity, added to √v")


class FedAdagrad(Section):
    """Adagrad at the server, on the averaged update as pseudo-gradient.  Reddi et al. 2021, algorithm 2."""

    name: Literal["fedadagrad"] = Field("fedadagrad", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 0.01
    beta1: float = Field(0.0, ge=0, lt=1, description="β₁, decay of the first moment; 0 in the paper's experiments")
    tau: float = Field(1e-3, gt=0, description="τ, degree of adaptivity, added to √v")


class FedNova(Section):
    """FedAvg of updates normalised by how many steps made them.  Wang et al. 2020, section 4."""

    name: Literal["fednova"] = Field("fednova", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0


class FedDyn(Section):
    """A regulariser at the sites that follows what each has learned.  Acar et al. 2021, algorithm 1."""

    name: Literal["feddyn"] = Field("feddyn", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    alpha: float = Field(0.01, gt=0, description="α, weight of the dynamic regulariser")


class FedRep(Section):
    """The model's head stays at its site, the rest is averaged.  Collins et al. 2021, algorithm 1."""

    name: Literal["fedrep"] = Field("fedrep", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    head_epochs: Positive = Field(1, description="τ_h, passes that train the head alone, before the round's training of the rest")
    head_layers: Positive = Field(1, description="how many of the model's last layers are the head")


class Ditto(Section):
    """FedAvg, and beside it a model of each site's own, drawn to the shared one.  Li et al. 2021, algorithm 1."""

    name: Literal["ditto"] = Field("ditto", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    mu: float = Field(0.1, ge=0, description="λ of the paper, weight of ½‖v − w_t‖² in the personal model's loss; 0 = each alone")


class QFedAvg(Section):
    """Sites with a high loss weigh more, so that sites fare alike.  Li et al. 2020 (q-FFL), algorithm 2."""

    name: Literal["qfedavg"] = Field("qfedavg", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    q: float = Field(1.0, ge=0, le=10, description="q, how much fairness counts; 0 = FedAvg")
    lipschitz: float | None = Field(None, gt=0, description="L, of the gradient; null = 1 over the round's learning rate, as in the paper")
    largest_loss: float = Field(
        10.0, gt=0, le=1e4, description="largest F_k, mean loss of a site's training data; beyond it a site declines"
    )


class Afl(Section):
    """The model that does best on the worst mixture of the sites.  Mohri et al. 2019, over the sites as domains."""

    name: Literal["afl"] = Field("afl", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    mixture_learning_rate: float = Field(0.1, gt=0, description="γ_λ, step of the sites' weights λ up their losses")
    largest_loss: float = Field(10.0, gt=0, le=1e4, description="largest mean loss of a site's training data; beyond it a site declines")
    losses_known: bool = Field(
        False, description="true = agreed that the coordinator learns each site's training loss, masked or not; it must be, for masked runs"
    )


class Median(Section):
    """Coordinate-wise median of the sites' updates.  Yin et al. 2018, definition 1."""

    name: Literal["median"] = Field("median", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0


class TrimmedMean(Section):
    """Coordinate-wise mean without the extremes.  Yin et al. 2018, definition 2."""

    name: Literal["trimmed_mean"] = Field("trimmed_mean", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    trim: float = Field(0.1, ge=0, lt=0.5, description="β, share of the sites left out at each end; at least that of the sites feared")


class Krum(Section):
    """The one update that lies nearest to the others.  Blanchard et al. 2017."""

    name: Literal["krum"] = Field("krum", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    byzantine: int = Field(1, ge=0, description="f, sites that may send anything; 2f + 3 replies are needed")


class MultiKrum(Section):
    """The mean of the updates that lie nearest to the others.  Blanchard et al. 2017."""

    name: Literal["multi_krum"] = Field("multi_krum", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    byzantine: int = Field(1, ge=0, description="f, sites that may send anything; 2f + 3 replies are needed")
    selected: Positive | None = Field(None, description="m, updates that are averaged; null = all but f")


class FedBuff(Section):
    """Asynchronous rounds: a step for every few updates, whenever they come.  Nguyen et al. 2022, algorithm 1."""

    name: Literal["fedbuff"] = Field("fedbuff", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0
    buffer: Positive = Field(10, description="K, updates that make a step of the model, which is a round here")
    concurrency: Positive = Field(20, description="sites that train at the same time, on the simulated clock")


class Brought(Section):
    """An algorithm of your own code, from a Python file or package."""

    name: Literal["brought"] = Field("brought", description="`fedvision list strategies`")
    source: str = Field(description="its server's half: FILE.py:NAME (from the config's folder), PACKAGE.MODULE:NAME or an entry point")
    client: str | None = Field(None, description="its sites' half, named in the same way; null = plain local training")
    site_state: bool = Field(False, description="whether the sites' half keeps tensors from round to round")
    sees: Literal["sum", "single"] = Field("sum", description="what its server is shown: the sum over the sites, or each update by itself")
    options: dict[str, Any] = Field(default_factory=dict, description="what both halves are called with, by name")


ALGORITHMS: dict[str, type[Section]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fednova": FedNova,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "fedbn": FedBN,
    "fedrep": FedRep,
    "ditto": Ditto,
    "qfedavg": QFedAvg,
    "afl": Afl,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "fedbuff": FedBuff,
    "brought": Brought,
}

Strategy = Annotated[
    FedAvg
    | FedAvgM
    | FedAdam
    | FedYogi
    | FedAdagrad
    | FedNova
    | FedProx
    | Scaffold
    | FedDyn
    | FedBN
    | FedRep
    | Ditto
    | QFedAvg
    | Afl
    | Median
    | TrimmedMean
    | Krum
    | MultiKrum
    | FedBuff
    | Brought,
    Field(discriminator="name", description="the federated algorithm and its options"),
]

SEES_SINGLE_UPDATES = {
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
}  # must see each site's update by itself: refused with secure aggregation
SITE_STATE = {"scaffold", "feddyn", "fedbn", "fedrep", "ditto"}  # keep something at the sites from round to round
AT_HOME = {"fedbn", "fedrep"}  # keep parts of the model at the sites, so that the coordinator has no whole one
SHARED_TOO = {"ditto"}  # whose sites have a model of their own beside the shared one: both are measured there
UNIFORM = {"median", "trimmed_mean", "krum", "multi_krum", "feddyn", "afl", "fedbuff"}  # count each site once, whatever it holds


def sees_single(strategy: Section) -> bool:
    """Whether the coordinator must see each site's update by itself."""
    return getattr(strategy, "name", "") in SEES_SINGLE_UPDATES or getattr(strategy, "sees", "sum") == "single"
