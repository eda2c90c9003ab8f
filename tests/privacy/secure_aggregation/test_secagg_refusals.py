"""What a lying coordinator may try, each refused by the name of one check; and each check removed, to see that it carries weight."""

import pytest
import violations_of_lists
import violations_of_membership
import violations_of_messages
from secagg_federation import Federation
from secagg_violations import refused_by
from violations_of_lists import asked_to_sign

from privacy.secure_aggregation import roster as roster_module
from privacy.secure_aggregation import site as site_module
from privacy.secure_aggregation import thresholds as thresholds_module
from privacy.secure_aggregation.checks import CHECKS, require
from privacy.secure_aggregation.messages import Refusal, Terms

VIOLATIONS = [*violations_of_messages.violation, *violations_of_membership.violation, *violations_of_lists.violation]


@pytest.mark.parametrize(("check", "scenario"), [(c, s) for _, c, s in VIOLATIONS], ids=[n for n, _, _ in VIOLATIONS])
def test_a_site_refuses_by_the_name_of_the_check(check, scenario):
    assert refused_by(scenario) == check


def test_every_check_has_a_violation_and_every_violation_a_check():
    assert {check for _, check, _ in VIOLATIONS} == set(CHECKS)


STILL_REFUSED = {  # with its own check removed, the violation runs into this one, or into what is not there
    "a_cohort_shrunk_below_the_threshold": "few_neighbours",
    "a_colluding_site_with_a_key_whose_secrets_everybody_knows": "ValueError",
    "a_box_that_the_site_is_said_to_have_sent_itself": "in_degree",
    "a_list_of_keys_with_one_site_twice": "ValueError",
    "a_list_to_sign_before_the_vector_was_sent": "partition",
    "a_message_that_only_sites_send": "KeyError",
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
    except (ValueError, AssertionError, KeyError) as error:
        reply = type(error).__name__
    assert reply == STILL_REFUSED.get(sentence, "")


def test_a_refusal_says_what_was_refused_and_why():
    f = Federation(10)
    reply = asked_to_sign("j", "abcdefghij")
    assert isinstance(reply, Refusal)
    assert reply.reason == "the list does not put each site of the cohort among the alive or the dropped, once"
    assert f.terms() == Terms(b"m" * 32, "layout", 1.0, 65536.0, f.rings)
