"""A site that is killed between any two changes of its disk, and one whose disk is put back to an older state."""

from collections.abc import Callable

import pytest
from secagg_federation import Federation, same

from privacy.secure_aggregation.graph import least_threshold, most_colluders
from privacy.secure_aggregation.messages import Abandon, Survivors, to_bytes
from privacy.secure_aggregation.store import Memory

MODELS = (b"0" * 32, b"1" * 32)


class Killed(BaseException):
    """The process ends here."""


class Dying(Memory):
    """Ends the process at its n-th change: just before it, or once it is on the disk."""

    def __init__(self, at: int, done: bool):
        super().__init__()
        self.at, self.done, self.changes = at, done, 0

    def _change(self, change: Callable[[], None]) -> None:
        self.changes += 1
        if self.changes == self.at and not self.done:
            raise Killed
        change()
        if self.changes == self.at:
            raise Killed

    def write(self, name, content):
        self._change(lambda: super(Dying, self).write(name, content))

    def delete(self, name):
        self._change(lambda: super(Dying, self).delete(name))


class Revived(Federation):
    """A site that is killed is started again from its store, and asked again."""

    def tell(self, name, message, terms=None):
        try:
            return super().tell(name, message, terms)
        except Killed:
            self.sites[name] = self.make(name)
            return super().tell(name, message, terms)


def two_rounds(at: int, done: bool) -> int:
    """A round whose first attempt is abandoned, and another round; every sum is over all sites.  How often site a's disk changed."""
    f = Revived(4)
    f.stores["a"] = store = Dying(at, done)
    f.sites["a"] = f.make("a")
    given_up = f.run(f.attempt(), until="shares")
    for name in f.names:
        f.tell(name, Abandon(given_up.session))
    for number, model in enumerate(MODELS):
        attempt = f.run(f.attempt(f.session(round=number, attempt=2)), terms=f.terms(model))
        assert attempt.excluded == {} and same(attempt.total(), f.sum(f.names))
        assert {to_bytes(attempt.unmaskings["a"])} == {to_bytes(f.tell("a", attempt.proof()))}
    return store.changes


@pytest.mark.parametrize("done", [False, True], ids=["before the change", "after it"])
def test_a_site_killed_at_any_change_of_its_disk_goes_on_and_no_sum_lacks_it(done):
    changes = two_rounds(0, done)
    assert changes > 15
    for at in range(1, changes + 1):
        two_rounds(at, done)


def signed_by(put_back: int, sites: int = 10) -> tuple[int, int]:
    """How many sign each of two lists of one attempt, where so many sites sign one, are put back to before, and are shown the other."""
    f = Federation(sites)
    attempt = f.run(f.attempt(), until="masked")
    t = least_threshold(sites)
    first, second = (
        Survivors(attempt.session, alive, gone) for alive, gone in ((tuple(f.names), ()), (tuple(f.names[:-1]), (f.names[-1],)))
    )
    back = f.names[:put_back]
    ahead = [*back, *f.names[sites - (t - put_back) :]]  # with the last site, which the second list calls dropped
    before = {name: dict(f.stores[name].contents) for name in back}
    full = [f.tell(name, first) for name in ahead]
    for name in back:
        f.stores[name].contents = before[name]
        f.sites[name] = f.make(name)
    other = [f.tell(name, second) for name in f.names]
    return tuple(sum(hasattr(reply, "list") for reply in replies) for replies in (full, other))


def test_a_site_whose_disk_is_put_back_is_one_liar_more_and_within_the_bound_no_second_list_is_signed():
    bound, t = most_colluders(10, least_threshold(10)), least_threshold(10)
    assert [signed_by(count) for count in (0, bound, bound + 1)] == [(t, 3), (t, t - 1), (t, t)]
