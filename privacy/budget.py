"""A site's budget: accounts that outlive runs, each for a body of subjects, on the site's own disk.

An account is named by the site for whom it protects ("patients-2019"), not for files: files may come, go or be encoded
again, and data sets that share subjects share the account.  It is a chain of entries that no one but the site reads:

    opened     the limits, the unit, the relation and δ: fixed for good
    joined     a run, with a nonce of its own: the hash of this entry is what the run's own record is bound to
    charge     before the steps that it pays for: the event, and its ρ at the orders that are watched
    settle     those steps were taken
    declined   a charge that was refused, and what was left then; whoever asked is told about its own run alone

How long the chain is, and its last hash, are also kept apart from it, so that an older copy in its place is noticed.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedvision.errors import AccountExhausted, BudgetExhausted, ConfigError, LedgerDamaged
from privacy.ledger.chain import Chain, Entry
from privacy.ledger.figures import Event, rho
from privacy.ledger.terms import Terms
from privacy.limits import Limit, Limits, Stated
from privacy.plan import Plan

FILE = "account.jsonl"


@dataclass
class Use:
    """What one run has had of an account."""

    purpose: str
    head: str
    rho: np.ndarray
    charges: list[tuple[int, int]] = field(default_factory=list)


class Budget:
    """The account in a folder.  LedgerDamaged from whatever reads it where it is not as it was written.

    head: file that is kept apart, in which the chain's length and last hash are remembered.
    """

    def __init__(self, folder: Path, head: Path):
        self.path, self._apart = folder / FILE, head
        self.limits: Limits | None = None
        self.name = ""
        self.runs: dict[str, Use] = {}
        self.declined: list[Mapping[str, Any]] = []
        self._rho: dict[str | None, np.ndarray] = {}  # of a purpose; of all under None
        self.chain = Chain(self.path, None, self._take, self._apart)

    def _take(self, entry: Entry) -> None:
        body = entry.body
        kind = body["kind"]
        if kind == "opened":
            self.limits, self.name = Limits.of(body), body["name"]
        elif kind == "joined":
            self.runs[body["run"]] = Use(body["purpose"], entry.hash, self._nothing())
        elif kind == "charge":
            use, more = self.runs[body["run"]], np.array([math.inf if r is None else r for r in body["rho"]])
            use.rho = use.rho + more
            for whose in (use.purpose, None):
                self._rho[whose] = self._rho.get(whose, self._nothing()) + more
            use.charges.append((body["round"], body["attempt"]))
        elif kind == "declined":
            self.declined.append(body)

    def _nothing(self) -> np.ndarray:
        assert self.limits is not None
        return np.zeros(len(self.limits.orders))

    # -------------------------------------------------------------------------------------------- opening and joining

    def open(self, name: str, limits: Limits) -> "Budget":
        """Open it for the body of subjects `name`; as it is where it is open already with these very limits, else ConfigError."""
        with self.chain.held():
            if self.limits is None:
                # nothing is spent yet: the first charge takes it along to the disk
                self.chain.append(
                    {"kind": "opened", "name": name, "nonce": os.urandom(16).hex(), "time": _now(), **limits.as_body()},
                    sync=False,
                )
            elif (self.name, self.limits) != (name, limits):
                raise ConfigError(
                    f"{self.path} was opened for {self.name} with limits of its own, which are for good; open another account"
                )
        return self

    def read(self) -> "Budget":
        """All entries taken; ConfigError where there is no account."""
        if not self.path.exists() and not self._apart.exists():
            raise ConfigError(f"there is no account in {self.path.parent}: open one with `fedvision privacy account open`")
        with self.chain.held():
            self._check_kept_apart()
        return self

    def join(self, run: str, purpose: str) -> str:
        """Note that a run begins to spend here; the hash that its own record is bound to, the same whenever it is asked for."""
        with self.chain.held():
            self._check_kept_apart()
            if run not in self.runs:
                self.chain.append(
                    {"kind": "joined", "run": run, "purpose": purpose, "nonce": os.urandom(16).hex(), "time": _now()}, sync=False
                )
            return self.runs[run].head

    def _check_kept_apart(self) -> None:
        if self.limits is None:
            raise LedgerDamaged(f"{self.path} holds no account: its first entry is gone; put the file back as it was")
        if any(use.charges for use in self.runs.values()) and not (self._apart.exists() and self._apart.stat().st_size):
            raise LedgerDamaged(
                f"{self._apart}, which remembers how long {self.path} is, is gone, so that an older copy could not be told from it: put it back"
            )

    # ----------------------------------------------------------------------------------------------------- spending

    def charge(self, run: str, event: Event, round: int, attempt: int, once: bool = False) -> int:
        """Charge one `event` for a round, on disk when this returns; the entry's number.

        once: whether the same round and attempt again has released nothing new, and is not charged twice (-1).
        AccountExhausted, and nothing charged, where a limit does not hold it.
        """
        with self.chain.held():
            self._check_kept_apart()
            assert self.limits is not None
            use = self.runs[run]
            if once and (round, attempt) in use.charges:
                return -1
            counted = self.limits.counted(event)
            more = rho(counted, self.limits.orders)
            over = self._over(run, more)
            if over is not None:
                self._decline(run, round, attempt, over)
            found = [float(r) if math.isfinite(r) else None for r in more]
            body = {"kind": "charge", "run": run, "round": round, "attempt": attempt, "event": counted.as_body(), "rho": found}
            return self.chain.append({**body, "time": _now()}).number

    def settle(self, charge: int) -> None:
        """The steps of a charge were taken.  Not synced: one that a power cut leaves unsettled is spent all the same."""
        if charge >= 0:
            self.chain.append({"kind": "settle", "charge": charge}, sync=False)

    def _over(self, run: str, more: np.ndarray) -> str | None:
        """What is in the way of `more` ρ for a run; None where nothing is."""
        assert self.limits is not None
        purpose = self.runs[run].purpose
        if self.limits.purposes and purpose not in self.limits.purposes:
            return f"it is not for {purpose}; it"
        held = ((name, limit.holds(spent + self.at(more, limit), self._delta)) for name, limit, spent in self.standing(run))
        return next((name for name, holds in held if not holds), None)

    def _decline(self, run: str, round: int, attempt: int, what: str) -> None:
        left = {name: max(0.0, 1 - limit.used(spent, self._delta)) for name, limit, spent in self.standing(run)}
        self.chain.append({"kind": "declined", "run": run, "round": round, "attempt": attempt, "over": what, "left": left, "time": _now()})
        raise AccountExhausted(f"account {self.name}: {what} does not hold one more round of run {run}")

    # ------------------------------------------------------------------------------------------------ for the site's eyes

    def standing(self, run: str) -> Iterator[tuple[str, Limit, np.ndarray]]:
        """(name, limit, Σρ at its orders) of every limit that a run's charges count against."""
        assert self.limits is not None
        use = self.runs[run]
        if self.limits.per_run is not None:
            yield "the limit per run", self.limits.per_run, self.at(use.rho, self.limits.per_run)
        if use.purpose in self.limits.purposes:
            limit = self.limits.purposes[use.purpose]
            yield f"the limit for {use.purpose}", limit, self.spent_for(use.purpose, limit)
        yield "the limit of its lifetime", self.limits.lifetime, self.lifetime()

    def lifetime(self) -> np.ndarray:
        """Σρ of all runs, at the lifetime limit's orders."""
        assert self.limits is not None
        return self.at(self._rho.get(None, self._nothing()), self.limits.lifetime)

    def spent_for(self, purpose: str, limit: Limit) -> np.ndarray:
        """Σρ of all runs for a purpose, at the orders of its limit."""
        return self.at(self._rho.get(purpose, self._nothing()), limit)

    @property
    def _delta(self) -> float:
        assert self.limits is not None
        return self.limits.delta

    def at(self, summed: np.ndarray, limit: Limit) -> np.ndarray:
        """`summed` at the orders of one limit."""
        assert self.limits is not None
        return summed[[self.limits.orders.index(order) for order in limit.orders]]


