"""Limits of an account: what they let through, and how they count events of other kinds."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spending import DELTA, an_event, limits_of, opened, spend

from fedvision.errors import BudgetExhausted, ConfigError
from privacy.accountants import Phase, epsilon
from privacy.ledger.figures import rho
from privacy.limits import Limit, Limits, over_rdp, shares


@pytest.mark.parametrize(("sigma", "rate", "lifetime"), [(4.0, 1.0, 8.0), (1.0, 0.05, 3.0), (20.0, 1.0, 1.0)])
def test_what_a_limit_lets_through_comes_to_between_two_thirds_and_all_of_it_by_the_tightest_accountant(
    tmp_path: Path, sigma: float, rate: float, lifetime: float
) -> None:
    budget = opened(tmp_path, limits_of(lifetime))
    budget.join("run", "research")
    let = spend(budget, "run", an_event(sigma, rate))
    assert 2 / 3 * lifetime <= epsilon([Phase(sigma, rate, let)], DELTA) <= lifetime


def test_the_parts_of_delta_sum_to_one_and_every_order_pays_the_same_for_its_own() -> None:
    golden = (math.sqrt(5) - 1) / 2  # x + x² = 1
    assert shares((2.0, 3.0)) == pytest.approx((golden, golden**2))
    assert shares((5.0,)) == pytest.approx((1.0,))


def test_a_limit_lets_a_charge_through_while_one_of_its_orders_holds() -> None:
    limit = Limit(3.0, (4.0, 8.0), (0.5, 0.5))
    rooms = [3.0 - over_rdp(a, DELTA / 2) for a in (4.0, 8.0)]
    assert rooms[0] < 0 < rooms[1]
    for spent, holds in ((0.99 * rooms[1], True), (1.01 * rooms[1], False)):
        assert limit.holds(np.array([9.0, spent]), DELTA) is holds
    assert limit.used(np.array([math.inf, rooms[1] / 4]), DELTA) == pytest.approx(0.25)


def test_a_limit_that_lets_nothing_through_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a limit of ε = 0\.001 .*lets nothing through"):
        Limit.of(0.001, DELTA)


def test_a_plan_fills_the_limit_that_was_made_for_it_exactly(tmp_path: Path) -> None:
    event = an_event(1.3, 0.1)
    budget = opened(tmp_path, Limits(DELTA, "subject", "add_remove", Limit.filled_by(event, 17, DELTA)))
    budget.join("run", "research")
    assert spend(budget, "run", event) == 17


def test_a_plan_that_comes_to_no_epsilon_at_all_at_its_delta_is_let_through_whole(tmp_path: Path) -> None:
    event = an_event(1000.0, delta=0.01)
    limit = Limit.filled_by(event, 3, 0.01)
    budget = opened(tmp_path, Limits(0.01, "subject", "add_remove", limit))
    budget.join("run", "research")
    assert limit.epsilon == 0 and spend(budget, "run", event, most=3) == 3


def test_the_limits_per_run_and_per_purpose_hold_beside_that_of_a_lifetime(tmp_path: Path) -> None:
    budget = opened(tmp_path, limits_of(6.0, 2.0, purposes={"research": 2.6, "product": 6.0}))
    let = {}
    for run, purpose in (("a", "research"), ("b", "research"), ("c", "research"), ("d", "product"), ("e", "product"), ("f", "marketing")):
        budget.join(run, purpose)
        let[run] = spend(budget, run, an_event(15.0))
    assert let["a"] >= let["b"] > 0 == let["c"] == let["f"]
    assert let["d"] == let["a"] and let["e"] > 0
    over = [entry["over"] for entry in budget.declined]
    assert over[0] == "the limit per run" and over[1] == "the limit for research" and "not for marketing" in over[-1]
    assert {name: limit.epsilon_of(spent, DELTA) <= limit.epsilon for name, limit, spent in budget.standing("d")} == {
        "the limit per run": True, "the limit for product": True, "the limit of its lifetime": True,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ what is counted


@pytest.mark.parametrize(
    ("unit", "relation", "event", "as_if"),
    [
        ("subject", "add_remove", {"relation": "replace_one"}, {"sigma": 4.0, "relation": "add_remove"}),
        ("subject", "replace_one", {}, {"sigma": 2.0, "relation": "add_remove"}),
        ("subject", "add_remove", {"unit": "site"}, {"sigma": 2.0, "relation": "add_remove"}),
        ("example", "add_remove", {"unit": "subject"}, {"sigma": 2.0, "relation": "add_remove"}),
        ("subject", "add_remove", {"unit": "example"}, {"sigma": 1.0, "relation": "add_remove"}),  # at most 4 examples a subject
    ],
)
def test_events_of_another_kind_are_counted_by_how_far_a_unit_can_move_the_sum(
    unit: str, relation: str, event: dict[str, str], as_if: dict[str, Any]
) -> None:
    limits = limits_of(9.0, unit=unit, relation=relation, examples=4 if unit == "subject" else None)
    orders = (2.0, 8.0, 32.0)
    found, expected = rho(limits.counted(an_event(**event)), orders), rho(an_event(**as_if), orders)
    assert np.allclose(found, expected)


def test_events_that_no_rule_covers_are_declined_with_the_way_out() -> None:
    for limits, event in ((limits_of(9.0), an_event(unit="example")), (limits_of(9.0, examples=4), an_event(rate=0.1, unit="example"))):
        with pytest.raises(
            BudgetExhausted, match=r"privacy\.unit = example, and the site's account is of a subject.*ask with privacy\.unit = subject"
        ):
            limits.counted(event)
    with pytest.raises(BudgetExhausted, match="account is of a site"):
        limits_of(9.0, unit="site").counted(an_event())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"delta": 0.0}, "delta 0"), ({"unit": "image"}, "unit 'image'"), ({"relation": "swap"}, "relation 'swap'"), ({"examples": 0}, "examples = 0")],
)  # fmt: skip
def test_limits_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Limits(**({"delta": DELTA, "unit": "subject", "relation": "add_remove", "lifetime": Limit.of(3.0, DELTA)} | changes))
