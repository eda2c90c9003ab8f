"""Lies in one attempt: messages of a wrong form, out of order, replayed, or with keys and terms that are not the site's."""

from dataclasses import replace

from secagg_federation import Federation, resigned
from secagg_violations import Violations

from privacy.secure_aggregation import Identity
from privacy.secure_aggregation.messages import Abandon, Delivery, KeyList, Open, Released, Survivors, Voided

violation = Violations()


# ---------------------------------------------------------------------------------------------------- form, order, replays


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
def a_cohort_out_of_the_order_of_its_names():
    f = Federation(4)
    begin = f.run(f.attempt(), until="shares").begins(f.terms())["a"]
    return f.tell("a", replace(begin, cohort=begin.cohort[::-1]))


@violation("malformed")
def boxes_out_of_the_order_of_their_dealers():
    f = Federation(4)
    begin = f.run(f.attempt(), until="shares").begins(f.terms())["a"]
    return f.tell("a", replace(begin, deliveries=begin.deliveries[::-1]))


@violation("malformed")
def a_box_that_the_site_is_said_to_have_sent_itself():
    f = Federation(4)
    begin = f.run(f.attempt(), until="shares").begins(f.terms())["a"]
    return f.tell("a", replace(begin, deliveries=(Delivery("a", b""), *begin.deliveries)))


@violation("malformed")
def a_message_that_only_sites_send():
    f = Federation(4)
    return f.tell("a", f.tell("b", Open(f.session())))


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


# --------------------------------------------------------------------------------------------------------- keys and terms


@violation("key_signature")
def a_key_swapped_for_the_coordinators_own():
    f = Federation(4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    return f.tell("a", replace(keys, keys=(keys.keys[0], replace(keys.keys[1], mask=Identity.fresh().public), *keys.keys[2:])))


@violation("key_signature")
def keys_of_another_version():
    f = Federation(4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    return f.tell("a", replace(keys, keys=(keys.keys[0], resigned(keys.keys[1], f, "b", version=2), *keys.keys[2:])))


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
