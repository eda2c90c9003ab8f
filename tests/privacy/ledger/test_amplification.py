"""A secret draw of sites: what it costs, that it is made once, and that nothing but the model tells of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ledger_tampering import judged

from fedvision.cli import main
from fedvision.errors import ConfigError, RunFolderError
from fedvision.experiment import Experiment
from fedvision.protections import Central
from fedvision.schema import validate
from fedvision.sums import COUNT, Encoder, Field, Layout, Total
from fedvision.types import ClientUpdate, Exchange, Reply, Request, SiteId, TrainRequest
from privacy.accountants import Phase, epsilon
from privacy.amplification import Draws, draws_of, key_path
from privacy.attacks.one_run import Traces
from privacy.client_level import CentralNoise
from privacy.ledger.keys import Roster, roster_path
from privacy.ledger.terms import Terms
from privacy.plan import plan_of
from privacy.report import draw_privacy
from server.aggregate import Aggregate
from server.checkpoints import Progress
from server.rounds import Rounds
from server.strategies import make_strategy
from simulations.engines import inline
from simulations.run import simulate
from simulations.setting import Setting

SITES = [SiteId(f"site-{number}") for number in range(6)]


def _experiment(privacy: Mapping[str, Any] | None = None, **changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 6},
        "federation": {"rounds": 3, "sampling": "poisson", "rate": 0.5}, "training": {"steps": 1, "epochs": None, "batch_size": 16},
        "model": {"name": "mlp", "width": 4}, "evaluation": {"server": {"test": 0.2}}, "tracking": {"mlflow": None, "report": False},
        "privacy": {"mechanism": "central", "noise_multiplier": 1.0, "delta": 1e-2, "clip": 0.5, "amplified": True} | dict(privacy or {}),
    }  # fmt: skip
    for key, block in changes.items():
        values[key] = {**values.get(key, {}), **block}
    return validate(Experiment, values, "test")


def _run_of(folder: Path) -> str:
    return str(json.loads((folder / "summary.json").read_text())["run"])


def _but_its_own(request: Request) -> dict[str, Any]:
    """A request's fields, tensors by identity, but for the site's own newest entry."""
    own = {name: value for name, value in vars(request).items() if name != "seen"}
    return {name: {n: id(t) for n, t in value.items()} if isinstance(value, dict) else value for name, value in own.items()}


class Watched:
    """An engine in this process that hands on each request, and notes who was sent what."""

    def __init__(self, before: Callable[[Mapping[SiteId, Request]], None] = lambda requests: None):
        self.asked: list[tuple[tuple[SiteId, ...], int, int]] = []
        self.seen: dict[SiteId, str] = {}
        self.before = before

    def __call__(self, setting: Setting, conduct: Callable[[Exchange], Any]) -> Any:
        def through(exchange: Exchange) -> Any:
            own = exchange.ask

            def ask(requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
                self.before(requests)
                first = next(iter(requests.values()))
                assert isinstance(first, TrainRequest) and all(
                    _but_its_own(request) == _but_its_own(first) for request in requests.values()
                )
                for site, request in requests.items():  # its one entry, of when it joined, whatever was drawn since
                    assert isinstance(request, TrainRequest) and self.seen.setdefault(site, request.seen) == request.seen
                self.asked.append((tuple(requests), first.round, first.attempt))
                return own(requests)

            exchange.ask = ask  # type: ignore[method-assign]
            return conduct(exchange)

        return inline(setting, through)


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"secure_aggregation": {"enabled": True}, "encoding": {"bits": 32}}, "amplified = true and secure_aggregation.enabled = true"),
        ({"federation": {"sampling": "all", "rate": None}}, r"federation\.sampling = all.*set sampling to poisson"),
        ({"federation": {"min_replies": 2}}, r"federation\.min_replies = 2.*a round of no sites releases noise"),
        ({"privacy": {"amplified": False}, "federation": {"min_replies": 0}}, r"min_replies = 0 is for privacy\.amplified"),
        ({"strategy": {"name": "median"}}, "median and privacy.mechanism = central exclude"),
    ],
)
def test_what_would_tell_of_the_draw_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _experiment(**changes)


def test_the_command_line_refuses_a_secret_draw_with_secure_aggregation_by_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = Path(__file__).parents[3] / "configs" / "amplified_dp.yaml", tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["fedvision", "simulate", str(config), "--set", "secure_aggregation.enabled=true", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and not out.exists()


# -------------------------------------------------------------------------------------------------------- the price


def test_every_site_pays_the_amplified_price_of_every_round_or_the_full_one_of_those_that_it_joins() -> None:
    amplified, full = _experiment(), _experiment({"amplified": False})
    for relation in ("add_remove", "replace_one"):
        plan = plan_of(_experiment({"relation": relation}))
        assert plan.a_round == Phase(1.0, 0.5, 1) and plan.guarantee.unit == "site"
        assert plan.guarantee.epsilon == pytest.approx(epsilon([Phase(1.0, 0.5, 3)], 1e-2, "pld", relation))
    assert plan_of(full).a_round.sampling_rate == 1.0 and plan_of(amplified).guarantee.epsilon < plan_of(full).guarantee.epsilon
    assert (Terms.of(amplified, plan_of(amplified)).whole_plan, Terms.of(full, plan_of(full)).whole_plan) == (True, False)


def test_a_site_whose_account_does_not_hold_the_whole_plan_pays_nothing_and_is_in_no_sum(tmp_path: Path) -> None:
    poor = SITES[2]
    folder, _ = simulate(_experiment(conditions={"budgets": {"site-002": 0.5}}, partition={"sites": 6}), tmp_path / "run", None, quiet=True)
    verdict = judged(folder.path, Roster.read(roster_path(_run_of(folder.path))))
    assert verdict.closed and [s.rounds for s in verdict.sites] == [3, 3, 0, 3, 3, 3]
    assert poor not in folder.rounds()[0]["answered"]
    for record in folder.rounds():
        assert list(record["declined"]) == ["site-002"] and "0 of its 3 rounds were paid" in record["declined"]["site-002"]
    account = (folder.path / "sites" / "site-000" / "account" / "account.jsonl").read_text().splitlines()
    charges = [body for body in (json.loads(line)["body"] for line in account) if body["kind"] == "charge"]
    assert [(c["round"], c["event"]["steps"], c["event"]["sampling_rate"]) for c in charges] == [(0, 3, 0.5)]


# --------------------------------------------------------------------------------------------------------- the draw


def test_a_draw_is_made_once_for_each_round_of_a_run_and_lies_outside_its_folder(tmp_path: Path) -> None:
    first = draws_of(_experiment(), "a run", begun=False)
    again, other = draws_of(_experiment(), "a run", begun=True), draws_of(_experiment(), "another run", begun=False)
    assert first is not None and again is not None and other is not None
    sites = [SiteId(f"{number}") for number in range(200)]
    assert [first.of(n, sites) for n in range(5)] == [again.of(n, sites) for n in range(5)]
    assert first.of(0, sites) != first.of(1, sites) and first.of(0, sites) != other.of(0, sites)
    assert key_path("a run").read_bytes() == first.key and key_path("a run").stat().st_mode & 0o777 == 0o600
    assert first.key.hex() not in repr(first)


def test_each_site_is_drawn_by_itself_with_the_rate_and_nobody_may_be() -> None:
    draws = Draws(os.urandom(32), 0.2)
    taken = np.array([[site in draws.of(n, SITES) for site in SITES] for n in range(4000)], dtype=float)
    assert np.abs(taken.mean(0) - 0.2).max() < 5 * (0.16 / 4000) ** 0.5
    together = np.corrcoef(taken.T) - np.eye(len(SITES))
    assert np.abs(together).max() < 5 / 4000**0.5
    assert abs((taken.sum(1) == 0).mean() - 0.8**6) < 5 * (0.8**6 / 4000) ** 0.5


def test_a_draw_that_is_gone_or_damaged_is_never_made_a_second_time() -> None:
    assert draws_of(_experiment(), "lost", begun=False) is not None
    key_path("lost").write_bytes(b"short")
    with pytest.raises(RunFolderError, match="5 bytes, and a key has 32"):
        draws_of(_experiment(), "lost", begun=True)
    key_path("lost").unlink()
    with pytest.raises(RunFolderError, match=r"secret draws.*gone.*FEDVISION_STATE, or begin another run"):
        draws_of(_experiment(), "lost", begun=True)
    assert not key_path("lost").exists()


class Six:
    """An exchange of six sites, each of which moves one weight of its own."""

    layout = Layout((Field("weights", {"w": (6,)}, 16.0), Field(COUNT, {"": ()}, 1, weighted=False, whole=True)), 64, 6)

    def sites(self) -> Sequence[SiteId]:
        return SITES

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
        for number, (site, request) in enumerate(requests.items()):
            assert isinstance(request, TrainRequest)
            values = {"weights": {"w": np.eye(6, dtype=np.float32)[number]}, COUNT: {"": np.array(1.0)}}
            yield ClientUpdate(site, request.round, request.attempt, Encoder(self.layout).encode(values, 1), self.layout.digest)

    def clock(self) -> float:
        return 0.0

    def busy(self) -> float:
        return 0.0

    def close(self) -> None: ...


@dataclass
class Kept:
    """A recorder that keeps the weights after each round, and the rounds' records."""

    weights: list[torch.Tensor] = field(default_factory=lambda: [torch.zeros(6)])
    records: list[dict[str, Any]] = field(default_factory=list)

    def asked(self, round: int, sites: int) -> None:
        assert sites == 6

    def replied(self) -> None: ...

    def done(self, state: Any, progress: Progress, record: dict[str, Any], best: bool) -> None:
        self.weights.append(state.w["w"])
        self.records.append(record)


