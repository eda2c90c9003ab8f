"""What a lying coordinator may try, each refused by the name of one check; and each check removed, to see that it carries weight."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from secagg_federation import Federation, check_of, resigned

from fedvision.errors import AggregationRefused
from privacy.secure_aggregation import Identity, Member, Pinned, Roster, endorse
from privacy.secure_aggregation import roster as roster_module
from privacy.secure_aggregation import site as site_module
from privacy.secure_aggregation import thresholds as thresholds_module
from privacy.secure_aggregation.checks import CHECKS, require
from privacy.secure_aggregation.coordinator import voided
from privacy.secure_aggregation.graph import neighbourhood
from privacy.secure_aggregation.messages import (
    Abandon,
    Begin,
    Consent,
    Delivery,
    KeyList,
    Open,
    Proof,
    Refusal,
    Released,
    Survivors,
    Terms,
    Voided,
    list_digest,
    sign,
)

VIOLATIONS: list[tuple[str, str, Callable[[], str]]] = []


def violation(check: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """A scenario whose return value is what the attacked site answered; its name is the sentence."""

    def register(scenario: Callable[[], object]) -> Callable[[], object]:
        VIOLATIONS.append((scenario.__name__, check, scenario))
        return scenario

    return register


def refused_by(scenario: Callable[[], object]) -> str:
    try:
        return check_of(scenario())
    except AggregationRefused as refused:
        return refused.check


def split(f: Federation, dropped: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(n for n in f.names if n not in dropped), tuple(dropped)


# -------------------------------------------------------------------------------------------------- form, order, replays


@violation("version")
def a_message_of_another_version():
    f = Federation(4)
    return f.sites["a"].answer(Open(f.session(), version=2))


@violation("malformed")
def a_list_of_keys_out_of_order():
    f = Federation(4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    return f.tell("a", replace(keys, keys=keys.keys[::-1]))


@violation("malformed")
def a_list_of_keys_with_one_site_twice():
    f = Federation(4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    return f.tell("a", replace(keys, keys=(*keys.keys, keys.keys[-1])))


@violation("malformed")
def a_cohort_without_the_site_itself():
    f = Federation(4)
    begin = f.run(f.attempt(), until="shares").begins(f.terms())["a"]
    return f.tell("a", replace(begin, cohort=("b", "c", "d")))


@violation("malformed")
def boxes_out_of_the_order_of_their_dealers():
    f = Federation(4)
    begin = f.run(f.attempt(), until="shares").begins(f.terms())["a"]
    return f.tell("a", replace(begin, deliveries=begin.deliveries[::-1]))


@violation("malformed")
def an_earlier_attempt_with_two_outcomes():
    f = Federation(4)
    begin = f.run(f.attempt(), until="shares").begins(f.terms())["a"]
    other = f.session(round=7)
    return f.tell("a", replace(begin, history=(Voided(other, ()), Released(other, b"", (), (), ()))))


@violation("order")
def shares_asked_for_an_attempt_that_was_never_opened():
    f = Federation(4)
    return f.tell("a", KeyList(f.session(), ()))


@violation("order")
def a_vector_asked_for_before_shares_were_dealt():
    f = Federation(4)
    begin = f.run(f.attempt(), {"a": "shares"}, until="shares")
    begin.shares["a"] = replace(begin.shares["b"], site="a")
    return f.tell("a", begin.begins(f.terms())["a"])


@violation("order")
def a_list_to_sign_before_the_vector_was_sent():
    f = Federation(4)
    f.run(f.attempt(), until="shares")
    return f.tell("a", Survivors(f.session(), ("a", "b", "c"), ("d",)))


@violation("order")
def a_proof_before_the_vector_was_sent():
    f = Federation(5)
    attempt = f.run(f.attempt(), {"a": "masked"}, until="consent")
    return f.tell("a", attempt.proof())


@violation("order")
def a_vector_asked_for_again_that_is_no_longer_kept():
    f = Federation(4)
    attempt = f.run(f.attempt(), until="masked")
    for name in [name for name in f.stores["a"].contents if name.startswith("body")]:
        f.stores["a"].delete(name)
    return f.tell("a", attempt.begins(f.terms())["a"])


@violation("order")
def a_signed_list_abandoned():
    f = Federation(4)
    attempt = f.run(f.attempt(), until="consent")
    return f.tell("a", Abandon(attempt.session))


@violation("order")
def an_abandoned_attempt_opened_again():
    f = Federation(4)
    f.tell("a", Abandon(f.session()))
    return f.tell("a", Open(f.session()))


@violation("round_back")
def a_round_before_the_last_one():
    f = Federation(4)
    f.run(f.attempt(f.session(round=3)))
    return f.tell("a", Open(f.session(round=2)))


@violation("round_back")
def an_attempt_before_the_last_one():
    f = Federation(4)
    f.run(f.attempt(f.session(attempt=3)))
    return f.tell("a", Open(f.session(attempt=2)))


@violation("round_back")
def keys_fetched_ahead_and_used_after_a_later_round():
    f = Federation(4)
    late = f.run(f.attempt(f.session(round=5), 0), until="shares")
    state, kept = f.sites["a"].state, dict(f.stores["a"].contents)
    f.run(f.attempt(f.session(round=6)), terms=f.terms(b"6" * 32))
    f.sites["a"].state = replace(f.sites["a"].state, attempts=state.attempts)  # as if erasing had failed
    f.stores["a"].contents |= {name: content for name, content in kept.items() if name.startswith("keys")}
    return f.tell("a", late.begins(f.terms())["a"])


# ------------------------------------------------------------------------------------------------------------ the roster


@violation("roster")
def a_session_under_another_roster():
    f = Federation(4)
    return f.tell("a", Open(replace(f.session(), roster=b"r" * 32)))


@violation("roster")
def a_roster_at_joining_whose_fingerprint_is_another():
    f = Federation(4)
    return Pinned.join(endorse(f.roster, [f.authority]), b"r" * 32, 3)


def newer(f: Federation, version: int = 2, drop: str = "", add: int = 1, signer: Identity | None = None, approve: bool = True) -> object:
    """What site "a" makes of a roster without the sites of `drop`, with `add` new ones."""
    members = [m for m in f.roster.members if m.site not in drop] + [Member(f"x{i:02}", Identity.fresh().public) for i in range(add)]
    roster = Roster(f.roster.federation, version, tuple(members), f.roster.authorities, 1)
    pinned = f.sites["a"].pinned
    if approve:
        pinned.approve(roster.fingerprint)
    pinned.adopt(endorse(roster, [signer or f.authority]))
    return pinned


@violation("roster_signature")
def a_roster_that_the_coordinator_signed_itself():
    return newer(Federation(4), signer=Identity.fresh())


@violation("roster_version")
def an_older_roster():
    return newer(Federation(4), version=1)


@violation("roster_shrinks")
def a_roster_of_strangers_around_one_site():
    return newer(Federation(10), drop="cdefghij", add=20)


@violation("roster_shrinks")
def a_roster_with_the_same_names_and_other_keys():
    f = Federation(4)
    members = tuple(m if m.site == "a" else replace(m, key=Identity.fresh().public) for m in f.roster.members)
    roster = replace(f.roster, version=2, members=members)
    f.sites["a"].pinned.approve(roster.fingerprint)
    return f.sites["a"].pinned.adopt(endorse(roster, [f.authority]))


@violation("not_approved")
def a_newer_roster_that_nobody_at_the_site_approved():
    return newer(Federation(4), approve=False)


@violation("not_approved")
def a_rule_for_additions_stretched_to_a_removal():
    f = Federation(5)
    f.sites["a"].pinned.allow_additions = True
    return newer(f, drop="b", approve=False)


@violation("stranger")
def a_site_beyond_the_roster_among_the_keys():
    f = Federation(4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    stranger = resigned(keys.keys[-1], f, "d", site="z")
    return f.tell("a", replace(keys, keys=(*keys.keys, stranger)))


@violation("stranger")
def a_site_in_the_cohort_that_is_not_among_the_keys():
    f = Federation(5)
    attempt = f.run(f.attempt(), {"e": "keys"}, until="shares")
    begin = attempt.begins(f.terms())["a"]
    return f.tell("a", replace(begin, cohort=(*begin.cohort, "e")))


# --------------------------------------------------------------------------------------------------------- keys and terms


@violation("key_signature")
def a_key_swapped_for_the_coordinators_own():
    f = Federation(4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    return f.tell("a", replace(keys, keys=(keys.keys[0], replace(keys.keys[1], mask=Identity.fresh().public), *keys.keys[2:])))


@violation("key_signature")
def two_sites_keys_swapped():
    f = Federation(4)
    a, b, c, d = f.run(f.attempt(), until="keys").list_keys().keys
    return f.tell("a", KeyList(f.session(), (a, replace(c, site="b"), replace(b, site="c"), d)))


@violation("key_signature")
def keys_replayed_from_another_round():
    f = Federation(4)
    old = f.run(f.attempt(), until="keys").keys
    new = f.run(f.attempt(f.session(round=1)), until="keys").list_keys()
    return f.tell("a", replace(new, keys=tuple(old["b"] if k.site == "b" else k for k in new.keys)))


@violation("key_signature")
def keys_replayed_from_another_run():
    f = Federation(4)
    old = f.run(f.attempt(f.session(run="before")), until="keys").keys
    new = f.run(f.attempt(), until="keys").list_keys()
    return f.tell("a", replace(new, keys=tuple(replace(old["b"], session=new.session) if k.site == "b" else k for k in new.keys)))


@violation("key_signature")
def a_shrunk_threshold():
    f = Federation(10, asks={"b": 9})
    keys = f.run(f.attempt(), until="keys").list_keys()
    return f.tell("a", replace(keys, keys=tuple(replace(k, threshold=0) for k in keys.keys)))


@violation("own_keys")
def the_sites_own_keys_left_out_for_others_under_its_name():
    f = Federation(4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    forged = resigned(keys.keys[0], f, "a", mask=keys.keys[1].mask)  # its identity key was stolen
    return f.tell("a", replace(keys, keys=(forged, *keys.keys[1:])))


@violation("small_order")
def a_colluding_site_with_a_key_whose_secrets_everybody_knows():
    f = Federation(4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    weak = resigned(keys.keys[1], f, "b", box=bytes(32))
    return f.tell("a", replace(keys, keys=(keys.keys[0], weak, *keys.keys[2:])))


@violation("threshold")
def a_list_of_keys_of_too_few_sites_for_a_minimum_cohort():
    f = Federation(4, minimum=4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    return f.tell("a", replace(keys, keys=keys.keys[:3]))


@violation("threshold")
def a_cohort_shrunk_below_the_threshold():
    f = Federation(10)
    begin = f.run(f.attempt(), until="shares").begins(f.terms())["a"]
    few = tuple("abcdef")
    return f.tell("a", replace(begin, cohort=few, deliveries=tuple(d for d in begin.deliveries if d.dealer in few)))


@violation("second_key_list")
def shares_asked_for_over_another_list_of_keys():
    f = Federation(10)
    attempt = f.run(f.attempt(), until="shares")
    return f.tell("a", KeyList(f.session(), attempt.list_keys().keys[:-1]))


@violation("second_begin")
def a_second_model_in_the_same_attempt():
    f = Federation(4)
    attempt = f.run(f.attempt(), until="masked")
    other = f.terms(b"n" * 32)
    return f.tell("a", replace(attempt.begins(f.terms())["a"], terms=other), other)


@violation("second_begin")
def a_second_cohort_in_the_same_attempt():
    f = Federation(10)
    attempt = f.run(f.attempt(), until="masked")
    begin = attempt.begins(f.terms())["a"]
    kept = tuple(d for d in begin.deliveries if d.dealer != "j")
    return f.tell("a", replace(begin, cohort=begin.cohort[:-1], deliveries=kept))


def begun_with(**changes: object) -> object:
    f = Federation(4)
    return f.tell("a", f.run(f.attempt(), until="shares").begins(replace(f.terms(), **changes))["a"], f.terms())


for name, changes in {
    "another_model": {"model": b"n" * 32}, "another_layout": {"layout": "other"}, "another_clip": {"clip": 100.0},
    "another_scale": {"scale": 1.0}, "another_ring": {"rings": (Federation(2, bits=64).rings[0],)},
}.items():  # fmt: skip

    def scenario(changes: dict[str, object] = changes) -> object:
        return begun_with(**changes)

    scenario.__name__ = f"{name}_than_the_site_computed"
    violation("terms")(scenario)


# ------------------------------------------------------------------------------------------------------ the drawn graph


def large() -> tuple[Federation, object]:
    f = Federation(80)
    attempt = f.run(f.attempt(), until="keys")
    attempt.take(f.tell("s0000", attempt.list_keys()))
    return f, attempt


@violation("in_degree")
def more_sites_that_drew_this_one_than_chance_explains():
    f, _ = large()
    assert neighbourhood(80, 54).in_degree < 79
    boxes = tuple(Delivery(name, b"") for name in f.names[1:])
    return f.tell("s0000", Begin(f.session(), f.terms(), tuple(f.names), (), boxes))


@violation("few_neighbours")
def a_cohort_without_the_neighbours_that_the_site_drew():
    f, attempt = large()
    drawn = [box.holder for box in attempt.shares["s0000"].boxes if box.holder != "s0000"]
    cohort = tuple(n for n in f.names if n not in drawn[:26])
    assert len(cohort) >= attempt.thresholds.survivors
    return f.tell("s0000", Begin(f.session(), f.terms(), cohort, (), ()))


# ------------------------------------------------------------------------------------- second sums, and survivor lists


@violation("history")
def a_second_vector_for_the_same_round_after_a_claimed_failure():
    f = Federation(4)
    f.run(f.attempt(), until="consent")
    second = f.run(f.attempt(f.session(attempt=2)), until="shares")
    return f.tell("a", second.begins(f.terms())["a"])


@violation("history")
def a_second_sum_for_the_same_model_in_another_round():
    f = Federation(4)
    f.run(f.attempt())
    second = f.run(f.attempt(f.session(round=1)), until="shares")
    return f.tell("a", second.begins(f.terms())["a"])


@violation("history")
def a_second_sum_for_the_same_model_in_another_run():
    f = Federation(4)
    f.run(f.attempt())
    second = f.run(f.attempt(f.session(run="again")), until="shares")
    return f.tell("a", second.begins(f.terms())["a"])


@violation("history")
def another_model_in_the_same_round():
    f = Federation(4)
    f.run(f.attempt())
    second = f.run(f.attempt(f.session(attempt=2)), until="shares")
    other = f.terms(b"n" * 32)
    return f.tell("a", second.begins(other)["a"], other)


@violation("history")
def an_attempt_called_abandoned_by_too_few():
    f = Federation(10)
    first = f.run(f.attempt(), dict.fromkeys("ghij", "masked"), until="masked")
    words = [f.tell(n, Abandon(first.session)) for n in "defghi"]
    second = f.run(f.attempt(f.session(attempt=2)), until="shares")
    return f.tell("a", second.begins(f.terms(), [voided(first.session, words * 2)])["a"])


@violation("history")
def a_list_shown_with_signatures_on_another():
    f = Federation(10)
    first = f.run(f.attempt(), until="consent").outcome()
    false = replace(first, alive=tuple(f.names[:7]), dropped=tuple(f.names[7:]))
    second = f.run(f.attempt(f.session(attempt=2)), until="shares")
    return f.tell("a", second.begins(f.terms(), [false])["a"])


@violation("history")
def a_list_shown_over_a_transcript_that_the_site_did_not_mask_for():
    f = Federation(4)
    first = f.run(f.attempt(), until="consent").outcome()
    false = replace(first, transcript=b"t" * 32)
    second = f.run(f.attempt(f.session(attempt=2)), until="shares")
    return f.tell("a", second.begins(f.terms(), [false])["a"])


def asked_to_sign(dropped: str, alive: str | None = None, n: int = 10) -> object:
    f = Federation(n)
    f.run(f.attempt(), until="masked")
    left, gone = split(f, dropped)
    return f.tell("a", Survivors(f.session(), left if alive is None else tuple(alive), gone))


@violation("partition")
def a_site_both_alive_and_dropped():
    return asked_to_sign("j", "abcdefghij")


@violation("partition")
def a_site_neither_alive_nor_dropped():
    return asked_to_sign("j", "abcdefgh")


@violation("partition")
def a_survivor_beyond_the_cohort():
    return asked_to_sign("", "abcdefghijk")


@violation("partition")
def a_survivor_twice():
    return asked_to_sign("", "abcdefghijj")


@violation("few_survivors")
def fewer_survivors_than_the_threshold():
    return asked_to_sign("ghij")


@violation("not_alive")
def a_list_in_which_the_asked_site_is_dropped():
    return asked_to_sign("a")


@violation("atoms")
def four_lists_over_ten_sites_that_isolate_one():
    f = Federation(10)
    history = []
    for attempt, dropped in enumerate(("", "abc", "def", "ghi"), 1):
        session = f.session(attempt=attempt)
        until = "consent" if attempt < 4 else "masked"
        a = f.run(f.attempt(session), dict.fromkeys(dropped, "masked"), history=history, until=until)
        if attempt < 4:
            history.append(a.outcome())
    return f.tell("j", a.survivors())


@violation("atoms")
def the_same_round_without_one_site():
    f = Federation(10)
    first = f.run(f.attempt(), until="consent")
    second = f.run(f.attempt(f.session(attempt=2)), {"j": "masked"}, history=[first.outcome()], until="masked")
    return f.tell("a", second.survivors())


@violation("atoms")
def another_list_for_the_same_model_in_a_later_round():
    f = Federation(10)
    first = f.run(f.attempt(), until="consent")
    second = f.run(f.attempt(f.session(round=9)), {"j": "masked"}, history=[first.outcome()], until="masked")
    return f.tell("a", second.survivors())


@violation("second_list")
def another_list_after_one_was_signed():
    f = Federation(10)
    f.run(f.attempt(), until="consent")
    return f.tell("a", Survivors(f.session(), *split(f, "j")))


def proof_of(f: Federation, signers: str, dropped: str = "", **changes: object) -> Proof:
    """A proof of a list that honest sites did not sign, by signers who lie."""
    attempt = f.run(f.attempt(), until="masked")
    alive, gone = split(f, dropped)
    wanted = list_digest(attempt.transcript, alive, gone)
    consents = tuple(sign(Consent(attempt.session, n, wanted), f.identities[n]) for n in signers)
    return Proof(attempt.session, alive, gone, consents)


@violation("second_list")
def an_answer_for_a_second_list_that_enough_have_signed():
    f = Federation(10)
    f.run(f.attempt())
    alive, gone = split(f, "j")
    return f.tell("a", Proof(f.session(), alive, gone, ()))


@violation("few_consents")
def a_list_with_too_few_signatures():
    f = Federation(10)
    return f.tell("a", proof_of(f, "abcdef"))


@violation("few_consents")
def a_list_with_one_signature_many_times():
    f = Federation(10)
    return f.tell("a", proof_of(f, "abcdefffff"))


@violation("few_consents")
def a_list_signed_by_dropped_sites():
    f = Federation(10)
    return f.tell("a", proof_of(f, "defghij", dropped="hij"))


@violation("few_consents")
def signatures_replayed_from_another_attempt():
    f = Federation(4)
    old = f.run(f.attempt(), until="consent")
    new = f.run(f.attempt(f.session(attempt=2)), history=[old.outcome()], until="masked")
    replayed = tuple(replace(c, session=new.session, list=list_digest(new.transcript, tuple("abcd"), ())) for c in old.consents.values())
    return f.tell("a", Proof(new.session, tuple("abcd"), (), replayed))


# ------------------------------------------------------------------------------------------------------------ the tests


@pytest.mark.parametrize(("check", "scenario"), [(c, s) for _, c, s in VIOLATIONS], ids=[n for n, _, _ in VIOLATIONS])
def test_a_site_refuses_by_the_name_of_the_check(check, scenario):
    assert refused_by(scenario) == check


def test_every_check_has_a_violation_and_every_violation_a_check():
    assert {check for _, check, _ in VIOLATIONS} == set(CHECKS)


STILL_REFUSED = {  # with its own check removed, the violation runs into this one, or into what is not there
    "a_cohort_shrunk_below_the_threshold": "few_neighbours",
    "a_colluding_site_with_a_key_whose_secrets_everybody_knows": "ValueError",
    "a_list_of_keys_with_one_site_twice": "ValueError",
    "a_list_to_sign_before_the_vector_was_sent": "partition",
    "a_proof_before_the_vector_was_sent": "few_consents",
    "a_site_beyond_the_roster_among_the_keys": "key_signature",
    "a_vector_asked_for_before_shares_were_dealt": "AssertionError",
    "shares_asked_for_an_attempt_that_was_never_opened": "AssertionError",
}


def without(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def others(name: str, holds: bool, reason: str) -> None:
        if name != check:
            require(name, holds, reason)

    for module in (site_module, thresholds_module, roster_module):
        monkeypatch.setattr(module, "require", others)


@pytest.mark.parametrize(("sentence", "check", "scenario"), VIOLATIONS, ids=[n for n, _, _ in VIOLATIONS])
def test_without_the_check_the_violation_goes_through(sentence, check, scenario, monkeypatch):
    """The mutation: each check carries weight, or another one is named that carries it too."""
    without(check, monkeypatch)
    try:
        reply = refused_by(scenario)
    except (ValueError, AssertionError) as error:
        reply = type(error).__name__
    assert reply == STILL_REFUSED.get(sentence, "")


def test_a_refusal_says_what_was_refused_and_why():
    f = Federation(10)
    reply = asked_to_sign("j", "abcdefghij")
    assert isinstance(reply, Refusal)
    assert reply.reason == "the list does not put each site of the cohort among the alive or the dropped, once"
    assert f.terms() == Terms(b"m" * 32, "layout", 1.0, 65536.0, f.rings)
