"""Secure aggregation: the coordinator of a round learns one sum over enough sites, and what follows from it, even when it lies.

Double masking (Bonawitz et al. 2017, the variant against a malicious server) over the full graph, and above 64 sites over a
graph that the sites draw themselves (after Bell et al. 2020).  `messages` is the protocol; `site` and `coordinator` are its two
halves, without transport: a message in, a message out.  `docs/secure-aggregation.md` says why, `docs/threat-model.md` what is
promised to whom, against whom, and by which test.
"""

from privacy.secure_aggregation.coordinator import Attempt
from privacy.secure_aggregation.masks import Ring
from privacy.secure_aggregation.messages import Session, Terms
from privacy.secure_aggregation.primitives import Identity
from privacy.secure_aggregation.roster import Member, Pinned, Roster, SignedRoster, endorse
from privacy.secure_aggregation.site import Contribution, SecureSite

__all__ = [
    "Attempt",
    "Contribution",
    "Identity",
    "Member",
    "Pinned",
    "Ring",
    "Roster",
    "SecureSite",
    "Session",
    "SignedRoster",
    "Terms",
    "endorse",
]