def test_the_sum_is_over_those_who_were_drawn_and_divided_by_how_many_were_expected() -> None:
    experiment, draws, kept = _experiment({"noise_multiplier": 0.01}, federation={"rounds": 8}), Draws(os.urandom(32), 0.5), Kept()
    assert isinstance(experiment.privacy, Central)
    strategy = CentralNoise(make_strategy(experiment.strategy, SITES), experiment.privacy, 0.01, 3.0, 0.5)
    rounds = Rounds(experiment, "run", Six(), strategy, Six.layout, lambda *_: {}, kept, draws=draws)
    rounds.run(strategy.init({"w": torch.zeros(6)}), Progress())
    for number, record in enumerate(kept.records):
        moved = 3.0 * (kept.weights[number + 1] - kept.weights[number])  # six sites at a rate of one half
        in_it = [site in draws.of(number, SITES) for site in SITES]
        assert moved.numpy() == pytest.approx(np.array(in_it, dtype=float), abs=0.05)  # ten deviations of the noise
        assert record["asked"] == record["answered"] == SITES and record["attempt"] == 1


# ------------------------------------------------------------------------------------------ what a reader can see


def _seen(folder: Path) -> Any:
    """All that a run folder says but for the model's own numbers, the run's name, and what cannot be the same twice: clocks,
    random numbers and hashes."""
    told: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            told[name] = [_plain(line.get("body", line)) for line in lines]
        elif path.is_file() and path.name not in ("run.log", "model.safetensors"):
            told[name] = path.stat().st_size if path.suffix in (".safetensors", ".lock", ".npz") else None
    return told


