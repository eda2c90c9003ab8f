"""What the federated algorithms are called, what each may be told, and what each needs.

The two halves of an algorithm live where they run (`clients/algorithms/`, `server/strategies/`); this table is the one
place that both, the config and `fedvision list strategies` read.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from fedvision.schema import Section

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


class Median(Section):
    """Coordinate-wise median of the sites' updates.  Yin et al. 2018, definition 1."""

    name: Literal["median"] = Field("median", description="`fedvision list strategies`")
    server_learning_rate: ServerLearningRate = 1.0


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
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "fedbn": FedBN,
    "median": Median,
    "brought": Brought,
}

Strategy = Annotated[
    FedAvg | FedAvgM | FedAdam | FedProx | Scaffold | FedBN | Median | Brought,
    Field(discriminator="name", description="the federated algorithm and its options"),
]

SEES_SINGLE_UPDATES = {"median"}  # must see every site's update by itself: refused with secure aggregation
SITE_STATE = {"scaffold", "fedbn"}  # keep something at the sites from round to round