@dataclass
class RunAccount:
    """The `privacy.account.Account` of one run at one site: its plan, and the budget of the body of subjects that pays for it.

    own: whether the account is for this run alone, as a simulation's is, so that all its limits are the run's.
    """

    budget: Budget
    run: str
    plan: Plan
    terms: Terms
    own: bool = False
    _open: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """What the run's own record is bound to: the hash of the account's entry about this run."""
        return self.budget.runs[self.run].head

    @property
    def paid(self) -> int:
        """How many charges of this run the account holds."""
        with self.budget.chain.held():
            return len(self.budget.runs[self.run].charges)

    def stated(self) -> Stated | None:
        """The limit that the run's own record states: of one run, and none of what other runs may have."""
        limits = self.budget.limits
        assert limits is not None
        limit = limits.per_run or (limits.lifetime if self.own else None)
        try:
            counted = limits.counted(self.terms.event)
        except BudgetExhausted:  # nothing will be charged
            return None
        if limit is None:
            return None
        return Stated(limit.epsilon, limits.delta, counted.noise_multiplier, counted.relation, limit.orders, limit.shares)

    def reserve(self, round: int, attempt: int) -> None:
        """Charge one round.  BudgetExhausted, with this run's own remainder and nothing of the account's, where it is not paid for."""
        terms, key = self.terms, self._key(round, attempt)
        event = replace(terms.event, steps=terms.event.steps * terms.rounds) if terms.whole_plan else terms.event
        once = terms.repeatable or terms.once_a_round or terms.whole_plan
        with self.budget.chain.held():
            charges = self.budget.runs[self.run].charges
            if len(charges) >= self.plan.rounds and not (once and key in charges):
                raise BudgetExhausted(
                    f"{self.plan.a_round.steps} more steps are not in the plan: all its {self.plan.rounds} rounds are spent, {self.plan.guarantee}; "
                    "stop here, or plan more rounds"
                )
            try:
                self._open[key] = self.budget.charge(self.run, event, *key, once)
                return
            except AccountExhausted:  # what is left there is the site's business
                paid = len(charges)
        raise BudgetExhausted(
            f"the site pays for no more of this run: {paid} of its {self.plan.rounds} rounds were paid, {self.plan.spent(paid)}; go on without it"
        )

    def settle(self, round: int, attempt: int) -> None:
        """The steps that were reserved have been taken."""
        self.budget.settle(self._open.pop(self._key(round, attempt), -1))

    def _key(self, round: int, attempt: int) -> tuple[int, int]:
        """What a charge is for: where the noise is drawn once a round, the round however often it is tried; or the whole plan."""
        if self.terms.whole_plan:
            return 0, 0
        return round, 1 if self.terms.once_a_round else attempt


def _now() -> int:
    return int(time.time())