def _plain(value: Any) -> Any:
    hidden = {"evaluation", "seconds", "run", "time", "nonce", "prev", "key", "account", "witness", "request", "model", "root", "config"}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if key not in hidden}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return "a hash" if isinstance(value, str) and len(value) == 64 else value


def test_two_runs_with_other_cohorts_leave_folders_that_differ_in_the_released_models_alone(tmp_path: Path) -> None:
    """The draws of two seeds are known to the test, and differ; requests, records, ledgers and files are the same."""
    told, cohorts = [], []
    for seed in (1, 2):
        experiment, watched = _experiment({"simulation_only_seed": seed}), Watched()
        folder, _ = simulate(experiment, tmp_path / f"{seed}", None, quiet=True, engine=watched)
        draws = draws_of(experiment, "", begun=False)
        assert draws is not None
        cohorts.append([draws.of(number, [SiteId(f"site-00{n}") for n in range(6)]) for number in range(3)])
        told.append((watched.asked, _seen(folder.path)))
    assert cohorts[0] != cohorts[1] and any(len(a) != len(b) for a, b in zip(*cohorts, strict=True))
    assert told[0] == told[1]
    assert all(len(sites) == 6 and attempt == 1 for sites, _, attempt in told[0][0])


def test_a_run_of_secret_draws_is_sound_says_what_it_is_and_leaves_no_key(tmp_path: Path) -> None:
    kept: list[bytes] = []

    def before(_: Mapping[SiteId, Request]) -> None:
        kept.append(key_path(_run_of(tmp_path / "run")).read_bytes())  # on disk before anyone is asked

    folder, summary = simulate(_experiment(), tmp_path / "run", None, quiet=True, engine=Watched(before))
    assert len(set(kept)) == 1 and len(kept) == 3 and not key_path(folder.run).exists()
    assert not any(
        kept[0] in path.read_bytes() or kept[0].hex().encode() in path.read_bytes() for path in folder.path.rglob("*") if path.is_file()
    )
    verdict = judged(folder.path, Roster.read(roster_path(folder.run)))
    assert verdict.closed and not verdict.notes and [(s.rounds, len(s.charges)) for s in verdict.sites] == [(3, 1)] * 6
    assert summary["privacy"]["sampling_rate"] == 0.5 and any("secret draw" in note for note in summary["notes"])
    page = draw_privacy(folder.path).read_text()
    assert "drawn in secret by the coordinator" in page and "paid for every round of the plan when it joined" in page


