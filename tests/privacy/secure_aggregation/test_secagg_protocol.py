"""The honest protocol: exact sums, whoever drops out when; fresh keys for each attempt; restarts; the same bytes again."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_federation import STAGES, Federation, check_of, resigned, same

from fedvision.errors import AggregationRefused, RoundFailed
from privacy.secure_aggregation import Attempt, Contribution, codec
from privacy.secure_aggregation.coordinator import voided
from privacy.secure_aggregation.messages import TYPES, Abandon, Begin, Masked, Open, Unmasking, from_bytes, seed_digest, to_bytes
from privacy.secure_aggregation.primitives import seal
from privacy.secure_aggregation.store import Files
from privacy.secure_aggregation.thresholds import most_dropouts


def survivors_of(federation: Federation, gone: dict[str, str]) -> list[str]:
    return [n for n in federation.names if gone.get(n) not in STAGES[:3]]


def test_the_sum_over_ten_sites_is_exact():
    f = Federation(10)
    assert same(f.run(f.attempt()).total(), f.sum(f.names))


@pytest.mark.parametrize("bits", [16, 20, 24, 32, 64])
def test_every_ring_ends_at_the_plain_sum(bits):
    f = Federation(4, size=9, bits=bits)
    assert same(f.run(f.attempt(), {"b": "masked"}).total(), f.sum(["a", "c", "d"]))


@pytest.mark.parametrize("stage", STAGES)
def test_a_dropout_at_any_stage_is_survived(stage):
    f = Federation(7)
    gone = {"b": stage, "g": stage}
    assert same(f.run(f.attempt(), gone).total(), f.sum(survivors_of(f, gone)))


@given(st.integers(4, 12), st.data())
@settings(max_examples=25, deadline=None)
def test_any_pattern_of_dropouts_within_the_bound_gives_the_exact_sum(count, data):
    asked = data.draw(st.integers(2, count))
    f = Federation(count, minimum=2, bits=data.draw(st.sampled_from([16, 20, 24, 32, 64])), asks={"b": asked})
    victims = data.draw(st.lists(st.sampled_from(f.names), max_size=most_dropouts(count, asked), unique=True))
    gone = {name: data.draw(st.sampled_from(STAGES)) for name in victims}
    assert same(f.run(f.attempt(), gone).total(), f.sum(survivors_of(f, gone)))


@given(st.integers(4, 10), st.sampled_from(STAGES[1:]))  # fewer keys make a smaller cohort, not a failure
@settings(max_examples=20, deadline=None)
def test_one_dropout_more_than_the_bound_fails_the_round_and_no_sum_comes_out(count, stage):
    f = Federation(count, minimum=2)
    attempt = f.attempt()
    with pytest.raises(RoundFailed, match="are needed"):
        f.run(attempt, dict.fromkeys(f.names[: most_dropouts(count) + 1], stage)).total()


def test_four_sites_survive_one_dropout_three_none_and_ten_three():
    assert [most_dropouts(n) for n in (3, 4, 5, 10)] == [0, 1, 1, 3]


def test_sites_that_are_restarted_before_every_message_end_at_the_same_sum():
    f = Federation(5, restart=True)
    assert same(f.run(f.attempt(), {"c": "masked"}).total(), f.sum(["a", "b", "d", "e"]))


def test_a_site_takes_its_state_up_from_files(tmp_path):
    f = Federation(4, restart=True)
    f.stores = {name: Files(tmp_path / name) for name in f.names}
    assert same(f.run(f.attempt()).total(), f.sum(f.names))
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_coordinator_that_restarts_after_any_stage_goes_on(stage):
    f = Federation(5)
    attempt = f.run(f.attempt(), {"c": "masked"}, until=stage)
    again = Attempt.load(f.roster, attempt.save())
    begun = STAGES.index(stage)
    messages = {
        "keys": lambda: {k.site: again.list_keys() for k in again.list_keys().keys},
        "shares": lambda: {n: m for n, m in again.begins(f.terms()).items() if n != "c"},
        "masked": lambda: {n: again.survivors() for n in again.survivors().alive},
        "consent": lambda: {n: again.proof() for n in again.survivors().alive},
    }
    for name in STAGES[begun:-1]:
        f.ask(again, messages[name]())
    assert same(again.total(), f.sum(["a", "b", "d", "e"]))


def test_a_coordinator_that_lost_the_vectors_asks_again_and_gets_the_same_bytes():
    f = Federation(5)
    attempt = f.run(f.attempt(), until="shares")
    kept = attempt.save()
    first = f.ask(attempt, attempt.begins(f.terms()))
    again = Attempt.load(f.roster, kept)
    second = f.ask(again, again.begins(f.terms()))
    assert {n: to_bytes(m) for n, m in first.items()} == {n: to_bytes(m) for n, m in second.items()}
    f.ask(again, {n: again.survivors() for n in f.names})
    f.ask(again, {n: again.proof() for n in f.names})
    assert same(again.total(), f.sum(f.names))


def test_every_message_answered_twice_gives_the_same_bytes_and_changes_no_sum():
    f = Federation(5)
    attempt = f.attempt()
    for make in (
        lambda: dict.fromkeys(f.names, attempt.open()),
        lambda: dict.fromkeys(f.names, attempt.list_keys()),
        lambda: attempt.begins(f.terms()),
        lambda: dict.fromkeys(f.names, attempt.survivors()),
        lambda: dict.fromkeys(f.names, attempt.proof()),
    ):
        messages = make()
        first, second = (f.ask(attempt, messages) for _ in range(2))
        assert {n: to_bytes(m) for n, m in first.items()} == {n: to_bytes(m) for n, m in second.items()}
    assert same(attempt.total(), f.sum(f.names))
    assert same(attempt.total(), f.sum(f.names))
    assert attempt.excluded == {}


def test_a_late_vector_does_not_enter_and_its_site_stays_dropped():
    f = Federation(5)
    attempt = f.run(f.attempt(), {"e": "masked"}, until="consent")
    late = f.tell("e", attempt.begins(f.terms())["e"])
    assert isinstance(late, Masked)
    assert not attempt.take(late)
    f.ask(attempt, {n: attempt.proof() for n in "abcd"})
    assert same(attempt.total(), f.sum("abcd"))


def test_a_site_that_did_not_sign_the_list_may_still_answer_for_it():
    f = Federation(10)
    attempt = f.run(f.attempt(), {"a": "consent"}, until="consent")
    f.ask(attempt, {n: attempt.proof() for n in f.names[:7]})  # "a" and six of those that signed
    assert "a" in attempt.unmaskings
    assert same(attempt.total(), f.sum(f.names))


def test_keys_and_shares_of_the_next_round_may_be_fetched_while_this_one_is_under_way():
    f = Federation(5)
    first = f.run(f.attempt(), until="shares")
    second = f.run(f.attempt(f.session(round=1)), until="shares")
    for attempt, model in ((first, b"0" * 32), (second, b"1" * 32)):
        terms = f.terms(model)
        f.ask(attempt, attempt.begins(terms), terms)
        f.ask(attempt, dict.fromkeys(f.names, attempt.survivors()))
        f.ask(attempt, dict.fromkeys(f.names, attempt.proof()))
        assert same(attempt.total(), f.sum(f.names))


# ------------------------------------------------------------------------------------------------- attempt after attempt


def failed_before_a_list(f: Federation) -> Attempt:
    """Attempt 1, in which too few send a vector."""
    attempt = f.run(f.attempt(), dict.fromkeys(f.names[-4:], "masked"), until="masked")
    with pytest.raises(RoundFailed):
        attempt.survivors()
    return attempt


def test_a_round_that_failed_before_its_list_is_run_again_over_other_survivors_once_it_is_abandoned():
    f = Federation(10)
    first = failed_before_a_list(f)
    proof = voided(first.session, [f.tell(n, Abandon(first.session)) for n in f.names])
    gone = {"a": "masked", "b": "masked"}
    second = f.run(f.attempt(f.session(attempt=2)), gone, history=[proof])
    assert same(second.total(), f.sum(survivors_of(f, gone)))


def test_a_round_whose_list_was_signed_is_run_again_over_the_same_list():
    f = Federation(10)
    first = f.run(f.attempt(), {"a": "masked"}, until="consent")
    second = f.run(f.attempt(f.session(attempt=2)), {"a": "masked"}, history=[first.outcome()])
    assert same(second.total(), f.sum(f.names[1:]))


def test_after_a_signed_list_another_is_signed_only_if_it_differs_by_a_minimum_cohort():
    f = Federation(10, minimum=3)
    first = f.run(f.attempt(), until="consent")
    three_less = f.run(f.attempt(f.session(attempt=2)), dict.fromkeys("abc", "masked"), history=[first.outcome()])
    assert same(three_less.total(), f.sum(f.names[3:]))


def test_a_site_dropped_in_attempt_1_and_alive_in_attempt_2_has_keys_in_the_second_that_nobody_saw_in_the_first():
    f = Federation(7)
    first = f.run(f.attempt(), {"b": "masked"}, until="unmasking")
    revealed = {s.value for u in first.unmaskings.values() for s in (*u.seeds, *u.keys)}
    second = f.run(f.attempt(f.session(attempt=2)), {"b": "masked"}, history=[first.outcome()], until="shares")
    assert {k.mask for k in first.keys.values()}.isdisjoint(k.mask for k in second.keys.values())
    assert {k.box for k in first.keys.values()}.isdisjoint(k.box for k in second.keys.values())
    secrets = [x for n in f.names for a in f.sites[n].state.attempts if a.session == second.session for x in (a.mask, a.box, a.seed)]
    assert len(set(secrets)) == 21
    assert revealed.isdisjoint(h.key for n in f.names for a in f.sites[n].state.attempts if a.session == second.session for h in a.held)


def test_the_secrets_of_an_attempt_are_gone_from_the_disk_once_they_have_done_their_work():
    f = Federation(4)
    attempt = f.run(f.attempt(), until="shares")
    before = {n: f.sites[n].state.attempts[0] for n in f.names}
    f.ask(attempt, attempt.begins(f.terms()))
    for name, old in before.items():
        assert all(secret not in f.stores[name].read("state") for secret in (old.mask, old.box, old.seed))
    shares = {n: f.sites[n].state.attempts[0].held for n in f.names}
    f.ask(attempt, dict.fromkeys(f.names, attempt.survivors()))
    f.ask(attempt, dict.fromkeys(f.names, attempt.proof()))
    for name, held in shares.items():
        assert len(held) == 4
        assert all(h.key not in f.stores[name].read("state") for h in held)


def test_a_vector_of_a_later_attempt_erases_the_earlier_one():
    f = Federation(4)
    first = f.run(f.attempt(), until="shares")
    second = f.run(f.attempt(f.session(attempt=2)), until="masked")
    assert [a.session for a in f.sites["a"].state.attempts] == [second.session]
    assert check_of(f.tell("a", first.begins(f.terms())["a"])) == "order"
    assert len([name for name in f.stores["a"].contents if name.startswith("keys-")]) == 1


def test_what_fails_while_the_vector_is_made_leaves_the_attempt_as_it_was():
    f = Federation(4)
    attempt = f.run(f.attempt(), until="shares")
    begin = attempt.begins(f.terms())["a"]
    before = f.stores["a"].read("state")

    def fails() -> list:
        raise OverflowError("beyond the range")

    with pytest.raises(OverflowError):
        f.sites["a"].answer(begin, Contribution(f.terms(), fails))
    assert f.stores["a"].read("state") == before
    assert isinstance(f.tell("a", begin), Masked)


def test_a_budget_is_charged_before_a_vector_leaves_and_once():
    f = Federation(4)
    charged = []
    f.sites["a"].charge = charged.append
    attempt = f.run(f.attempt(), until="masked")
    f.tell("a", attempt.begins(f.terms())["a"])
    assert charged == [attempt.session]


# -------------------------------------------------------------------------------------------------------- thresholds


def test_the_rounds_thresholds_are_the_maxima_over_its_sites():
    f = Federation(10, asks={"c": 8})
    attempt = f.run(f.attempt(), until="shares")
    assert (attempt.thresholds.signatures, attempt.thresholds.cohort) == (8, 3)


def test_a_site_too_strict_for_the_planned_dropouts_is_left_out_by_name():
    f = Federation(10, asks={"c": 9})
    attempt = f.run(f.attempt(dropouts=2))
    assert attempt.excluded["c"] == "too_strict: threshold 9, minimum cohort 3 leave no room for 2 dropouts"
    assert same(attempt.total(), f.sum([n for n in f.names if n != "c"]))


def test_where_every_site_is_too_strict_the_round_fails_and_says_so():
    f = Federation(4)
    with pytest.raises(RoundFailed, match=r"0 sites, and .* \(a too_strict: threshold 0, minimum cohort 3"):
        f.run(f.attempt(dropouts=4))


def test_a_list_that_too_few_have_signed_is_shown_to_nobody():
    f = Federation(10)
    attempt = f.run(f.attempt(), dict.fromkeys("abcd", "consent"), until="consent")
    with pytest.raises(RoundFailed, match="signatures on the survivor list of 6 sites came, and 7 are needed"):
        attempt.proof()


def test_a_strict_site_takes_part_where_its_threshold_leaves_room():
    f = Federation(10, asks={"c": 8})
    assert same(f.run(f.attempt(dropouts=2), {"a": "masked", "b": "masked"}).total(), f.sum(f.names[2:]))


# --------------------------------------------------------------------------------- what is malformed costs nobody else


def test_a_vector_of_the_wrong_length_drops_its_site_and_nobody_elses_mask_is_lost():
    f = Federation(5)
    attempt = f.run(f.attempt(), until="shares")
    replies = {n: f.tell(n, m) for n, m in attempt.begins(f.terms()).items()}
    replies["b"] = replace(replies["b"], body=replies["b"].body[:-1])
    for reply in replies.values():
        attempt.take(reply)
    assert attempt.excluded["b"].startswith("malformed")
    f.ask(attempt, {n: attempt.survivors() for n in "acde"})
    f.ask(attempt, {n: attempt.proof() for n in "acde"})
    assert same(attempt.total(), f.sum("acde"))


def test_a_vector_changed_on_its_way_is_excluded_by_its_signature():
    f = Federation(4)
    attempt = f.run(f.attempt(), until="shares")
    masked = f.tell("b", attempt.begins(f.terms())["b"])
    assert not attempt.take(replace(masked, body=bytes([masked.body[0] ^ 1]) + masked.body[1:]))
    assert attempt.excluded["b"].startswith("signature")


def test_doubled_shares_exclude_their_dealer_before_anybody_masks():
    f = Federation(5)
    attempt = f.run(f.attempt(), until="keys")
    replies = {n: f.tell(n, attempt.list_keys()) for n in f.names}
    boxes = replies["b"].boxes
    replies["b"] = resigned(replies["b"], f, "b", boxes=(boxes[0], boxes[0], *boxes[2:]))
    for reply in replies.values():
        attempt.take(reply)
    assert attempt.excluded["b"].startswith("malformed")
    f.ask(attempt, attempt.begins(f.terms()))
    f.ask(attempt, {n: attempt.survivors() for n in "acde"})
    f.ask(attempt, {n: attempt.proof() for n in "acde"})
    assert same(attempt.total(), f.sum("acde"))


def test_keys_of_small_order_exclude_their_site():
    f = Federation(5)
    attempt = f.attempt()
    replies = {n: f.tell(n, attempt.open()) for n in f.names}
    for n, reply in replies.items():
        attempt.take(resigned(reply, f, "b", mask=bytes(32)) if n == "b" else reply)
    assert attempt.excluded["b"].startswith("small_order")
    assert [k.site for k in attempt.list_keys().keys] == list("acde")


def test_false_shares_are_passed_over_where_enough_others_are_right():
    f = Federation(10)
    attempt = f.run(f.attempt(), {"a": "masked"}, until="consent")
    replies = {n: f.tell(n, attempt.proof()) for n in f.names[1:]}
    lie = tuple(replace(s, value=bytes(33)) for s in replies["b"].seeds)
    replies["b"] = resigned(replies["b"], f, "b", seeds=lie)
    for reply in replies.values():
        attempt.take(reply)
    assert same(attempt.total(), f.sum(f.names[1:]))


def test_a_dealer_whose_shares_rebuild_nothing_fails_the_round_and_is_named():
    f = Federation(5)
    attempt = f.run(f.attempt(), until="keys")
    for n in f.names:
        reply = f.tell(n, attempt.list_keys())
        attempt.take(resigned(reply, f, "b", seed=seed_digest(attempt.session, "b", bytes(32))) if n == "b" else reply)
    f.ask(attempt, attempt.begins(f.terms()))
    f.ask(attempt, dict.fromkeys(f.names, attempt.survivors()))
    f.ask(attempt, dict.fromkeys(f.names, attempt.proof()))
    with pytest.raises(RoundFailed, match="b dealt do not rebuild its secret; try again without it"):
        attempt.total()


def test_a_box_that_does_not_open_costs_its_dealer_one_share_and_nothing_else():
    f = Federation(10)
    attempt = f.run(f.attempt(), until="shares")
    begins = attempt.begins(f.terms())
    torn = begins["c"].deliveries
    begins["c"] = replace(begins["c"], deliveries=(replace(torn[0], sealed=bytes(50)), *torn[1:]))
    f.ask(attempt, begins)
    f.ask(attempt, dict.fromkeys(f.names, attempt.survivors()))
    f.ask(attempt, dict.fromkeys(f.names, attempt.proof()))
    assert same(attempt.total(), f.sum(f.names))


def test_a_box_with_something_else_than_two_shares_in_it_is_kept_for_none():
    f = Federation(10)
    attempt = f.run(f.attempt(), until="shares")
    begin, own = attempt.begins(f.terms())["a"], f.sites["c"].state.attempts[0]
    public = attempt.keys["a"].box
    torn = seal(own.box, public, own.listed, "c", "a", bytes(65))  # what c itself closed, bound as it should be
    begin = replace(begin, deliveries=tuple(replace(d, sealed=torn) if d.dealer == "c" else d for d in begin.deliveries))
    assert isinstance(f.tell("a", begin), Masked)
    assert [held.dealer for held in f.sites["a"].state.attempts[0].held] == list("abdefghij")


def test_a_vector_cannot_be_asked_of_a_site_that_is_given_none():
    f = Federation(4)
    begin = f.run(f.attempt(), until="shares").begins(f.terms())["a"]
    with pytest.raises(ValueError, match="answered with a Contribution"):
        f.sites["a"].answer(begin)


def test_a_well_formed_false_vector_is_not_detected():
    """Stated, not hoped: only the decoded sum's range, or a loss on held-out data, may speak against it."""
    f = Federation(4)
    honest = f.sum(f.names)
    f.vectors["b"] = f.vectors["b"] + 1
    total = f.run(f.attempt()).total()
    assert same(total, honest + 1)


