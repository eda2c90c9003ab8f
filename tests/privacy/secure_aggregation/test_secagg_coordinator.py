"""What an honest coordinator does not take: each by name, and the round goes on without its sender; and rosters that are none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from secagg_federation import Federation, resigned, same

from fedvision.errors import AggregationRefused, RoundFailed
from privacy.secure_aggregation import Attempt, Member, Pinned, endorse, shamir
from privacy.secure_aggregation.coordinator import abandon, voided
from privacy.secure_aggregation.messages import (
    VERSION,
    Abandon,
    Abandoned,
    Consent,
    Masked,
    Refusal,
    Shares,
    Unmasking,
    from_bytes,
    share_digest,
    to_bytes,
)
from privacy.secure_aggregation.primitives import KeyPair

SPOILT = b"\0" * 64  # a signature of nobody
SPOILERS: list[tuple[str, str, str, Callable[[Federation, Any], Any]]] = [
    # sentence, stage of the message, the coordinator's reason, what site b sends in the place of its own
    ("keys that their site has not signed", "keys", "signature", lambda f, m: replace(m, signature=SPOILT)),
    ("keys of another attempt", "keys", "session", lambda f, m: resigned(m, f, "b", session=f.session(attempt=9))),
    ("keys of another version", "keys", "version", lambda f, m: resigned(m, f, "b", version=2)),
    ("a message that belongs to no stage", "keys", "unexpected", lambda f, m: f.tell("b", Abandon(m.session))),
    ("a refusal", "keys", "roster", lambda f, m: Refusal(m.session, "b", "roster", "not mine")),
    ("a key for boxes whose shared secrets anybody knows", "keys", "small_order", lambda f, m: resigned(m, f, "b", box=bytes(32))),
    ("two shares for one holder", "shares", "malformed", lambda f, m: resigned(m, f, "b", boxes=(*m.boxes[:2], *m.boxes[1:-1]))),
    (
        "a share for a stranger",
        "shares",
        "malformed",
        lambda f, m: resigned(m, f, "b", boxes=(*m.boxes[:-1], replace(m.boxes[-1], holder="z"))),
    ),
    ("a share too few", "shares", "malformed", lambda f, m: resigned(m, f, "b", boxes=m.boxes[:-1])),
    ("shares over another list of keys", "shares", "transcript", lambda f, m: resigned(m, f, "b", transcript=b"t" * 32)),
    ("shares that their site has not signed", "shares", "signature", lambda f, m: replace(m, signature=SPOILT)),
    ("a vector that its site has not signed", "masked", "signature", lambda f, m: replace(m, signature=SPOILT)),
    ("a vector under other masks", "masked", "transcript", lambda f, m: resigned(m, f, "b", transcript=b"t" * 32)),
    ("a consent to another list", "consent", "transcript", lambda f, m: resigned(m, f, "b", list=b"l" * 32)),
    ("a consent that its site has not signed", "consent", "signature", lambda f, m: replace(m, signature=SPOILT)),
    ("shares revealed for another list", "unmasking", "transcript", lambda f, m: resigned(m, f, "b", list=b"l" * 32)),
    ("shares revealed without a signature", "unmasking", "signature", lambda f, m: replace(m, signature=SPOILT)),
]


def run_with(f: Federation, attempt: Attempt, stage: str, spoil: Callable[[Federation, Any], Any]) -> None:
    """A whole round in which site b's message of one stage is spoilt; b is not asked again."""
    makers = {
        "keys": lambda: dict.fromkeys(f.names, attempt.open()),
        "shares": lambda: {k.site: attempt.list_keys() for k in attempt.list_keys().keys},
        "masked": lambda: attempt.begins(f.terms()),
        "consent": lambda: dict.fromkeys(attempt.survivors().alive, attempt.survivors()),
        "unmasking": lambda: dict.fromkeys(attempt.survivors().alive, attempt.proof()),
    }
    for name, make in makers.items():
        for site, message in make().items():
            if site == "b" and "b" in attempt.excluded:
                continue
            reply = f.tell(site, message)
            attempt.take(spoil(f, reply) if (site, name) == ("b", stage) else reply)


@pytest.mark.parametrize(("stage", "reason", "spoil"), [s[1:] for s in SPOILERS], ids=[s[0] for s in SPOILERS])
def test_what_is_not_sound_is_left_out_by_name_and_the_round_goes_on(stage, reason, spoil):
    f = Federation(5)
    attempt = f.attempt()
    run_with(f, attempt, stage, spoil)
    assert attempt.excluded["b"].startswith(f"{reason}: ")
    assert same(attempt.total(), f.sum("abcde" if stage in ("consent", "unmasking") else "acde"))
    assert "b" not in {"consent": attempt.consents, "unmasking": attempt.unmaskings}.get(stage, {})