def test_a_round_that_reaches_nobody_releases_noise_without_a_second_try(tmp_path: Path) -> None:
    folder, _ = simulate(_experiment(conditions={"absent": 1.0}), tmp_path / "run", None, quiet=True)
    assert [(r["status"], r["attempt"], r["answered"]) for r in folder.rounds()] == [("counted", 1, [])] * 3
    assert len({r["evaluation"]["server"]["test"]["loss"] for r in folder.rounds()}) == 3


def test_canaries_are_drawn_as_sites_are_and_score_as_the_audit_expects() -> None:
    experiment = _experiment({"audit": {"canaries": 4000}, "noise_multiplier": 2.0})
    assert isinstance(experiment.privacy, Central)
    strategy = CentralNoise(make_strategy(experiment.strategy, SITES), experiment.privacy, 2.0, 3.0, 0.5)
    state = strategy.init({"w": torch.zeros(6)})
    for _ in range(20):
        state = strategy.apply(state, Aggregate.of(Total(Six.layout)), 6)
    took_part, scores = state.canaries["took_part"].numpy(), state.canaries["scores"].numpy()
    expected = Traces(2.0, 0.5).drawn(took_part, 20, np.random.default_rng(0))
    for which in (took_part, ~took_part):
        error = (scores[which].var() / which.sum() + expected[which].var() / which.sum()) ** 0.5
        assert abs(scores[which].mean() - expected[which].mean()) < 5 * error


# ------------------------------------------------------------------------------------------------------------ a kill

DIES = """
import json, os, signal, sys
from pathlib import Path
from test_amplification import Watched, _experiment
from simulations.run import simulate

def before(requests):
    if next(iter(requests.values())).round == 1:
        os.kill(os.getpid(), signal.SIGKILL)

simulate(_experiment(), Path(sys.argv[1]), None, quiet=True, engine=Watched(before))
"""


def test_a_run_killed_between_a_draw_and_its_use_goes_on_with_the_same_draw(tmp_path: Path) -> None:
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[2]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "run")], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = _run_of(tmp_path / "run")
    key, seen = key_path(run).read_bytes(), []
    watched = Watched(lambda requests: seen.append(key_path(run).read_bytes()))
    folder, _ = simulate(_experiment(), None, tmp_path / "run", quiet=True, engine=watched)
    assert seen == [key, key] and [number for _, number, _ in watched.asked] == [1, 2]
    verdict = judged(folder.path, Roster.read(roster_path(run)))
    assert verdict.closed and [(s.rounds, len(s.charges)) for s in verdict.sites] == [(3, 1)] * 6
