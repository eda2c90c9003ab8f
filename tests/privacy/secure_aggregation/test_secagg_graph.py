"""Thresholds and the drawn graph: numbers against an independent computation, and the protocol over a cohort of eighty."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from secagg_federation import Federation, resigned, same

from privacy.secure_aggregation.graph import (
    COLLUDING,
    FULL,
    draw,
    least_threshold,
    log2_split,
    log2_tail,
    most_colluders,
    neighbourhood,
)

DOCS = Path(__file__).parents[3] / "docs" / "secure-aggregation.md"


@pytest.mark.parametrize(("n", "t", "c"), [(3, 3, 2), (4, 3, 1), (7, 5, 2), (10, 7, 3), (20, 14, 7), (1000, 667, 333)])
def test_two_lists_signed_by_the_threshold_share_more_signers_than_may_collude(n, t, c):
    assert least_threshold(n) == t
    assert most_colluders(n, t) == c
    assert c >= -(-n // 3) - 1  # every number below n/3 is covered


def test_up_to_64_sites_everybody_is_everybodys_neighbour():
    assert [neighbourhood(n, least_threshold(n)).degree for n in (4, 10, FULL)] == [3, 9, 63]
    assert draw("b", ["a", "c"], 2) == ("a", "b", "c")


@pytest.mark.parametrize(("total", "marked", "draws", "least"), [(999, 200, 80, 48), (99, 20, 34, 15), (10, 3, 4, 4), (10, 3, 4, 0)])
def test_tails_are_the_hypergeometric_distributions(total, marked, draws, least):
    expected = stats.hypergeom.sf(least - 1, total, marked, draws)
    assert 2 ** log2_tail(total, marked, draws, least) == pytest.approx(expected, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize("n", [80, 200])
def test_the_degrees_bounds_hold_by_another_way_of_counting(n):
    k = neighbourhood(n, least_threshold(n))
    colluding = int(n * COLLUDING)
    assert n * stats.hypergeom.sf(k.colluders, n - 1, colluding, k.degree) <= 2.0**-40
    assert k.colluders < k.threshold  # colluding holders alone rebuild nothing
    lost = k.degree + 1 - k.threshold
    assert n * stats.hypergeom.sf(lost, n - 1, -(-n // 10), k.degree) <= 2.0**-20
    assert n * stats.binom.sf(k.in_degree - colluding, n - 1, k.degree / (n - 1)) <= 2.0**-40
    assert k.log2_split <= -40
    assert log2_split(n, least_threshold(n), colluding, k.degree, k.inside) == k.log2_split


def test_the_bound_on_two_sums_gets_smaller_with_the_degree():
    values = [log2_split(200, 134, 40, degree, 2) for degree in (20, 40, 60, 80)]
    assert values == sorted(values, reverse=True)


def test_a_site_draws_its_holders_itself_and_differently_each_time():
    others = [f"s{i}" for i in range(200)]
    first, second = draw("me", others, 50), draw("me", others, 50)
    assert len(first) == 51 and "me" in first and list(first) == sorted(set(first))
    assert first != second


def test_draws_of_two_hundred_sites_stay_within_their_bounds():
    k, names = neighbourhood(200, least_threshold(200)), [f"s{i:03}" for i in range(200)]
    drawn = {name: set(draw(name, [o for o in names if o != name], k.degree)) for name in names}
    bad = set(names[:40])
    assert max(len(holders & bad) for holders in drawn.values()) <= k.colluders
    assert max(sum(name in holders for holders in drawn.values()) - 1 for name in names) <= k.in_degree


def test_eighty_sites_over_the_drawn_graph_end_at_the_exact_sum_with_dropouts_at_every_stage():
    f = Federation(80)
    gone = {"s0003": "keys", "s0010": "shares", "s0020": "masked", "s0033": "masked", "s0044": "consent", "s0055": "unmasking"}
    attempt = f.run(f.attempt(), gone)
    alive = [n for n in f.names if gone.get(n) not in ("keys", "shares", "masked")]
    assert same(attempt.total(), f.sum(alive))
    degree = attempt.thresholds.neighbours.degree
    assert degree < 78 and all(len(s.boxes) == degree + 1 for s in attempt.shares.values())


def test_the_table_of_degrees_in_the_docs_is_what_the_code_computes():
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", DOCS.read_text(), re.M)
    said = {int(row[0]): tuple(int(v) for v in row[1:]) for row in rows}
    assert set(said) >= {10, 64, 100, 200, 500, 1000}
    for n, row in said.items():
        t = least_threshold(n)
        k = neighbourhood(n, t)
        assert row == (t, most_colluders(n, t), k.degree, k.threshold, k.colluders, k.in_degree), n


def test_the_union_bounds_terms_are_probabilities_of_what_they_say():
    """For a graph small enough to draw a hundred thousand times: a set S without a draw into T, as the formula has it."""
    n, k, s, rest = 12, 3, 4, 5
    chance = np.random.default_rng(0)
    hits, runs = 0, 100_000
    for _ in range(0, runs, 1000):
        order = chance.random((1000, n - 1)).argsort(1)[:, :k]  # draws of one member of S among the n − 1 others
        inside, outside = (order < s - 1).sum(1), ((order >= s - 1) & (order < s - 1 + rest)).sum(1)
        hits += int(((outside == 0) & (inside >= 1)).sum())
    none = stats.hypergeom.pmf(0, n - 1, rest, k)
    expected = none * 2 ** log2_tail(n - 1 - rest, s - 1, k, 1)
    assert hits / runs == pytest.approx(expected, abs=0.005)


def test_a_dealer_that_keeps_no_share_for_itself_is_left_out_by_name():
    f = Federation(80)
    attempt = f.run(f.attempt(), until="keys")
    name = f.names[0]
    shares = f.tell(name, attempt.list_keys())
    holders = {box.holder for box in shares.boxes}
    stranger = next(site for site in f.names if site not in holders)
    boxes = sorted(
        (replace(box, holder=stranger if box.holder == name else box.holder) for box in shares.boxes), key=lambda box: box.holder
    )
    assert not attempt.take(resigned(shares, f, name, boxes=tuple(boxes)))
    assert attempt.excluded[name].startswith("malformed: ")
