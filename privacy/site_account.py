"""Which account pays for a site's part in a run.

A site that protects real people opens its account itself, with `fedvision privacy account open`, and says so in `account.json`
in its own folder of the run's states: {"account": FOLDER, "head": FILE, "purpose": NAME}.  Where there is no such file, as in
simulations, the account lies in that folder too and holds just the run's plan, or what conditions.budgets says.
"""

import hashlib
import json
from pathlib import Path
from urllib.parse import quote

from fedvision.errors import ConfigError
from fedvision.experiment import Experiment
from fedvision.types import SiteId
from privacy.budget import Budget, RunAccount
from privacy.ledger.keys import state_folder
from privacy.ledger.terms import Terms
from privacy.limits import Limit, Limits
from privacy.plan import Plan

POINTER = "account.json"


def head_of(folder: Path) -> Path:
    """Where the head of an account is remembered unless another place is named: among the user's own state."""
    where = str(folder.resolve())
    return state_folder() / "heads" / f"{folder.resolve().name}-{hashlib.sha256(where.encode()).hexdigest()[:12]}.head"


def budget_of(states: Path, site: SiteId) -> tuple[Budget, str | None]:
    """The account that pays for a site, and the purpose that its pointer names; not yet read."""
    own = states / quote(site, safe="")
    pointer = own / POINTER
    if not pointer.exists():
        return Budget(own / "account", own / "account.head"), None
    try:
        said = json.loads(pointer.read_bytes())
        return Budget(Path(said["account"]), Path(said["head"])), str(said["purpose"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{pointer} does not say which account pays: {error}; write {{"account": FOLDER, "head": FILE, "purpose": NAME}}'
        ) from None


def site_account(states: Path, site: SiteId, run: str, experiment: Experiment, plan: Plan, terms: Terms) -> RunAccount:
    """The account of `run` at `site`, joined."""
    budget, purpose = budget_of(states, site)
    if purpose is None and not budget.path.exists():  # its limits are for good, also where another version would make others
        budget.open(site, simulated(experiment, site, terms, plan))
    budget.read()
    budget.join(run, purpose or "simulation")
    return RunAccount(budget, run, plan, terms, own=purpose is None)


def simulated(experiment: Experiment, site: SiteId, terms: Terms, plan: Plan) -> Limits:
    """The limits of a simulated site: what the plan takes, or what conditions.budgets gives it."""
    g = plan.guarantee
    given = experiment.conditions.budgets.get(site)
    limit = Limit.filled_by(terms.event, plan.rounds, g.delta) if given is None else Limit.fitting(terms.event, given, g.delta)
    return Limits(g.delta, g.unit, g.relation, limit)
