"""Rosters that change between rounds, and real sites, each with a folder of its own that serves all its runs."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from secagg_federation import Federation, check_of, same

from clients.masked import answer_masked, open_masking
from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.errors import RunFolderError
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.sums import COUNT
from fedvision.types import ClientUpdate, Declined, SecureReply, SecureRequest, SiteId, TrainRequest
from privacy.membership import Membership, new_identity
from privacy.secure_aggregation import Attempt, Identity, Member, Roster, Session, endorse
from privacy.secure_aggregation.messages import Open, Refusal, from_bytes, to_bytes
from privacy.secure_aggregation.terms import terms_of


def test_a_site_that_has_not_adopted_a_newer_roster_takes_no_part_under_it_and_the_others_go_on():
    f = Federation(6)
    old = f.session()
    f.succeed((*f.roster.members[:4], *f.roster.members[5:]), by="abcd")  # without e; f's people have not approved it
    attempt = f.run(f.attempt(), sites="abcdf")
    assert {name: why.split(":")[0] for name, why in attempt.excluded.items()} == {"f": "roster"}
    assert same(attempt.total(), f.sum("abcd"))
    assert check_of(f.tell("a", Open(old))) == "roster"


def test_a_site_that_left_the_roster_is_still_judged_by_and_what_it_signed_still_counts():
    """The next roster lacks a site; the sum without it, from the same model, would be its update."""
    f = Federation(7)
    first = f.run(f.attempt()).outcome()
    f.succeed(f.roster.members[:6], by="abcdef")
    second = f.attempt(f.session(attempt=2))
    f.run(second, until="masked", history=[first], sites="abcdef")
    assert second.sent == list("abcdef")
    assert {check_of(f.tell(name, second.survivors())) for name in "abcdef"} == {"atoms"}


# -------------------------------------------------------------------------------------------------------- real sites


SITES = [SiteId(f"site-{number:03d}") for number in range(4)]


class Hospitals:
    """Four sites with folders of their own.  authority: signs their rosters."""

    def __init__(self, path: Path):
        self.path, self.authority = path, Identity.fresh()
        members = [Member(site, new_identity(path / site / "identity.key").public) for site in SITES]
        self.roster = Roster("lungs", 1, tuple(members), (self.authority.public,), 1)
        for site in SITES:
            Membership.join(path / site, endorse(self.roster, [self.authority]), self.roster.fingerprint, 3)
        values = {
            "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 4}, "federation": {"rounds": 1, "min_replies": 3},
            "model": {"name": "mlp", "width": 4}, "evaluation": {"sites": "none", "server": {}}, "encoding": {"bits": 32},
            "secure_aggregation": {"enabled": True, "min_cohort": 3, "planned_dropouts": 0},
        }  # fmt: skip
        self.experiment = validate(Experiment, values, "the test")
        self.data = open_federated(self.experiment)
        self.benches: dict[str, Workbench] = {}

    def bench(self, run: str) -> Workbench:
        """A run's, whose folders of the sites' states point to theirs."""
        if run not in self.benches:
            for site in SITES:
                (self.path / run / site).mkdir(parents=True)
                (self.path / run / site / "site.json").write_text(json.dumps({"folder": str(self.path / site)}))
            self.benches[run] = Workbench.set_up(self.experiment, self.data.shape, self.data.classes, 4, self.path / run)
        return self.benches[run]

    def tell(self, run: str, site: SiteId, message: Any, train: Any = None, trained: TrainRequest | None = None) -> Any:
        """What the site answers."""
        reply = answer_masked(SecureRequest(run, 0, (to_bytes(message),), trained), self.data.site(site), self.bench(run), train)
        assert isinstance(reply, SecureReply)
        return from_bytes(reply.messages[0])

    def begins(self, run: str) -> tuple[TrainRequest, dict[str, Any]]:
        """A first attempt with keys and shares: what each site is then asked, for the same model in each run."""
        bench, attempt = self.bench(run), Attempt(self.roster, Session(run, 0, 1, self.roster.fingerprint))
        for site in SITES:
            attempt.take(self.tell(run, site, attempt.open()))
        for site in SITES:
            attempt.take(self.tell(run, site, attempt.list_keys()))
        request = TrainRequest(run, 0, 1, {name: tensor * 0 for name, tensor in bench.tensors.items()}, {}, None)
        return request, attempt.begins(terms_of(request, bench.layout, self.experiment.federation.max_update_norm))


@pytest.fixture
def hospitals(tmp_path: Path) -> Hospitals:
    return Hospitals(tmp_path)


def test_of_two_runs_that_ask_a_site_for_the_same_model_at_the_same_time_one_is_refused(hospitals):
    """Each would be judged by a state that the other has not written yet."""
    (first, begins), (second, others) = hospitals.begins("one"), hospitals.begins("two")
    site, said = SITES[0], []

    def train(request: TrainRequest, own: Any, bench: Workbench) -> ClientUpdate:
        if request.run == "one":  # in the middle of the first run's training
            beside.start()
            beside.join(0.2)  # not a wait for a state: it does not end while the first has the folder
        bench.load(request.model, {})
        values = {**bench.updates(request.model), "loss": 0.0, COUNT: 1, "examples": 1}
        return ClientUpdate(own.id, 0, 1, bench.encode(values, 1, None), bench.layout.digest, 0)

    beside = threading.Thread(target=lambda: said.append(hospitals.tell("two", site, others[site], train, second)))
    masked = hospitals.tell("one", site, begins[site], train, first)
    beside.join()
    assert (check_of(masked), check_of(said[0])) == ("", "history")


def test_a_real_site_goes_by_a_newer_roster_only_once_its_people_have_approved_it(hospitals):
    new = replace(hospitals.roster, version=2, members=hospitals.roster.members[:3])
    opening = Open(Session("one", 0, 1, new.fingerprint))
    assert {check_of(hospitals.tell("one", site, opening)) for site in SITES} == {"roster"}
    for site in SITES[:2]:
        member = Membership.read(hospitals.path / site)
        member.approve(new.fingerprint)
        member.adopt(endorse(new, [hospitals.authority]))
    replies = [hospitals.tell("one", site, opening) for site in SITES]
    assert [isinstance(reply, Refusal) for reply in replies] == [False, False, True, True]
    again = Membership.read(hospitals.path / SITES[0]).pinned
    assert again.keys_under(hospitals.roster.fingerprint) == hospitals.roster.keys  # what was signed in its time can still be judged
    assert again.keys_under(b"0" * 32) == {}


def test_a_vector_is_given_for_the_model_of_its_own_run_and_round_or_declined_as_training_was(hospitals):
    request, begins = hospitals.begins("one")
    site, said = SITES[0], Declined(SITES[0], 0, "too_few_examples", "no training data")
    for other in (None, replace(request, round=1), replace(request, run="two")):
        assert check_of(hospitals.tell("one", site, begins[site], None, other)) == "terms"
    asked = SecureRequest("one", 0, (to_bytes(begins[site]),), request)
    assert answer_masked(asked, hospitals.data.site(site), hospitals.bench("one"), lambda *_: said) == said


def test_a_site_without_an_identity_or_a_roster_says_what_it_lacks(hospitals):
    bench = hospitals.bench("one")
    (bench.states.folder / SITES[0] / "site.json").unlink()
    with pytest.raises(RunFolderError, match="has no identity or roster"):
        open_masking(bench.states.folder, SITES[0], bench)