def test_a_vector_from_a_site_that_dealt_no_shares_is_left_out():
    f = Federation(5)
    attempt = f.run(f.attempt(), {"b": "shares"}, until="masked")
    other = next(reply for reply in f.replies if isinstance(reply, Masked) and reply.site == "a")
    assert not attempt.take(resigned(other, f, "b", site="b"))
    assert attempt.excluded["b"].startswith("stranger: ")
    assert attempt.sent == list("acde")


def test_a_session_of_another_roster_is_no_session_of_this_coordinators():
    f = Federation(4)
    with pytest.raises(AggregationRefused, match="another roster"):
        Attempt(f.roster, replace(f.session(), roster=b"r" * 32))


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(AggregationRefused) as error:
        action()
    return error.value.check


def test_a_roster_whose_sites_are_out_of_order_or_doubled_cannot_be_joined():
    f = Federation(4)
    a, b, c, d = f.roster.members
    for members in ((b, a, c, d), (a, b, c, d, d), (a, b, c, Member("d", a.key))):
        roster = replace(f.roster, members=members)
        assert refused(lambda roster=roster: Pinned.join(endorse(roster, [f.authority]), roster.fingerprint, 3)) == "malformed"


def test_a_roster_that_nobody_need_sign_or_that_one_authority_signs_twice_cannot_be_joined():
    f = Federation(4)
    one = f.authority.public
    for authorities, quorum in (((one,), 0), ((one,), -1), ((one,), 2), ((), 0), ((one, one), 1), ((one, one), 2)):
        roster = replace(f.roster, authorities=authorities, quorum=quorum)
        assert refused(lambda roster=roster: Pinned.join(endorse(roster, [f.authority] * 2), roster.fingerprint, 3)) == "malformed"


def test_a_roster_that_nobody_signed_cannot_be_joined():
    f = Federation(4)
    assert refused(lambda: Pinned.join(endorse(f.roster, []), f.roster.fingerprint, 3)) == "roster_signature"


def test_a_roster_of_another_federation_or_out_of_order_is_not_adopted():
    f = Federation(4)
    pinned = f.sites["a"].pinned
    for roster in (replace(f.roster, federation="other", version=2), replace(f.roster, members=f.roster.members[::-1], version=2)):
        pinned.approve(roster.fingerprint)
        assert refused(lambda roster=roster: pinned.adopt(endorse(roster, [f.authority]))) == "malformed"


def test_an_approved_roster_takes_effect_and_a_quorum_of_two_authorities_wants_two():
    f = Federation(4)
    pinned = f.sites["a"].pinned
    second = replace(f.roster, version=2, authorities=(f.authority.public, f.identities["a"].public), quorum=2)
    pinned.approve(second.fingerprint)
    pinned.adopt(endorse(second, [f.authority]))
    assert pinned.fingerprint == second.fingerprint
    third = replace(second, version=3)
    pinned.approve(third.fingerprint)
    assert refused(lambda: pinned.adopt(endorse(third, [f.authority]))) == "roster_signature"
    pinned.adopt(endorse(third, [f.authority, f.identities["a"]]))
    assert pinned.roster.version == 3


def test_a_rule_for_additions_takes_a_roster_that_only_adds_sites():
    f = Federation(4)
    pinned = f.sites["a"].pinned
    pinned.allow_additions = True
    roster = replace(f.roster, version=2, members=(*f.roster.members, Member("z", b"z" * 32)))
    pinned.adopt(endorse(roster, [f.authority]))
    assert pinned.key("z") == b"z" * 32


def test_a_round_in_which_too_few_sites_deal_shares_ends_before_any_trains():
    f = Federation(5)
    attempt = f.attempt(f.session())
    f.run(attempt, until="shares")
    for site in f.names[3:]:
        del attempt.shares[site]
    with pytest.raises(RoundFailed, match="shares of 3 sites came, and 4 are needed"):
        attempt.begins(f.terms())


