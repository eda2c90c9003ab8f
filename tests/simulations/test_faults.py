"""Faults at workers and sites: where a fault is retried the run ends at the bytes of one without it; where it is not, the
run goes on and names the site in every round."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_runs import digits, workers

from fedvision.data.federation import Federated
from fedvision.errors import ConfigError
from fedvision.types import SiteId, TrainRequest
from simulations.engines import inline
from simulations.ray_exchange import OnRay
from simulations.ray_trial import fallen
from simulations.ray_trouble import Trouble, Troublemakers
from simulations.ray_worker import CRASHES, Own
from simulations.run import simulate

INLINE = {"name": "inline"}
ALL = {"federation": {"rounds": 2, "on_missing": "stop"}}
DITTO = {"strategy": {"name": "ditto"}, "federation": {"rounds": 4, "sampling": "fixed", "cohort": 5}}


def faults(**kinds: str) -> dict[str, Any]:
    return {"conditions": {"misbehaving": {site.replace("_", "-"): kind for site, kind in kinds.items()}}}


# -------------------------------------------------------------------------------------------- faults that are retried


class EveryOtherRound:
    """An exchange on which a worker is killed with signal 9 in the middle of every other round."""

    def __init__(self, exchange: OnRay):
        self.exchange = exchange
        self.sites, self.clock, self.busy, self.close = exchange.sites, exchange.clock, exchange.busy, exchange.close

    def ask(self, requests: Any) -> Iterator[Any]:
        first = next(iter(requests.values()))
        for number, reply in enumerate(self.exchange.ask(requests)):
            if number == 2 and isinstance(first, TrainRequest) and first.round % 2 == 0:
                os.kill(int(self.exchange.crew.able()[-1].who.split()[1]), signal.SIGKILL)
            yield reply


@pytest.mark.ray
def test_workers_killed_every_other_round_and_a_site_that_hangs_once_move_no_byte(
    a_ray: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, loop = run("loop", INLINE, **DITTO)
    monkeypatch.setattr("simulations.ray_exchange.OnRay", lambda *parts: EveryOtherRound(OnRay(*parts)))
    folder, disturbed = run("disturbed", workers(2, site_seconds=8.0), **DITTO, **faults(site_001="hang_once"))
    assert disturbed["model_sha256"] == loop["model_sha256"] and disturbed["metrics"] == loop["metrics"]
    assert all(record["missing"] == {} and len(record["answered"]) == 5 for record in folder.rounds())
    log = (folder.path / "run.log").read_text()
    assert log.count(" died: ") >= 1 and log.count("took longer than engine.site_seconds = 8") == 1


@pytest.mark.ray
def test_a_site_that_kills_its_worker_once_moves_no_byte(a_ray: Any, run: Callable[..., Any]) -> None:
    _, loop = run("loop", INLINE, **DITTO)
    folder, disturbed = run("disturbed", workers(2), **DITTO, **faults(site_004="die_once"))
    assert disturbed["model_sha256"] == loop["model_sha256"] and disturbed["metrics"] == loop["metrics"]
    assert (folder.path / "run.log").read_text().count(" died: ") == 1


# ---------------------------------------------------------------------------------------- faults that are not, by name


@pytest.mark.ray
def test_sites_that_hang_or_kill_their_worker_each_time_are_named_and_the_others_go_on(a_ray: Any, run: Callable[..., Any]) -> None:
    bad = faults(site_001="hang", site_004="die")
    folder, ended = run("bad", workers(2, site_seconds=6.0, max_restarts=3), **ALL, **bad)
    hung, died = "it hung: no answer within engine.site_seconds", "its process died each time"
    assert [record["missing"] for record in folder.rounds()] == [{"site-001": hung, "site-004": died}] * 2
    _, without = run("without", INLINE, **ALL, **faults(site_001="wrong_shape", site_004="wrong_dtype"))
    assert ended["model_sha256"] == without["model_sha256"], "as if the two had sent what cannot be counted"


def test_a_site_that_always_raises_and_one_that_returns_nan_are_named_in_every_round(tmp_path: Path) -> None:
    folder, ended = simulate(digits(INLINE, **ALL, **faults(site_001="raise", site_004="nan")), tmp_path / "a", None, quiet=True)
    for record in folder.rounds():
        assert list(record["declined"]) == ["site-001"] and record["declined"]["site-001"].startswith("error: RuntimeError")
        assert list(record["refused"]) == ["site-004"] and len(record["answered"]) == 4
    assert ended["counts"]["declined"] == {"error": 2} and ended["counts"]["refused"] == {"wrong_dtype": 2}
    _, other = simulate(digits(INLINE, **ALL, **faults(site_001="inf", site_004="huge")), tmp_path / "b", None, quiet=True)
    assert ended["model_sha256"] == other["model_sha256"], "what they sent is nowhere in the model"


class Broken:
    """Images of which some rows cannot be read, as on a disk that fails."""

    def __init__(self, images: np.ndarray, lost: np.ndarray):
        self.images, self.lost = images, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self.images, name)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if np.isin(rows, self.lost).any():
            raise OSError(5, "Input/output error", "/data/patient-17.png")
        return self.images[rows]  # type: ignore[no-any-return]


def test_a_site_whose_images_cannot_be_read_declines_without_a_word_of_them_and_the_others_go_on(tmp_path: Path) -> None:
    def engine(setting: Any, conduct: Any) -> Any:
        data = setting.data
        lost = np.flatnonzero(data.partition.site_of == 2)
        images = Broken(data.dataset.images, lost)
        return inline(replace(setting, data=Federated(replace(data.dataset, images=images), data.partition)), conduct)

    folder, _ = simulate(digits(INLINE, **ALL), tmp_path / "a", None, quiet=True, engine=engine)
    for record in folder.rounds():
        assert list(record["declined"]) == ["site-002"] and record["declined"]["site-002"].startswith("error: OSError in ")
        assert "patient" not in str(record) and "site-002" in record["evaluation"]["sites"]["not_measured"]
        assert len(record["answered"]) == 5
    assert "patient-17" in (folder.path / "run.log").read_text(), "the site's own log has the whole story"


# --------------------------------------------------------------------------------------------------- whom to blame


def asked(*sites: str) -> list[Any]:
    return [(SiteId(site), Own()) for site in sites]


def blamed(trouble: Trouble, site: str, *ways: str) -> list[tuple[str, str]]:
    """Who is lost once the site has been alone with workers that went these ways."""
    queue = deque(asked(site))
    return [lost for how in ways for lost in trouble.blame(asked(site), how, queue)]


def test_of_several_sites_with_a_dead_worker_nobody_is_blamed_but_each_is_asked_alone() -> None:
    trouble, queue = Troublemakers(triable=False).begin(), deque(asked("a", "b", "c"))
    for _ in range(5):
        assert list(trouble.blame(asked("a", "b"), "died", queue)) == []
    assert [site for site in "abc" if trouble.alone(SiteId(site))] == ["a", "b"] and len(queue) == 3


def test_where_a_sites_work_can_be_tried_no_death_of_its_worker_counts_against_it() -> None:
    trouble = Troublemakers(triable=True).begin()
    assert not trouble.tried(asked("a")), "what has done nothing yet is not tried"
    assert blamed(trouble, "a", *["died"] * 100) == [] and trouble.tried(asked("a"))
    assert blamed(trouble, "a", "fell") == [] and blamed(trouble, "a", "fell") == [("a", "its process died each time")]


def test_two_hangs_crashes_or_trials_that_died_and_a_site_is_lost() -> None:
    for ways, said in [
        (("hung", "hung"), "it hung: no answer within engine.site_seconds"),
        (("hung", "fell"), "its process died each time"),
        (("fell", "died", "crashed"), "its worker crashed each time"),
        (("memory", "memory", "memory"), "its worker was ended each time, for the memory that it took"),
    ]:
        assert blamed(Troublemakers(triable=True).begin(), "a", *ways[:-1]) == []
        assert blamed(Troublemakers(triable=True).begin(), "a", *ways) == [("a", said)]


def test_where_nothing_can_be_tried_it_takes_three_deaths_and_one_more_for_each_that_was_no_sites() -> None:
    assert blamed(Troublemakers(triable=False).begin(), "a", "died", "died") == []
    assert blamed(Troublemakers(triable=False).begin(), "a", "died", "died", "died") == [("a", "its worker died each time")]
    trouble = Troublemakers(triable=False).begin()
    blamed(trouble, "b", "died", "died")
    assert trouble.answered([SiteId("b")]) == 2, "b was innocent, so that two deaths were of something else"
    trouble.unprovoked += 1  # and a worker died that served nobody
    assert blamed(trouble, "a", *["died"] * 5) == [] and blamed(trouble, "a", "died") == [("a", "its worker died each time")]


def test_a_site_that_was_lost_has_one_chance_a_round_and_after_three_rounds_none() -> None:
    makers = Troublemakers(triable=True)
    blamed(makers.begin(), "a", "fell", "fell")
    for _ in range(2):
        later, queue = makers.begin(), deque(asked("a", "b"))
        assert later.tried(asked("a")) and list(later.out(queue)) == []
        assert list(later.blame(asked("a"), "hung", queue)) == [("a", "it hung: no answer within engine.site_seconds")]
    last, queue = makers.begin(), deque(asked("a", "b"))
    assert list(last.out(queue)) == [("a", "not asked: it took its worker with it in 3 rounds")] and queue == deque(asked("b"))


def test_an_answer_takes_one_lost_round_away() -> None:
    makers = Troublemakers(triable=True)
    blamed(makers.begin(), "a", "fell", "fell")
    assert makers.begin().answered([SiteId("a")]) == 0
    assert not makers.begin().alone(SiteId("a")), "as if it had never been lost"


# ------------------------------------------------------------------------------------ a worker killed from outside


class Hunted(OnRay):
    """An exchange on which every worker that is alone with one site is killed from outside while it serves it, so many times."""

    def __init__(self, *parts: Any, times: int):
        super().__init__(*parts)
        self.left, self.hit = times, set()

    def _hand_out(self, *parts: Any) -> None:
        super()._hand_out(*parts)
        for call in parts[3].values():
            if self.left and [site for site, _ in call.asked] == ["site-001"] and call.hand not in self.hit:
                self.hit.add(call.hand)
                self.left -= 1
                os.kill(int(call.hand.who.split()[1]), signal.SIGKILL)


@pytest.mark.ray
def test_a_site_whose_workers_are_killed_from_outside_again_and_again_is_not_lost(
    a_ray: Any, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, loop = run("loop", INLINE, **ALL)
    monkeypatch.setattr("simulations.ray_exchange.OnRay", partial(Hunted, times=3))
    folder, disturbed = run("disturbed", workers(2, max_restarts=3), **ALL)
    assert disturbed["model_sha256"] == loop["model_sha256"] and disturbed["metrics"] == loop["metrics"]
    assert all(record["missing"] == {} for record in folder.rounds())
    assert (folder.path / "run.log").read_text().count(" died: ") == 3
    assert not list((folder.path / "sites").glob(CRASHES)), "what workers write for the case of a crash goes with them"


def test_a_trial_says_how_a_process_died_and_leaves_this_one_as_it_was(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    assert fallen(lambda: seen.write_text("done")) is None and seen.read_text() == "done"
    assert fallen(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "signal SIGKILL"
    assert fallen(lambda: os._exit(3)) == "exit code 3"
    assert fallen(lambda: 1 / 0) is None, "an exception is the site's to decline with"


@pytest.mark.parametrize(
    ("engine", "kinds", "said"),
    [
        (
            {"name": "inline", "site_seconds": 5.0},
            {},
            "engine.site_seconds = 5 and engine.name = inline exclude each other: it cannot be left",
        ),
        ({"name": "flower", "site_seconds": 5.0}, {}, "engine.site_seconds = 5 and engine.name = flower exclude each other"),
        (INLINE, {"site_001": "hang"}, "conditions.misbehaving = {site-001: hang} and engine.name = inline exclude each other"),
        ({"name": "ray"}, {"site_001": "hang"}, "conditions.misbehaving = {site-001: hang} needs engine.site_seconds"),
    ],
)
def test_a_fault_that_an_engine_cannot_show_is_refused(engine: dict[str, Any], kinds: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        digits(engine, **faults(**kinds))
    assert said in str(caught.value)
