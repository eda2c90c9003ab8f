"""What a run can promise, and the public numbers that it promises with: the `privacy` block of a config.

The mechanisms themselves live in the package `privacy`; this table is what the config, the sites and the coordinator read.
"""

from typing import Literal

from pydantic import Field, model_validator

from fedvision.schema import Section


class _Promise(Section):
    epsilon: float | None = Field(
        None, gt=0, le=1000, description="ε to stay within; the noise is calibrated to it; null = noise_multiplier is given"
    )
    delta: float = Field(gt=0, lt=1, description="δ, chance that the promise fails; well below 1 over the number of units")
    noise_multiplier: float | None = Field(
        None, ge=0.01, description="σ, standard deviation of the noise over the clip norm; null = from epsilon"
    )
    relation: Literal["add_remove", "replace_one", "zero_out"] = Field(
        "add_remove", description="what neighbours differ in: one unit added or removed, replaced, or blanked"
    )
    accountant: Literal["pld", "rdp", "prv"] = Field("pld", description="how ε is computed; rdp is looser, prv knows add_remove only")
    clip: float = Field(1.0, gt=0, description="C, largest L2 norm of one unit's contribution")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay a round of the average of released models that is measured and delivered; null = the last"
    )
    simulation_only_seed: int | None = Field(
        None, ge=0, description="repeatable, hence NOT PRIVATE noise and sampling, for simulations; null = the operating system's"
    )

    @model_validator(mode="after")
    def _one_of_noise_and_target(self) -> "_Promise":
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError(
                f"privacy.epsilon = {self.epsilon} and privacy.noise_multiplier = {self.noise_multiplier}: give one, and null for the other"
            )
        return self


class Audit(Section):
    """An attack on the run itself, whose lower bound stands beside ε.  Steinke, Nasr, Jagielski 2023."""

    kind: Literal["gradients", "images"] = Field(
        "gradients",
        description="canaries beside the noisy sums, none of them in the model; or images with labels at random, which are in it",
    )
    canaries: int = Field(
        1000, ge=20, le=1_000_000, description="m, at each site; each takes part in the run by a fair coin; more show larger faults"
    )


class Ledger(Section):
    """The record of what a private run spends; `fedvision privacy verify` checks it."""

    pld_every: int = Field(
        100, ge=1, description="charges of a site between two PLD figures in its ledger; each takes about a second once a run"
    )


class DpSgd(_Promise):
    """Noise in every step at the sites: the promise holds for an example or a subject, against everyone outside the site."""

    mechanism: Literal["dp_sgd"] = Field("dp_sgd", description="dp_sgd, central or local")
    unit: Literal["example", "subject"] = Field("example", description="whom the promise is for")
    sampling_rate: float = Field(
        gt=0, le=1, description="q, chance of each unit to be in a step; public, not computed from the private count"
    )
    divisor: float = Field(gt=0, description="public constant that the noisy sum is divided by, units, e.g. the expected number in a step")
    max_images: int | None = Field(
        None, ge=1, description="most images of one subject in a step, where unit = subject; null = unit is example"
    )
    sites_per_unit: int = Field(
        1, ge=1, description="sites at which the same unit may be held; the guarantee over all of them is shown too"
    )
    clipping: Literal["flat", "per_layer", "automatic"] = Field(
        "flat", description="of the whole gradient, of each layer to C/√layers, or every gradient scaled to almost C (Bu et al. 2023)"
    )
    stability: float = Field(0.01, gt=0, description="γ, added to the norm where clipping = automatic")
    views: int = Field(1, ge=1, le=64, description="random views of each image whose gradients are averaged before clipping")
    shift: int = Field(0, ge=0, le=16, description="largest shift of a view in each direction, pixels")
    flip: bool = Field(False, description="whether views are mirrored left to right by chance")
    physical_batch: int = Field(128, ge=1, description="most images in memory at a time; changes nothing but memory and speed")
    gradients: Literal["bookkeeping", "opacus"] = Field(
        "bookkeeping", description="how per-unit gradients are made: our kernels in one backward pass, or Opacus' functorch mode"
    )

    audit: Audit | None = Field(None, description="an attack on the run by canaries of its own; null = none")

    @model_validator(mode="after")
    def _fits(self) -> "DpSgd":
        if (self.unit == "subject") != (self.max_images is not None):
            raise ValueError(
                f"privacy.unit = {self.unit} and privacy.max_images = {self.max_images}: a subject needs the public cap, an example has none"
            )
        if self.unit == "subject" and self.gradients == "opacus":
            raise ValueError(
                "privacy.unit = subject and privacy.gradients = opacus exclude each other: its gradients are per image, and the norm of a "
                "subject's sum cannot be formed from them; set gradients to bookkeeping"
            )
        if self.gradients == "opacus" and self.views > 1:
            raise ValueError(
                f"privacy.gradients = opacus and privacy.views = {self.views} exclude each other; set gradients to bookkeeping"
            )
        if self.views > 1 and not (self.shift or self.flip):
            raise ValueError(f"privacy.views = {self.views} needs privacy.shift or privacy.flip: the views would all be the same")
        rows = self.views * (self.max_images or 1)
        if self.physical_batch < rows:
            raise ValueError(
                f"privacy.physical_batch = {self.physical_batch} is less than one unit's {rows} images and views; raise it to {rows}"
            )
        return self