def test_a_message_with_a_byte_too_many_or_too_few_or_an_odd_union_is_malformed():
    f = Federation(4)
    attempt = f.run(f.attempt(), until="masked")
    second = f.run(f.attempt(f.session(attempt=2)), until="shares").begins(f.terms(), [voided(attempt.session, [])])["a"]
    sent = [attempt.open(), attempt.list_keys(), second, attempt.survivors(), Abandon(attempt.session)]
    for content in map(to_bytes, (*sent, *f.replies)):
        assert to_bytes(from_bytes(content)) == content
        for other in (content + b"\0", content[:-1], b""):
            with pytest.raises(AggregationRefused) as refused:
                from_bytes(other)
            assert refused.value.check == "malformed"
    content, outcome = to_bytes(second), codec.encode(second.history[0])
    assert content.count(b"\2" + outcome) == 1  # the second of the two ways in which an attempt may have ended
    for other in (b"\0", b"\0" + outcome, b"\1" + outcome, b"\3" + outcome):
        with pytest.raises(AggregationRefused) as refused:
            from_bytes(content.replace(b"\2" + outcome, other))
        assert refused.value.check == "malformed"


@pytest.mark.parametrize("kind", [Open, Begin, Masked, Unmasking])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_bytes_that_are_no_message_are_refused_as_malformed_never_taken_for_one(kind, data):
    content = bytes([TYPES.index(kind)]) + data.draw(st.binary(max_size=200))
    try:
        message = from_bytes(content)
    except AggregationRefused as refused:
        assert refused.check in {"malformed", "version"}
    else:
        assert to_bytes(message) == content
