"""A simulated federation's identities and roster, made before the run and given to each site, as a consortium would."""

from collections.abc import Sequence
from pathlib import Path

from clients.masked import SIMULATED, masking_folder
from fedvision.experiment import Experiment
from fedvision.types import SiteId
from privacy.secure_aggregation import codec
from privacy.secure_aggregation.primitives import Identity
from privacy.secure_aggregation.roster import Member, Pinned, Roster, endorse
from privacy.secure_aggregation.store import Files


def founded(states: Path, experiment: Experiment, sites: Sequence[SiteId]) -> Roster:
    """The roster of a simulation; a resumed one's is taken up again.  The authority's key signs it once and is forgotten."""
    store = Files(states / "consortium")
    kept = store.read("roster")
    if kept is not None:
        return codec.decode(Roster, kept)
    identities, authority = {site: Identity.fresh() for site in sites}, Identity.fresh()
    members = tuple(Member(site, identities[site].public) for site in sorted(sites))
    roster = Roster(experiment.name, 1, members, (authority.public,), 1)
    signed = endorse(roster, [authority])
    for site, identity in identities.items():
        pinned = Pinned.join(signed, roster.fingerprint, experiment.secure_aggregation.min_cohort)
        folder = Files(masking_folder(states, site), durable=False)
        folder.write(SIMULATED, b"")
        folder.write("identity", identity.secret)
        folder.write("roster", codec.encode(pinned.roster))
    store.write("roster", codec.encode(roster))  # last: a crash before it founds the federation anew
    return roster
