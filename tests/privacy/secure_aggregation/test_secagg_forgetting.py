"""What a site lets go of over a long run, and that it refuses whatever it could no longer judge."""

import copy

import pytest
from secagg_federation import Federation, check_of

from privacy.secure_aggregation.coordinator import abandon
from privacy.secure_aggregation.lists import MARK, is_marked, mark
from privacy.secure_aggregation.store import Memory

MODELS = [bytes([n]) * 32 for n in range(40)]


@pytest.fixture(scope="module")
def forty_rounds() -> Federation:
    f = Federation(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("privacy.secure_aggregation.state.KEPT", 3)
        for number, model in enumerate(MODELS):
            f.run(f.attempt(f.session(round=number)), terms=f.terms(model))
    return f


@pytest.fixture
def long_run(monkeypatch: pytest.MonkeyPatch, forty_rounds: Federation) -> Federation:
    """Four sites after 40 rounds, which keep the records of 3 to 5: each test's own."""
    monkeypatch.setattr("privacy.secure_aggregation.state.KEPT", 3)
    f = copy.copy(forty_rounds)
    f.stores = {name: Memory() for name in f.names}
    for name, store in forty_rounds.stores.items():
        f.stores[name].contents |= store.contents
    f.sites = {name: f.make(name) for name in f.names}
    return f


def begun(f: Federation, round: int, model: bytes) -> set[str]:
    """By which checks the sites refuse a round from a model, without any history."""
    attempt = f.run(f.attempt(f.session(round=round)), until="shares")
    return {check_of(reply) for reply in f.ask(attempt, attempt.begins(f.terms(model)), f.terms(model)).values()}


def test_a_long_run_keeps_the_records_of_its_last_rounds_and_a_mark_of_each_older_model(long_run):
    for name, site in long_run.sites.items():
        assert 3 <= len(site.state.taken) < 6
        marks = long_run.stores[name].read("models")
        assert len(marks) == MARK * (40 - len(site.state.taken))
        assert all(is_marked(marks, m) for m in MODELS[:34])
        assert not is_marked(marks, MODELS[-1])
        assert len(long_run.stores[name].read("state")) < 8000


def test_a_second_vector_for_a_model_whose_record_was_let_go_is_refused_and_for_a_new_one_it_is_given(long_run):
    for old in (0, 20, 33):
        assert begun(long_run, 50 + old, MODELS[old]) == {"history"}
    assert begun(long_run, 90, MODELS[-1]) == {"history"}  # kept whole: it wants the proof
    assert begun(long_run, 91, b"n" * 32) == {""}


def test_how_a_round_ended_whose_record_was_let_go_is_not_said_again(long_run):
    for name in long_run.names:
        assert check_of(long_run.tell(name, abandon(long_run.session(round=3)))) == "order"
        assert check_of(long_run.tell(name, abandon(long_run.session(round=39)))) == "order"  # kept, and its list is signed


def test_a_site_that_is_started_again_has_let_go_of_the_same(long_run):
    long_run.restart = True
    assert begun(long_run, 50, MODELS[5]) == {"history"}
    assert begun(long_run, 51, b"n" * 32) == {""}


def test_a_record_of_an_open_attempts_model_is_kept_however_old(monkeypatch):
    monkeypatch.setattr("privacy.secure_aggregation.state.KEPT", 2)
    f = Federation(4)
    first = f.run(f.attempt(f.session(run="slow")), terms=f.terms(MODELS[0]))
    slow = f.run(f.attempt(f.session(run="slow", round=1)), terms=f.terms(MODELS[0]), history=[first.outcome()], until="masked")
    for number in range(1, 12):
        f.run(f.attempt(f.session(run="fast", round=number)), terms=f.terms(MODELS[number]))
    for site in f.sites.values():
        assert sum(t.model == MODELS[0] for t in site.state.taken) == 2
    list_of = slow.survivors()
    assert {check_of(reply) for reply in f.ask(slow, dict.fromkeys(f.names, list_of)).values()} == {""}


def test_a_record_of_the_round_that_a_run_is_in_is_kept_however_old(monkeypatch):
    """Another model in the same round is judged by the list that was signed in it."""
    monkeypatch.setattr("privacy.secure_aggregation.state.KEPT", 2)
    f = Federation(4)
    first = f.run(f.attempt(f.session(run="slow")), terms=f.terms(MODELS[0]))
    second = f.run(f.attempt(f.session(run="slow", attempt=2)), terms=f.terms(MODELS[20]), history=[first.outcome()])
    for number in range(1, 12):
        f.run(f.attempt(f.session(run="fast", round=number)), terms=f.terms(MODELS[number]))
    third, other = f.attempt(f.session(run="slow", attempt=3)), f.terms(MODELS[30])
    f.run(third, until="shares")
    assert {check_of(reply) for reply in f.ask(third, third.begins(other, [second.outcome()]), other).values()} == {"history"}
    shown = f.run(f.attempt(f.session(run="slow", attempt=4)), terms=other, history=[first.outcome(), second.outcome()], until="masked")
    assert shown.sent == list(f.names)


def test_a_mark_is_found_where_one_begins_and_nowhere_else():
    a, b = mark(b"a"), mark(b"b")
    assert is_marked(a + b, b"b")
    assert not is_marked(b"x" * 8 + b + b"x" * 8, b"b")
    assert not is_marked(b"", b"a")
