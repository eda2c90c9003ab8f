"""Site-level privacy: the promise is for a whole site.  McMahan, Ramage, Talwar, Zhang 2018, with noise at the coordinator
(central) or at each site (local); the clip norm fixed, or following a quantile of the norms as in Andrew, Thakkar, McMahan,
Ramaswamy: Differentially Private Learning with Adaptive Clipping, NeurIPS 2021, algorithm 1:

    b_i = 1[‖Δ_i‖ ≤ C]          b̄ = (Σ (b_i − ½) + N(0, σ_b²)) / n + ½          C ← C · exp(−η (b̄ − γ))
    noise on Σ Δ_i: σ_Δ C with σ_Δ = (σ⁻² − (2 σ_b)⁻²)^(−½), so that both releases together cost one Gaussian of σ

Both halves of the protection are here.  n is public: the number of sites that a round asks, whoever answers.  Every asked
site pays the full price of the round; nobody's absence is a secret, so no amplification by sampling is claimed, unless the
sum is over a secret draw (`privacy.amplification`): then every site pays for every round, and n is the expected number drawn.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedvision.errors import ConfigError
from fedvision.protections import Adaptive, Central
from fedvision.sums import Layout
from fedvision.types import State
from privacy.attacks.one_run import Traces
from privacy.noise import Source, for_simulation_only, secret

UNCLIPPED = "unclipped"  # the field of the bits b_i
CANARIES = "canaries"  # the part of a state that holds them
EXTRA = "privacy"  # the part of a request that carries C


# ------------------------------------------------------------------------------------------------- the site's half


def clipped(update: Mapping[str, np.ndarray], clip: float, rounding: float) -> tuple[dict[str, np.ndarray], bool]:
    """The update (float32 arrays by name) brought to an L2 norm of at most `clip`, and whether it was within it already.

    rounding: what the run's fixed point may add to the norm; it is left free.  An update that is not finite becomes 0.
    """
    norm = math.sqrt(sum(float(np.square(x, dtype=np.float64).sum()) for x in update.values()))
    if not math.isfinite(norm):
        return {name: np.zeros_like(x) for name, x in update.items()}, False
    most = max(clip * (1 - 1e-6) - rounding, 0.0)
    factor = 1.0 if norm <= most else most / norm
    return {name: (x * factor).astype(np.float32) for name, x in update.items()}, norm <= clip


def rounding_of(layout: Layout) -> float:
    """The largest L2 norm that rounding to the run's fixed point can add to an update."""
    return math.sqrt(layout.by_name["weights"].size) / layout.scale("weights")


def noisy(update: Mapping[str, np.ndarray], deviation: float, source: Source) -> dict[str, np.ndarray]:
    """The update with independent Gaussian noise on every number (local privacy)."""
    flat = torch.from_numpy(np.concatenate([x.ravel() for x in update.values()]).astype(np.float32))
    source.add_gaussian(flat, deviation)
    parts = np.split(flat.numpy(), np.cumsum([x.size for x in update.values()])[:-1])
    return {name: part.reshape(x.shape) for (name, x), part in zip(update.items(), parts, strict=True)}


# ------------------------------------------------------------------------------------------ the coordinator's half


def noise_of_updates(sigma: float, adaptive: Adaptive | None) -> float:
    """σ_Δ: what the updates' noise must be so that, together with the bits', the release costs as much as one of σ."""
    if adaptive is None:
        return sigma
    left = sigma**-2 - (2 * adaptive.noise) ** -2
    if left <= 0:
        raise ConfigError(
            f"privacy.adaptive.noise = {adaptive.noise:g} alone costs more than the whole of noise multiplier {sigma:.4g}: raise it above "
            f"{sigma / 2:.4g}, lower epsilon's demand, or set adaptive to null"
        )
    return left**-0.5


def next_clip(clip: float, adaptive: Adaptive, share: float) -> float:
    """C after a round in which a (noisy) `share` of the sites was within it: smaller where more than the quantile was."""
    return clip * math.exp(-adaptive.rate * (share - adaptive.quantile))


@dataclass(frozen=True)
class NoisySum:
    """What a strategy is shown: the noisy sum over a public number of sites.  It has an aggregate's means, and no more."""

    total: Any
    count: int
    values: Mapping[str, Tensor]

    def mean(self, field: str, name: str) -> Tensor:
        """The noisy mean update, float64."""
        if field != "weights":
            raise ConfigError(f"{field}: site-level privacy releases the updates of trained weights alone")
        return self.values[name]

    def shifted(self, field: str, name: str, rate: float, tensor: Tensor) -> Tensor:
        """tensor + rate · `mean`, in the tensor's own type."""
        return (tensor + rate * self.mean(field, name)).to(tensor.dtype)


