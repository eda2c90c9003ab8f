"""What a party may see, as tests: transcripts, the bound on colluding sites, and what sums over two rounds still tell."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from secagg_federation import Federation, check_of, resigned, same

from privacy.secure_aggregation import masks, shamir
from privacy.secure_aggregation import primitives as p
from privacy.secure_aggregation.graph import least_threshold, most_colluders
from privacy.secure_aggregation.messages import Consent, Masked, Proof, Survivors, Unmasking, list_digest, sign, to_bytes

# --------------------------------------------------------------------- (a) the same sum, the same view; (e) fresh bytes


def bodies(f: Federation) -> list[np.ndarray]:
    return [masks.unpack(r.body, f.rings[0]) for r in f.replies if isinstance(r, Masked)]


def views(swap: bool, runs: int) -> np.ndarray:
    """uint32 [runs, sites, numbers]: what the coordinator gets.  Sites a and b hold 0 and 2^20, or the other way round."""
    seen = []
    for _ in range(runs):
        f = Federation(4, size=70)
        low, high = np.zeros(70, np.int64), np.full(70, 2**20, np.int64)
        f.vectors |= {"a": high if swap else low, "b": low if swap else high}
        attempt = f.run(f.attempt())
        assert int(attempt.total()[0][0]) == int(f.sum(f.names)[0])
        seen.append(bodies(f))
    return np.array(seen)


def test_inputs_with_the_same_sum_give_views_that_no_test_tells_apart():
    one, other = views(False, 18), views(True, 18)
    for view in (one, other):  # each masked number by itself is uniform over the ring
        assert stats.kstest(view.reshape(-1) / 2.0**32, "uniform").pvalue > 1e-6
    for site in range(4):
        assert stats.ks_2samp(one[:, site].reshape(-1), other[:, site].reshape(-1)).pvalue > 1e-6
    difference = [(view[:, 0] - view[:, 1]).reshape(-1) for view in (one, other)]  # modulo 2^32
    assert stats.ks_2samp(*difference).pvalue > 1e-6
    correlation = np.corrcoef(one.transpose(1, 0, 2).reshape(4, -1).astype(float))
    assert np.abs(correlation - np.eye(4)).max() < 0.15


def test_a_view_of_one_input_is_a_view_of_the_swapped_input_under_another_pair_mask():
    """The reason behind the statistics: whatever the coordinator saw, some value of the mask that two honest sites share
    explains it with their inputs swapped, and every value of that mask is as likely."""
    ring = masks.Ring(32, 8)
    x, y = np.arange(8, dtype=np.int64), np.arange(8, dtype=np.int64) * -7
    mask = masks.apply(np.zeros(8, np.int64), [masks.Mask(b"k" * 32, True)], ring)
    first = [masks.apply(x, [], ring) + mask, masks.apply(y, [], ring) - mask]
    explained = mask + masks.apply(x - y, [], ring)
    second = [masks.apply(y, [], ring) + explained, masks.apply(x, [], ring) - explained]
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()


def test_the_same_run_twice_differs_in_every_message_of_a_site_and_in_no_number_of_the_sum():
    f, g = Federation(5), Federation(5)
    g.identities, g.authority = f.identities, f.authority
    g.roster = f.roster
    g.sites = {name: g.make(name) for name in g.names}
    first, second = f.run(f.attempt(), {"e": "masked"}), g.run(g.attempt(), {"e": "masked"})
    assert same(first.total(), g.sum("abcd")) and same(second.total(), f.sum("abcd"))
    assert {to_bytes(r) for r in f.replies}.isdisjoint(to_bytes(r) for r in g.replies)


def test_a_coordinator_that_shows_two_sites_different_models_gets_noise_and_no_signatures():
    f = Federation(5)
    attempt = f.run(f.attempt(), until="shares")
    own, other = f.terms(), f.terms(b"n" * 32)
    begins = attempt.begins(own)
    replies = [f.tell(n, begins[n]) for n in "abcd"] + [f.tell("e", replace(begins["e"], terms=other), other)]
    for reply in replies:
        attempt.take(reply)
    assert attempt.excluded["e"].startswith("transcript")
    forced = sum(masks.unpack(r.body, f.rings[0]) for r in replies)
    assert not (masks.signed(forced, f.rings[0]) == f.sum(f.names)).any()


def test_nothing_of_a_site_goes_in_the_clear():
    f = Federation(4)
    f.vectors["a"] = np.full(6, 1234567, np.int64)
    f.run(f.attempt())
    assert not any(np.int32(1234567).tobytes() in to_bytes(reply) for reply in f.replies)


# -------------------------------------------------------------------------------- (b) the bound on lying, colluding sites


def two_lists(colluders: int, first: int, sites: int = 10, threshold: int = 0) -> tuple[Federation, bool]:
    """A coordinator and `colluders` of the sites try to have two lists answered: everybody alive, and all but site x.

    threshold: what site x asks for, where that is more than ⌊2n/3⌋ + 1.  Every honest site is offered both, `first` of them the full list first, the others the other one first; colluders sign
    both, and use all that they hold.  Returns whether the coordinator could take the masks off x's own vector.
    """
    f = Federation(sites, asks={"a": threshold})
    honest, liars = f.names[: sites - colluders], f.names[sites - colluders :]
    attempt = f.run(f.attempt(), until="masked")
    stock = {n: {h.dealer: h for h in f.sites[n].state.attempts[0].held} for n in liars}
    x = honest[0]
    full, without = (tuple(f.names), ()), (tuple(n for n in f.names if n != x), (x,))
    signed = {}
    for number, n in enumerate(honest):
        for alive, dropped in (full, without) if number < first else (without, full):
            reply = f.tell(n, Survivors(attempt.session, alive, dropped))
            if isinstance(reply, Consent):
                signed.setdefault(reply.list, []).append(reply)
    seeds, keys = ({n: getattr(own[x], kind) for n, own in stock.items()} for kind in ("seed", "key"))
    for (alive, dropped), revealed in ((full, seeds), (without, keys)):
        wanted = list_digest(attempt.transcript, alive, dropped)
        lies = [sign(Consent(attempt.session, n, wanted), f.identities[n]) for n in liars]
        proof = Proof(attempt.session, alive, dropped, (*lies, *signed.get(wanted, ())))
        for n in honest:
            reply = f.tell(n, proof)
            if isinstance(reply, Unmasking):
                shares = reply.seeds if revealed is seeds else reply.keys
                revealed[n] = next(share.value for share in shares if share.dealer == x)
    t = max(threshold, least_threshold(sites))
    return f, min(len(seeds), len(keys)) >= t and taken_off(f, attempt, x, seeds, keys, t)


def taken_off(f, attempt, x, seeds, keys, t) -> bool:
    places = {n: i for i, n in enumerate(f.names, 1)}
    seed, key = (shamir.combine({places[n]: s for n, s in list(some.items())[:t]}) for some in (seeds, keys))
    publics = {k.site: k.mask for k in attempt.keys.values()}
    remove = [masks.Mask(p.self_key(seed, attempt.transcript, x), False)]
    remove += [masks.Mask(p.pair_key(key, publics[n], attempt.transcript, x, n), x > n) for n in f.names if n != x]
    body = next(r.body for r in f.replies if isinstance(r, Masked) and r.site == x)
    vector = masks.signed(masks.apply(masks.unpack(body, f.rings[0]), remove, f.rings[0]), f.rings[0])
    return bool((vector == f.vectors[x]).all())


def test_up_to_2t_minus_n_minus_1_colluders_and_a_lying_coordinator_take_no_single_vectors_masks_off():
    bound = most_colluders(10, least_threshold(10))
    assert bound == 3
    assert not any(two_lists(bound, first)[1] for first in range(11 - bound))
    assert not two_lists(0, 5)[1]


def test_one_colluder_more_than_the_bound_and_the_masks_come_off():
    assert two_lists(most_colluders(10, least_threshold(10)) + 1, 3)[1]


@st.composite
def sites_and_threshold(draw: st.DrawFn) -> tuple[int, int]:
    """n and t of a full graph, in which one site may be missing."""
    sites = draw(st.integers(4, 14))
    return sites, draw(st.integers(least_threshold(sites), sites - 1))


@settings(max_examples=25, deadline=None)
@given(sites_and_threshold(), st.data())
def test_at_any_number_of_sites_and_threshold_colluders_up_to_the_bound_unmask_nobody(numbers, data):
    sites, threshold = numbers
    colluders = data.draw(st.integers(0, most_colluders(sites, threshold)), "colluders")
    first = data.draw(st.integers(0, sites - colluders), "honest sites that see the full list first")
    assert not two_lists(colluders, first, sites, threshold)[1]


@settings(max_examples=15, deadline=None)
@given(sites_and_threshold())
def test_at_any_number_of_sites_and_threshold_one_colluder_above_the_bound_unmasks_a_site(numbers):
    sites, threshold = numbers
    colluders = most_colluders(sites, threshold) + 1
    at_the_bound, above = (two_lists(c, threshold - c, sites, threshold)[1] for c in (colluders - 1, colluders))
    assert (at_the_bound, above) == (False, True)


def test_fewer_colluders_than_the_threshold_hold_too_few_shares_to_unmask_alone():
    f = Federation(10)
    f.run(f.attempt(), until="masked")
    assert all(len(a.held) == 10 for n in f.names for a in f.sites[n].state.attempts)
    assert most_colluders(10, 7) < 7


@pytest.mark.parametrize("colluders", [0, 3])
def test_different_lists_to_different_sites_give_no_list_enough_signatures(colluders):
    f, broken = two_lists(colluders, 4)
    assert not broken
    refusals = {check_of(r) for r in f.replies} - {""}
    assert {"second_list", "few_consents"} <= refusals <= {"second_list", "few_consents", "not_alive"}


# ------------------------------------------------------------------------------ what a coordinator still gains: stated


def softmax_update(weights: np.ndarray, images: np.ndarray, labels: np.ndarray, steps: int = 5) -> np.ndarray:
    """Δ of a linear softmax classifier after a few gradient steps on one site's digits."""
    w = weights.copy()
    for _ in range(steps):
        scores = images @ w
        scores = np.exp(scores - scores.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
        scores[np.arange(len(labels)), labels] -= 1
        w -= 0.5 * images.T @ scores / len(labels)
    return w - weights


def two_rounds_cosine() -> float:
    """Cosine between a site's update and the difference of two rounds' sums, with and without that site, over ten sites."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.data / 16.0, digits.target
    order = np.argsort(np.random.default_rng(0).permutation(len(labels)) + 400 * labels)  # label-skewed sites
    parts = np.array_split(order, 10)
    weights = np.zeros((64, 10))
    for _ in range(20):
        weights = weights + np.mean([softmax_update(weights, images[q], labels[q]) for q in parts], 0)
    first = sum(softmax_update(weights, images[q], labels[q]) for q in parts)
    moved = weights + first / 10
    second = sum(softmax_update(moved, images[q], labels[q]) for q in parts[1:])
    difference, own = first - second, softmax_update(weights, images[parts[0]], labels[parts[0]])
    return float((difference * own).sum() / np.linalg.norm(difference) / np.linalg.norm(own))


def test_two_rounds_over_nearly_the_same_model_with_one_site_fewer_tell_that_sites_update():
    """The rule on lists covers one round and one model; the next model is another.  This is what remains, and why a sum
    alone is never sold as privacy of the records: only differential privacy bounds it."""
    assert 0.9 < two_rounds_cosine() <= 1.0


def test_a_colluding_site_among_the_signers_changes_nothing_that_an_honest_one_says():
    f = Federation(10)
    attempt = f.run(f.attempt(), until="consent")
    forged = resigned(attempt.consents["b"], f, "b", list=b"z" * 32)
    assert not attempt.take(forged)
    f.ask(attempt, {n: attempt.proof() for n in f.names})
    assert same(attempt.total(), f.sum(f.names))
