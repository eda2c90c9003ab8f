"""The ledgers of a simulated federation: founded before the run, as if each site had joined; closed when it is over."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedvision.errors import BudgetExhausted
from fedvision.experiment import Experiment
from fedvision.tracking.folder import RunFolder
from fedvision.types import SiteId
from privacy.budget import RunAccount
from privacy.ledger.coordinator import CoordinatorLedger
from privacy.ledger.keys import Keyring
from privacy.ledger.site import SiteLedger
from privacy.ledger.terms import Terms
from privacy.plan import Plan, plan_of
from privacy.site_account import site_account
from simulations.each_site import Say, for_each_site, quietly


@dataclass(frozen=True)
class Ledgers:
    """All chains of a simulation: the coordinator's, and what opens each site's."""

    coordinator: CoordinatorLedger
    keyring: Keyring
    states: Path
    sites: Sequence[SiteId]
    experiment: Experiment
    plan: Plan

    def of(self, site: SiteId) -> SiteLedger:
        """A site's chain, as its file has it, bound to the account that pays."""
        c = self.coordinator
        return SiteLedger.of(self.states, self.keyring.key(c.run, site), site, self.account(site))

    def pays_at_joining(self, site: SiteId) -> bool:
        """Whether the site's account holds what is due when it joins: the whole plan, where that is paid at once, reserved when
        this returns.  A site that cannot pay is in the run all the same, and declines."""
        if self.coordinator.terms.whole_plan:
            try:
                self.account(site).reserve(0, 1)
            except BudgetExhausted:
                return False
        return True

    def account(self, site: SiteId) -> RunAccount:
        """The account that pays for a site's part."""
        c = self.coordinator
        return site_account(self.states, site, c.run, self.experiment, self.plan, c.terms)

    def joined(self, site: SiteId) -> tuple[int, str]:
        """A site's chain begun, or taken up again: the number and the hash of its newest entry."""
        chain = self.of(site)
        chain.join(sync=False, pays=self.pays_at_joining(site))  # the first charge takes it along
        return chain.chain.count - 1, chain.chain.head

    def close(self, say: Say = quietly) -> str:
        """Write that the run is over at each site and at the coordinator; the coordinator's head, to be noted elsewhere."""
        if self.coordinator.ended:
            return self.coordinator.chain.head
        witness, one_by_one = self.coordinator.witness(), threading.Lock()

        def end(site: SiteId) -> tuple[int, str]:
            ledger = self.of(site)
            ledger.chain.read()
            with one_by_one:  # a PLD figure takes about a second, and is then remembered for the sites with as many rounds
                ledger.terms.pld(ledger.rounds)
            return ledger.end(witness)

        ends = for_each_site(end, self.sites, "closing the ledgers", say)
        return self.coordinator.end(dict(zip(self.sites, ends, strict=True)))


def found_ledgers(folder: RunFolder, states: Path, experiment: Experiment, sites: Sequence[SiteId], say: Say = quietly) -> Ledgers | None:
    """The ledgers of a run that promises something, begun or taken up again; None where it promises nothing.

    The roster is written where this user's are kept.  LedgerDamaged or ConfigError where a chain cannot be gone on with.
    """
    if experiment.privacy is None:
        return None
    plan = plan_of(experiment)
    return ledgers_under(folder, states, experiment, sites, plan, Terms.of(experiment, plan), say)


def ledgers_under(
    folder: RunFolder, states: Path, experiment: Experiment, sites: Sequence[SiteId], plan: Plan, terms: Terms, say: Say = quietly
) -> Ledgers:
    """The ledgers of whatever is released under `plan` and `terms`."""
    keyring = Keyring.here()
    roster = keyring.found(folder.run, sites)
    coordinator = CoordinatorLedger(folder.path, keyring.key(folder.run, None), folder.run, roster, terms)
    ledgers = Ledgers(coordinator, keyring, states, sites, experiment, plan)
    terms.registered()  # seconds for its figures, which are then remembered: not once by each of those who ask side by side
    heads = for_each_site(ledgers.joined, sites, "founding the ledgers", say)
    coordinator.found(dict(zip(sites, heads, strict=True)))
    return ledgers
