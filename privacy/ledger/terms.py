"""The terms of a run, as its chains register them before anything is spent: what is promised, by which events and figures."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from fedvision.experiment import Experiment, keeps_replies
from fedvision.protections import Central, DpSgd
from fedvision.tracking.environment import source_sha256
from privacy.accountants import epsilon
from privacy.ledger.entries import canonical
from privacy.ledger.figures import Event, orders_for, rdp_epsilon, rho
from privacy.plan import Plan
from privacy.planning import asked

VERSION = 1
WHERE = ("engine", "tracking", "name")  # where a run is run and kept: not a part of what it is


@dataclass(frozen=True)
class Terms:
    """What every chain of a run agrees on.

    event: what one charge pays for; rounds: how many the plan holds.
    once_a_round: the coordinator draws the noise, once a round however often it asks; otherwise every release has its own.
    repeatable: the same request asked again releases nothing new, stored reply or not.
    whole_plan: sites are drawn in secret, so that a site pays for the plan when it joins and no later entry tells of the draw.
    pld_every: charges between two checkpoints of the PLD figure.
    """

    event: Event
    rounds: int
    sites_per_unit: int
    once_a_round: bool
    repeatable: bool
    whole_plan: bool
    pld_every: int
    config: str

    @classmethod
    def of(cls, experiment: Experiment, plan: Plan) -> "Terms":
        """The terms of an experiment with a promise."""
        p = experiment.privacy
        assert p is not None
        g, phase = plan.guarantee, plan.a_round
        divisor = p.divisor if isinstance(p, DpSgd) else float(asked(experiment)) if plan.mechanism == "central" else None
        sampler = "poisson" if phase.sampling_rate < 1 else "all"
        event = Event(
            plan.mechanism, float(phase.noise_multiplier), float(p.clip), float(phase.sampling_rate), phase.steps, divisor, sampler,
            g.unit, g.relation, g.delta,
        )  # fmt: skip
        return cls(
            event, plan.rounds, plan.sites_per_unit, plan.mechanism == "central", not keeps_replies(experiment),
            isinstance(p, Central) and p.amplified,
            experiment.ledger.pld_every, config_hash(experiment),
        )  # fmt: skip

    @cached_property
    def orders(self) -> tuple[float, ...]:
        """α of the figures in every entry."""
        return orders_for(self.event)

    @cached_property
    def rho(self) -> np.ndarray:
        """ρ of one charge at the orders."""
        return rho(self.event, self.orders)

    def rdp(self, summed: np.ndarray) -> float:
        """ε of what was summed so far."""
        return rdp_epsilon(self.orders, summed, self.event.delta)

    def pld(self, rounds: int) -> float:
        """ε of `rounds` charges by PLD."""
        return 0.0 if rounds == 0 else epsilon([self.event.phase(rounds)], self.event.delta, "pld", self.event.relation)

    def registered(self) -> dict[str, Any]:
        """What every first entry holds.  Seconds, for the PLD figures of the checkpoints to come."""
        marks = [*range(self.pld_every, self.rounds, self.pld_every), self.rounds]
        return {
            **self.event.as_body(), "rounds": self.rounds, "sites_per_unit": self.sites_per_unit, "once_a_round": self.once_a_round,
            "repeatable": self.repeatable, "whole_plan": self.whole_plan, "orders": list(self.orders), "config": self.config,
            "epsilon": self.rdp(self.rho * self.rounds), "pld": [[mark, self.pld(mark)] for mark in marks], "version": VERSION,
        }  # fmt: skip


@lru_cache(maxsize=1)
def made_with() -> Mapping[str, Any]:
    """The code and the accountants of this process."""
    return {"code": source_sha256(), "accountants": {name: version(name) for name in ("dp-accounting", "opacus")}}


def config_hash(experiment: Experiment) -> str:
    """SHA-256 of the config in canonical form, without where it runs and what is kept of it."""
    return hash_of(experiment.model_dump(mode="json"))


def hash_of(config: Mapping[str, Any]) -> str:
    """The same of a config's plain values, as a run folder's config.yaml has them; ValueError where they are none."""
    return hashlib.sha256(canonical({key: value for key, value in config.items() if key not in WHERE})).hexdigest()
