"""Which survivor lists may be summed together."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secure_aggregation.lists import atoms, smallest_atom

ALL = set("abcdefghix")
A, B, C = set("abc"), set("def"), set("ghi")
FOUR = [ALL, ALL - A, ALL - B, ALL - C]


def test_four_lists_over_ten_sites_isolate_one_site_though_every_pair_is_far_apart():
    assert all(len(one ^ other) >= 3 for one, other in combinations(FOUR, 2))
    assert all(smallest_atom(three) >= 3 for three in combinations(FOUR, 3) if ALL in three)
    assert smallest_atom(FOUR) == 1


def test_equal_lists_pass_however_often():
    assert smallest_atom([ALL] * 5) == 10


def test_a_list_and_the_same_without_one_site_isolate_that_site():
    assert smallest_atom([ALL, ALL - {"x"}]) == 1


def test_disjoint_lists_are_judged_each_by_its_own_size():
    assert sorted(atoms([A, B | C]).values()) == [3, 6]
    assert smallest_atom([]) == 0


def in_span(rows: np.ndarray, vector: np.ndarray) -> bool:
    return np.linalg.matrix_rank(np.vstack([rows, vector])) == np.linalg.matrix_rank(rows)


@given(st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_sum_over_fewer_sites_than_the_smallest_atom_follows_from_the_lists(lists):
    """Linear algebra against the rule: whichever set's indicator is a combination of the lists' has a whole atom in it."""
    rows = np.array([[site in one for site in range(7)] for one in lists], float)
    for size in range(1, smallest_atom([map(str, one) for one in lists])):
        for subset in combinations(range(7), size):
            assert not in_span(rows, np.array([site in subset for site in range(7)], float))
