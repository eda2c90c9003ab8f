"""A simulated federation's identities and roster, made before the run and given to each site, as a consortium would."""

import os
from collections.abc import Sequence
from pathlib import Path

from clients.masked import SIMULATED, masking_folder
from fedvision.experiment import Experiment
from fedvision.types import SiteId
from privacy.secure_aggregation import codec
from privacy.secure_aggregation.primitives import Identity
from privacy.secure_aggregation.roster import Member, Pinned, Roster, endorse
from privacy.secure_aggregation.store import Files
from simulations.each_site import Say, quietly, told


def founded(states: Path, experiment: Experiment, sites: Sequence[SiteId], say: Say = quietly) -> Roster:
    """The roster of a simulation; a resumed one's is taken up again.  The authority's key signs it once and is forgotten."""
    store = Files(states / "consortium")
    kept = store.read("roster")
    if kept is not None:
        return codec.decode(Roster, kept)
    identities, authority = {site: Identity.fresh() for site in sites}, Identity.fresh()
    members = tuple(Member(site, identities[site].public) for site in sorted(sites))
    roster = Roster(experiment.name, 1, members, (authority.public,), 1)
    # every site would check the same bytes: once is enough
    content = codec.encode(Pinned.join(endorse(roster, [authority]), roster.fingerprint, experiment.secure_aggregation.min_cohort).roster)
    store.write("pinned", content)
    pinned = store.folder / "pinned"
    for site in told(sites, len(sites), "founding the consortium", say):
        folder = Files(masking_folder(states, site), durable=False)
        folder.write(SIMULATED, b"")
        folder.write("identity", identities[site].secret)
        pinned = _one_more(pinned, folder, content)
    store.write("roster", content)  # last: a crash before it founds the federation anew
    return roster


def _one_more(pinned: Path, folder: Files, content: bytes) -> Path:
    """The roster in a site's folder: the file `pinned` under one more name, because a thousand copies of a thousand names are
    many; a copy where a file has no more names to give, or cannot have two.  The file to go on with."""
    here = folder.folder / "roster"
    folder.delete("roster")
    try:
        os.link(pinned, here)
    except OSError:
        folder.write("roster", content)
        return here
    return pinned