class Adaptive(Section):
    """A clip norm that follows a quantile of the updates' norms.  Andrew, Thakkar, McMahan, Ramaswamy 2021."""

    quantile: float = Field(0.5, gt=0, lt=1, description="γ, share of the sites whose update is not clipped")
    rate: float = Field(0.2, gt=0, le=1, description="η, of the geometric update of the clip norm")
    noise: float = Field(gt=0, description="σ_b, standard deviation of the noise on the number of sites that were not clipped, sites")


class Central(_Promise):
    """Noise on the sum of the sites' clipped updates: the promise holds for a whole site, against all but the coordinator."""

    mechanism: Literal["central"] = Field("central", description="dp_sgd, central or local")
    adaptive: Adaptive | None = Field(None, description="follow a quantile of the norms, starting at clip; null = the clip norm is fixed")
    amplified: bool = Field(
        False,
        description="each site is in a round's sum with chance federation.rate, drawn in secret: all train and pay for the whole plan; min_replies = 0",
    )
    audit: Audit | None = Field(None, description="an attack on the run by canaries of its own, at the coordinator; null = none")


class Local(_Promise):
    """Noise on each site's clipped update, at the site: the promise holds for a whole site, against everyone outside it."""

    mechanism: Literal["local"] = Field("local", description="dp_sgd, central or local")


_SAME = "its server works on what was released alone"
_PROXIMAL = "its proximal term depends on released models alone"
_LOSSES = "the sites' losses leave beside the updates, and are not clipped and noised with them"
_ONE_BY_ONE = "it is computed from noisy updates"
_NOISY = {"dp_sgd": (True, _SAME), "central": (True, _SAME), "local": (True, _SAME)}
_SINGLE = {
    "dp_sgd": (True, _ONE_BY_ONE),
    "central": (False, "it must see single updates, and central noise is for sums only"),
    "local": (True, _ONE_BY_ONE),
}
_VARIATES = (False, "its control variates leave the site beside the update, and are not clipped and noised with it")
_STEPS = (False, "its number of steps leaves the site beside the update, and is not clipped and noised with it")
_DISAGREE = (False, "its h would follow clipped and noised updates, and its g_k at the sites what they were before: the two must agree")
_MECHANISMS = ("dp_sgd", "central", "local")
UNDER_PRIVACY: dict[str, dict[str, tuple[bool, str]]] = {
    "fedavg": _NOISY,
    "fedavgm": _NOISY,
    "fedadam": _NOISY,
    "fedyogi": _NOISY,
    "fedadagrad": _NOISY,
    "fedprox": dict.fromkeys(_MECHANISMS, (True, _PROXIMAL)),
    "fednova": {"dp_sgd": (True, "its number of steps is a public number here"), "central": _STEPS, "local": _STEPS},
    "scaffold": {"dp_sgd": (True, "its control variates are computed from the noisy steps"), "central": _VARIATES, "local": _VARIATES},
    "feddyn": {"dp_sgd": (True, "its g_k is computed from the noisy steps"), "central": _DISAGREE, "local": _DISAGREE},
    "fedbn": dict.fromkeys(_MECHANISMS, (False, "its BatchNorm statistics read the private images without clip or noise")),
    "fedrep": dict.fromkeys(_MECHANISMS, (False, "its heads are trained without noise, and shape what the rest of the model sends")),
    "ditto": dict.fromkeys(
        _MECHANISMS, (False, "its personal models are trained on the private images without clip or noise, and are kept")
    ),
    "qfedavg": dict.fromkeys(_MECHANISMS, (False, _LOSSES)),
    "afl": dict.fromkeys(_MECHANISMS, (False, _LOSSES)),
    "median": _SINGLE,
    "trimmed_mean": _SINGLE,
    "krum": _SINGLE,
    "multi_krum": _SINGLE,
    "brought": dict.fromkeys(_MECHANISMS, (False, "what your own code reveals is not known here, so nothing can be promised of it")),
    "fedbuff": dict.fromkeys(
        _MECHANISMS, (False, "an update may enter rounds after the one that paid for it, which the plan does not count")
    ),
}  # why each algorithm's messages are covered by the guarantee (True) or not (False), by mechanism
