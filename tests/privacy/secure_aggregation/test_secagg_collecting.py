"""The coordinator of masked rounds: whom it asks for what, whose words it takes, and what it takes up again."""

from dataclasses import replace
from typing import Any

import pytest
from secagg_runs import Quiet, conducted, experiment, new_folder, rounds, summary

from fedvision.types import Lost, SecureReply
from privacy.secure_aggregation.messages import Begin, Keys, Masked, Refusal, from_bytes, to_bytes
from privacy.secure_aggregation.site import SecureSite


def begun(asked: Any) -> list[str]:
    """The sites that are asked for a vector."""
    return [site for site, request in asked.items() if any(isinstance(from_bytes(m), Begin) for m in request.messages)]


def sent(reply: Any, kind: type) -> bool:
    return isinstance(reply, SecureReply) and any(isinstance(from_bytes(m), kind) for m in reply.messages)


def test_a_message_in_the_name_of_another_site_does_that_site_no_harm(tmp_path):
    """A site that may speak for others could have any of them left out, by one message of theirs that is not sound."""
    e = experiment(True)

    def forging(reply: Any) -> Any:  # of the site that answers first, so that its forgeries come before the true messages
        forged = tuple(to_bytes(replace(m, site="site-006")) for m in map(from_bytes, reply.messages))
        return replace(reply, messages=forged + reply.messages) if reply.site == "site-000" else reply

    folder = new_folder(e, tmp_path / "run")
    assert conducted(folder, e, falsify=forging)[1]["status"] == "completed"
    assert all(len(r["answered"]) == 7 and not r["refused"] for r in rounds(folder.path))


def test_a_second_attempt_is_made_with_keys_of_its_own_and_not_with_those_of_the_next_round(tmp_path):
    e = experiment(True, conditions={"dropout": 0.35}, federation={"rounds": 6, "max_attempts": 30})
    tapped, _ = conducted(new_folder(e, tmp_path / "run"), e)
    begins = [(r.round, m.session) for r in tapped.requests for m in map(from_bytes, r.messages) if isinstance(m, Begin)]
    assert max(session.attempt for round, session in begins if round < 5) > 1
    assert all(session.round == round for round, session in begins)


def test_a_vector_that_was_there_before_a_crash_counts_for_the_model_that_it_was_made_for_alone(tmp_path):
    e = experiment(True, federation={"rounds": 1})
    other = experiment(True, federation={"rounds": 1, "max_update_norm": 1234.0})
    for resumed, again in ((e, False), (other, True)):
        folder = new_folder(e, tmp_path / str(again))
        before, _ = conducted(folder, e, 4)  # keys, shares, vectors; and the list of the survivors is on disk
        assert any(sent(reply, Masked) for reply in before.replies)
        after, ended = conducted(folder, resumed)
        assert ended is not None
        assert any(begun(asked) for asked in after.asked) == again


@pytest.mark.parametrize(
    ("fate", "needed", "again"),
    [
        ("sends", 7, {"site-001"}),
        ("declines", 6, {"site-001"}),
        ("sends rubbish", 6, {"site-001"}),
        ("says nothing", 7, {"site-000", "site-001"}),
    ],
)
def test_while_it_waits_only_those_who_have_not_answered_are_asked_again(tmp_path, fate, needed, again):
    """The fate of `site-000`; `site-001` says nothing twice."""
    changes: dict[str, Any] = {"conditions": {"misbehaving": {"site-000": "raise"}}} if fate == "declines" else {}
    e = experiment(True, federation={"rounds": 1, "min_replies": needed, "on_missing": "wait", "max_attempts": 3}, **changes)
    silent = {"site-001": 2, "site-000": 2 if fate == "says nothing" else 0}

    def fated(reply: Any) -> Any:
        if sent(reply, Masked) and silent.get(reply.site):
            silent[reply.site] -= 1
            return Lost(reply.site, 0, "dropout")
        if sent(reply, Masked) and reply.site == "site-000" and fate == "sends rubbish":
            return replace(reply, messages=tuple(to_bytes(replace(from_bytes(m), body=b"")) for m in reply.messages))
        return reply

    folder = new_folder(e, tmp_path / "run")
    tapped, _ = conducted(folder, e, falsify=fated)
    assert [set(begun(asked)) for asked in tapped.asked if begun(asked)][1:] == [again, again]
    assert len(rounds(folder.path)[0]["answered"]) == needed


def test_what_becomes_of_a_site_that_is_asked_for_the_next_rounds_keys_alone_is_not_of_this_round(tmp_path):
    """Neither among those missing, nor counted as one of the replies that are shown."""
    e = experiment(True, federation={"rounds": 3, "sampling": "fixed", "cohort": 5, "min_replies": 5})
    shown, lost = Counted(), []

    def ahead(reply: Any) -> Any:
        early = sent(reply, Keys) and not sent(reply, Masked) and from_bytes(reply.messages[0]).session.round > 0
        if not early or lost:  # lost once; asked again before its round, it answers
            return reply
        lost.append(reply.site)
        return Lost(reply.site, 0, "dropout")

    folder = new_folder(e, tmp_path / "run")
    conducted(folder, e, falsify=ahead, display=shown)
    assert lost and all(not r["missing"] and len(r["asked"]) == 5 for r in rounds(folder.path))
    assert shown.replies == 3 * 5


class Counted(Quiet):
    """How many rounds and replies were shown."""

    def __init__(self) -> None:
        self.rounds = self.replies = 0

    def round_started(self, *_: Any) -> None:
        self.rounds += 1

    def site_done(self, *_: Any) -> None:
        self.replies += 1


def test_a_site_that_refuses_a_charged_round_is_left_out_by_the_name_of_its_check(tmp_path, monkeypatch):
    """It was charged nothing and sends no entry of its ledger: that is no fault of its own."""
    answer = SecureSite.answer

    def refusing(site: SecureSite, message: Any, contribution: Any) -> Any:
        if site.site == "site-000" and isinstance(message, Begin):
            return Refusal(message.session, site.site, "second_sum", "a sum was given for this model")
        return answer(site, message, contribution)

    monkeypatch.setattr(SecureSite, "answer", refusing)
    private = {"mechanism": "central", "noise_multiplier": 1.0, "delta": 1e-3, "simulation_only_seed": 3}
    summary(tmp_path, True, federation={"rounds": 1, "weighting": "uniform"}, privacy=private)
    assert rounds(tmp_path / "True")[0]["refused"] == {"site-000": "second_sum: a sum was given for this model"}