def test_what_a_site_says_a_second_time_or_too_late_is_not_taken_and_puts_nobody_out():
    f = Federation(4)
    attempt = f.attempt()
    stages = (
        lambda: dict.fromkeys(f.names, attempt.open()),
        lambda: dict.fromkeys(f.names, attempt.list_keys()),
        lambda: attempt.begins(f.terms()),
        lambda: dict.fromkeys(f.names, attempt.survivors()),
        lambda: dict.fromkeys(f.names, attempt.proof()),
    )
    before: list[Any] = []
    for messages in stages:
        for site, message in messages().items():
            reply = f.tell(site, message)
            assert attempt.take(reply) and not attempt.take(reply)
            before.append(reply)
        assert not any(attempt.take(reply) for reply in before)
    assert not attempt.excluded and same(attempt.total(), f.sum("abcd"))


@pytest.mark.parametrize("lies", ["the seed of its own mask", "the key of its pairs' masks"])
def test_a_dealer_whose_shares_do_not_rebuild_what_it_committed_to_is_named_and_the_round_fails(lies):
    f = Federation(5)
    attempt = f.attempt()
    f.run(attempt, {"b": "masked"} if "key" in lies else {}, until="unmasking")
    if "key" in lies:
        other = KeyPair.fresh().public
        attempt.listed = replace(attempt.listed, keys=tuple(replace(k, mask=other) if k.site == "b" else k for k in attempt.listed.keys))
    else:
        attempt.shares["b"] = replace(attempt.shares["b"], seed=b"s" * 32)
    with pytest.raises(RoundFailed, match="the shares that b dealt do not rebuild its secret"):
        attempt.total()
    assert attempt.excluded["b"].startswith("false_shares: ")


def test_an_attempt_whose_masks_are_off_is_not_kept():
    f = Federation(4)
    attempt = f.run(f.attempt())
    attempt.total()
    with pytest.raises(ValueError, match="the masks are off"):
        attempt.save()


def test_a_message_of_another_version_is_not_read():
    content = to_bytes(replace(Federation(4).attempt().open(), version=VERSION + 1))
    assert refused(lambda: from_bytes(content)) == "version"


@pytest.mark.parametrize(
    ("kind", "absent", "check"), [(Shares, "keys", "transcript"), (Consent, "masked", "transcript"), (Unmasking, "masked", "transcript")]
)
def test_what_a_site_sends_that_is_not_among_those_asked_is_left_out_by_name(kind, absent, check):
    f = Federation(6)
    attempt = f.run(f.attempt(), {"b": absent}, until={Shares: "shares", Consent: "consent", Unmasking: "unmasking"}[kind])
    other = next(reply for reply in f.replies if isinstance(reply, kind) and reply.site == "a")
    assert not attempt.take(resigned(other, f, "b", site="b"))
    assert attempt.excluded["b"].startswith(f"{check}: ")


def test_a_message_of_nobody_is_left_out():
    f = Federation(4)
    attempt = f.attempt()
    assert not attempt.take(replace(f.tell("a", attempt.open()), site="z"))
    assert attempt.excluded["z"].startswith("session: ")


def test_a_dealer_whose_shares_lie_on_no_secrets_polynomial_is_named_and_the_round_fails():
    f = Federation(5)
    attempt = f.run(f.attempt(), {"b": "masked"})
    places = {keys.site: x for x, keys in enumerate(attempt.listed.keys, 1)}
    dealt = shamir.evaluate([1 << 256, *[7] * (attempt.thresholds.neighbours.threshold - 1)], list(places.values()))
    value = {site: dealt[x] for site, x in places.items()}
    boxes = [
        replace(box, key_digest=share_digest(attempt.session, "b", box.holder, value[box.holder])) for box in attempt.shares["b"].boxes
    ]
    attempt.shares["b"] = replace(attempt.shares["b"], boxes=tuple(boxes))
    for site, said in attempt.unmaskings.items():
        attempt.unmaskings[site] = replace(said, keys=tuple(replace(s, value=value[site]) if s.dealer == "b" else s for s in said.keys))
    with pytest.raises(RoundFailed, match="the shares that b dealt do not rebuild its secret"):
        attempt.total()


def test_of_what_sites_say_of_an_abandoned_attempt_only_words_on_it_are_shown_to_others():
    f = Federation(4)
    attempt = f.run(f.attempt(), until="masked")
    later = f.run(f.attempt(f.session(attempt=2)), until="shares")
    words = [f.tell(site, abandon(attempt.session)) for site in f.names]
    others = [next(reply for reply in f.replies if isinstance(reply, Masked)), f.tell("a", abandon(later.session))]
    assert voided(attempt.session, [*others, *words]).statements == tuple(w for w in words if isinstance(w, Abandoned))
