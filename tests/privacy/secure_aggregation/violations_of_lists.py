"""Second sums: false histories, survivor lists that isolate a site, and lists that too few have signed."""

from dataclasses import replace

from secagg_federation import Federation
from secagg_violations import Violations, split

from privacy.secure_aggregation import Attempt
from privacy.secure_aggregation.coordinator import voided
from privacy.secure_aggregation.messages import Abandon, Consent, Proof, Released, Survivors, Voided, list_digest, sign

violation = Violations()


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
def an_attempt_called_abandoned_by_words_on_another():
    f = Federation(4)
    first = f.run(f.attempt(), until="consent")
    words = tuple(f.tell(n, Abandon(f.session(run="other"))) for n in f.names)
    second = f.run(f.attempt(f.session(attempt=2)), until="shares")
    return f.tell("a", second.begins(f.terms(), [Voided(first.session, words)])["a"])


@violation("history")
def a_list_shown_with_signatures_of_sites_that_it_calls_dropped():
    f = Federation(10)
    first = f.run(f.attempt(), until="masked")
    alive, dropped = split(f, "j")
    consents = proof_over(f, first, "abcdefj", alive, dropped).consents
    second = f.run(f.attempt(f.session(attempt=2)), until="shares")
    return f.tell("a", second.begins(f.terms(), [Released(first.session, first.transcript, alive, dropped, consents)])["a"])


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


@violation("partition")
def survivors_out_of_the_order_of_their_names():
    return asked_to_sign("", "jihgfedcba")


@violation("partition")
def dropped_sites_out_of_the_order_of_their_names():
    return asked_to_sign("ji", "abcdefgh")


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


def proof_of(f: Federation, signers: str, dropped: str = "") -> Proof:
    """A proof of a list that honest sites did not sign, by signers who lie."""
    return proof_over(f, f.run(f.attempt(), until="masked"), signers, *split(f, dropped))


def proof_over(f: Federation, attempt: Attempt, signers: str, alive: tuple[str, ...], dropped: tuple[str, ...]) -> Proof:
    wanted = list_digest(attempt.transcript, alive, dropped)
    consents = tuple(sign(Consent(attempt.session, n, wanted), f.identities[n]) for n in signers)
    return Proof(attempt.session, alive, dropped, consents)


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