class CentralNoise:
    """A strategy of sums that is shown noisy sums.  Its state holds the clip norm beside the strategy's own.

    sites: public number that sums are divided by.  rate: of the draw of sites that the plan is priced by; 1 = none.
    """

    kind: Literal["sum"] = "sum"

    def __init__(self, strategy: Any, spec: Central, sigma: float, sites: float, rate: float = 1.0):
        self.strategy, self.spec, self.sites, self.rate = strategy, spec, sites, rate
        self.deviation = noise_of_updates(sigma, spec.adaptive)

    def init(self, model: State) -> Any:
        """The strategy's, C, and the canaries where the run has some: sites that are not there, each with a number of its own
        beside the sum."""
        more = {"clip": {"C": torch.tensor(self.spec.clip, dtype=torch.float64), "round": torch.tensor(0)}}
        if self.spec.audit is not None:
            seed = self.spec.simulation_only_seed
            source = secret() if seed is None else for_simulation_only(seed, "central", "canaries")
            took_part = torch.from_numpy(source.uniform(self.spec.audit.canaries) < 0.5)
            more[CANARIES] = {"took_part": took_part, "scores": torch.zeros(len(took_part), dtype=torch.float64)}
        return joined(self.strategy.init(model), **more)

    def weights(self, state: Any) -> State:
        """What the sites load."""
        return self.strategy.weights(inner(state, self.strategy))

    def extras(self, state: Any) -> Mapping[str, State]:
        """The strategy's, and C for the sites' half."""
        return {**self.strategy.extras(inner(state, self.strategy)), EXTRA: {"clip": state.clip["C"]}}

    def apply(self, state: Any, sent: Any, sites: int) -> Any:
        """One release: the noise is drawn here, once, on the exact sum of all sites' clipped updates."""
        number = int(state.clip["round"])
        seed = self.spec.simulation_only_seed
        source = secret() if seed is None else for_simulation_only(seed, "central", "round", number)
        clip = float(state.clip["C"])
        after = self.strategy.apply(inner(state, self.strategy), self._release(sent, clip, source), sites)
        if self.spec.adaptive is not None:
            limit = sent.total.layout.by_name["weights"].limit  # beyond it a site would decline, and so tell of its update
            clip = min(next_clip(clip, self.spec.adaptive, self._share(sent, source)), limit)
        more = {"clip": {"C": torch.tensor(clip, dtype=torch.float64), "round": torch.tensor(number + 1)}}
        if self.spec.audit is not None:
            more[CANARIES] = self._scored(getattr(state, CANARIES), float(state.clip["C"]), source)
        return joined(after, **more)

    def _scored(self, kept: State, clip: float, source: Source) -> dict[str, Tensor]:
        """The canaries' scores with this round's release, under the round's own noise."""
        replaced = self.spec.relation == "replace_one"
        places = torch.where(kept["took_part"], clip, -clip if replaced else 0.0).float()
        if self.rate < 1:  # a canary is drawn as a site is
            places[torch.from_numpy(source.uniform(len(places)) >= self.rate)] = 0.0
        source.add_gaussian(places, self.deviation * clip)
        seen = Traces(self.deviation, self.rate, replaced).ratios(places.double().numpy() / clip)
        return {"took_part": kept["took_part"], "scores": kept["scores"] + torch.from_numpy(seen)}

    def _release(self, sent: Any, clip: float, source: Source) -> NoisySum:
        slots = sent.total.layout.slots["weights"]
        values = {}
        for name in slots:
            total = torch.from_numpy(sent.total.tensor("weights", name))
            noise = torch.zeros(total.numel())
            source.add_gaussian(noise, self.deviation * clip)
            values[name] = (total + noise.view(total.shape).double()) / self.sites
        return NoisySum(sent.total, round(self.sites), values)

    def _share(self, sent: Any, source: Source) -> float:
        """b̄.  Each b_i − ½ moves the sum by a half, also that of a site that is not there."""
        assert self.spec.adaptive is not None
        noise = torch.zeros(1)
        source.add_gaussian(noise, self.spec.adaptive.noise)
        return (sent.total.whole(UNCLIPPED) - sent.total.count / 2 + float(noise)) / self.sites + 0.5


# ------------------------------------------------------------------------------------------- states of two owners


@cache
def _kind(names: tuple[str, ...]) -> type:
    return make_dataclass("Protected", [(name, Any) for name in names], frozen=True)


def joined(state: Any, **more: Mapping[str, Tensor]) -> Any:
    """A state with further parts beside its own: flat, as checkpoints want it."""
    own = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return _kind((*own, *more))(**own, **more)


def inner(state: Any, strategy: Any) -> Any:
    """The strategy's own part of a joined state."""
    kind = type(strategy.init({}))
    return kind(**{name: getattr(state, name) for name in _names(kind)})


def _names(kind: type) -> Sequence[str]:
    return [f.name for f in dataclasses.fields(kind)]
