"""Whatever a coordinator sends in whatever order, with up to 2t − n − 1 sites on its side: what it can unmask isolates nobody."""

import pytest
from secagg_federation import Federation
from secagg_liar import Liar, Tried

from privacy.secure_aggregation import site as site_module
from privacy.secure_aggregation.checks import require
from privacy.secure_aggregation.lists import smallest_atom


def finest(sites: int, colluders: int, minimum: int, seed: int) -> tuple[int, int]:
    """(sums that the liar got, honest sites in the finest sum that follows from those of one round or one model)."""
    liar = Liar(Federation(sites, minimum=minimum), colluders, seed)
    liar.lie(attempts=7)
    got = liar.sums()

    def related(one: Tried, other: Tried) -> bool:
        return one.model == other.model or (one.session.run, one.session.round) == (other.session.run, other.session.round)

    return len(got), min((smallest_atom([over for other, over in got if related(a, other)]) for a, _ in got), default=sites)


@pytest.mark.parametrize(("sites", "colluders", "minimum"), [(7, 0, 3), (10, 3, 5)])
def test_what_a_coordinator_that_lies_at_random_can_unmask_isolates_no_site(sites, colluders, minimum):
    results = [finest(sites, colluders, minimum, seed) for seed in range(5)]
    assert sum(sums for sums, _ in results) > 0  # it is not refused everything
    assert all(honest >= minimum - colluders for _, honest in results)


def test_without_the_rule_on_lists_the_same_lies_isolate_a_site(monkeypatch):
    monkeypatch.setattr(site_module, "require", lambda check, holds, reason: require(check, holds or check == "atoms", reason))
    assert min(finest(7, 0, 3, seed)[1] for seed in range(6)) == 1
