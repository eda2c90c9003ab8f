"""The audit of one run: its numbers, its validity on mechanisms whose ε is known, and the faults that it finds."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd_models import per_image, spec
from torch import nn
from typer.testing import CliRunner

from clients.workbench import Workbench
from fedvision.data.dataset import Dataset
from fedvision.data.site import Examples, Source
from fedvision.errors import ConfigError, RunFolderError
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.types import SiteId
from privacy.attacks.audit import audited
from privacy.attacks.canaries import Canaries, Shadow, traces_of
from privacy.attacks.images import Pictures, pictures_at
from privacy.attacks.one_run import Traces, judged, lower_bound, p_value, planned_guesses
from privacy.client_level import CentralNoise
from privacy.commands import app
from privacy.noise import for_simulation_only
from privacy.plan import plan_of
from privacy.training import Stepper, Units, make_stepper
from simulations.inline import Inline
from simulations.run import simulate
from simulations.setting import Setting

DELTA = 1e-5

# ------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    ("m", "r", "v", "epsilon", "delta", "expected"),
    [
        (1000, 100, 90, 1.0, 1e-5, 8.4129e-4),
        (1000, 1000, 700, 0.5, 1e-5, 1.8676e-4),
        (100, 20, 20, 2.0, 1e-5, 0.0794666),
        (3, 3, 3, 0.0, 0.0, 1 / 8),  # three fair coins
        (3, 2, 2, math.log(3), 0.0, 9 / 16),  # right with 3/4 each
        (3, 1, 1, 0.0, 0.01, 1 / 2 + 2 * 3 * 0.01 * 1 / 2),  # one coin: below 1 lies half of the mass, one step away
    ],
)
def test_the_chance_of_so_many_right_guesses_is_the_theorems(m: int, r: int, v: int, epsilon: float, delta: float, expected: float) -> None:
    assert p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "expected"),
    [(1000, 100, 95, 1e-5, 2.165176), (1000, 1000, 900, 1e-5, 2.020646), (100, 100, 100, 0.0, 3.492965), (100, 10, 5, 0.0, 0.0)],
)
def test_the_lower_bound_is_the_largest_epsilon_that_is_refuted(m: int, r: int, v: int, delta: float, expected: float) -> None:
    assert lower_bound(m, r, v, delta) == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------------------------------------------- its validity


def _bounds(traces: Traces, steps: int, m: int, runs: int = 100) -> np.ndarray:
    rng, guesses = np.random.default_rng(0), planned_guesses(traces, steps, m, DELTA)
    found = []
    for _ in range(runs):
        took_part = rng.random(m) < 0.5
        found.append(judged(traces.drawn(took_part, steps, rng), took_part, guesses, DELTA).epsilon)
    return np.array(found)


@pytest.mark.parametrize(
    ("epsilon", "sigma", "steps", "m", "calibration"),
    [(4.38, 1.0, 1, 100, 0.74), (4.38, 1.0, 1, 1000, 1.57), (8.60, 4.0, 50, 1000, 2.86), (11.48, 2.0, 20, 100, 1.88), (37.6, 1.0, 30, 100, 2.32)],
)  # fmt: skip
def test_on_known_gaussians_the_bound_holds_in_95_of_100_runs_and_comes_to_the_calibrated_figure(
    epsilon: float, sigma: float, steps: int, m: int, calibration: float
) -> None:
    found = _bounds(Traces(sigma, 1.0), steps, m)
    assert np.mean(found <= epsilon) >= 0.95
    assert found.mean() >= calibration


def test_the_bound_holds_under_poisson_sampling_and_where_one_is_replaced() -> None:
    assert np.mean(_bounds(Traces(1.0, 0.01), 1000, 200, runs=40) <= 1.83) >= 0.95
    assert np.mean(_bounds(Traces(4.0, 1.0, replaced=True), 50, 200, runs=40) <= 20.68) >= 0.95


def test_randomised_response_is_found_out_almost_to_its_epsilon_and_not_beyond() -> None:
    rng, truth, bounds = np.random.default_rng(1), 1.0, []
    for _ in range(100):
        coins = rng.random(2000) < 0.5
        told = np.where(rng.random(2000) < 1 / (1 + math.exp(-truth)), coins, ~coins)
        bounds.append(lower_bound(2000, 2000, int((told == coins).sum()), 0.0))
    assert np.mean(np.array(bounds) <= truth) >= 0.93  # 95 % less the chance of 100 draws
    assert np.mean(bounds) > 0.8


def test_a_mechanism_that_now_and_then_tells_all_stays_within_its_delta() -> None:
    rng, m, delta = np.random.default_rng(2), 50, 0.02  # with chance δ a canary is told; nothing is ever told of the others
    bounds = []
    for _ in range(200):
        coins, told = rng.random(m) < 0.5, rng.random(m) < delta
        scores = np.where(told, np.where(coins, 9.0, -9.0), np.where(rng.random(m) < 0.5, 1.0, -1.0))
        bounds.append(judged(scores, coins, 5, delta).epsilon)
    assert np.mean(np.array(bounds) > 0.0) <= 0.05


# ------------------------------------------------------------------------------------------- canaries in a noisy sum


def _stepper(sigma: float = 1.0, **changes: Any) -> Stepper:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return make_stepper(spec(**changes), sigma, model, [n for n, _ in model.named_parameters()], per_image, torch.device("cpu"))


def _examples(seed: int) -> Examples:
    images = np.random.default_rng(seed).integers(0, 256, (9, 1, 4, 4), dtype=np.uint8)
    data = Dataset(name="t", images=images, labels=np.arange(9) % 3, classes=("a", "b", "c"), mean=(0.0,), std=(1.0,), subjects=None)
    return Examples(Source(data), np.arange(9))


def _shadow(stepper: Stepper, took_part: list[bool]) -> Shadow:
    traces = traces_of(stepper.spec, stepper.noise_multiplier)
    return Shadow(np.array(took_part), np.zeros(len(took_part)), traces)


def test_what_is_released_has_no_canary_in_it_whoever_takes_part() -> None:
    examples, released = _examples(0), []
    for took_part in ([True] * 6, [False] * 6):
        stepper = _stepper(sampling_rate=1.0)
        released.append(stepper.release(examples, Units.of(examples, stepper.spec), for_simulation_only(0), _shadow(stepper, took_part)))
    assert released[0].shape == (51,) and torch.equal(*released)


def test_the_scores_depend_on_no_image() -> None:
    scores = []
    for seed in (0, 1):
        stepper, examples = _stepper(sampling_rate=0.5), _examples(seed)
        shadow = _shadow(stepper, [True, False] * 4)
        for _ in range(3):
            stepper.release(examples, Units.of(examples, stepper.spec), for_simulation_only(0), shadow)
        scores.append(shadow.scores)
    assert np.array_equal(*scores)


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic"])
def test_a_canary_stands_at_the_clip_norm_after_the_runs_own_clipping_and_sampler(clipping: str) -> None:
    stepper = _stepper(sampling_rate=0.5, clip=0.25, clipping=clipping)
    shadow, places, source = _shadow(stepper, [True] * 200 + [False] * 200), torch.zeros(400), for_simulation_only(3)
    shadow.join(places, stepper.spec, stepper.clipping, source)
    assert set(places[200:].tolist()) == {0.0}
    drawn = places[:200][places[:200] > 0]
    assert torch.allclose(drawn, torch.tensor(0.25), rtol=1e-4) and 70 <= len(drawn) <= 130


def test_where_neighbours_differ_in_one_replaced_the_opposite_stands_for_who_is_out() -> None:
    stepper = _stepper(sampling_rate=1.0, clip=2.0, relation="replace_one")
    shadow, places = _shadow(stepper, [True, False]), torch.zeros(2)
    shadow.join(places, stepper.spec, stepper.clipping, for_simulation_only(0))
    assert places.tolist() == pytest.approx([2.0, -2.0], rel=1e-4)


# ------------------------------------------------------------------------------------------------------ whole runs


def _experiment(privacy: dict[str, Any] | None = None, **blocks: Any) -> Experiment:
    promise = {
        "mechanism": "dp_sgd",
        "noise_multiplier": 2.0,
        "delta": 1e-5,
        "sampling_rate": 0.2,
        "divisor": 40.0,
        "audit": {"canaries": 400},
    }
    values = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 2}, "federation": {"rounds": 3},
        "training": {"steps": 4}, "model": {"name": "mlp", "width": 8}, "evaluation": {"server": {"test": 0.2}},
        "tracking": {"mlflow": None, "report": False}, "privacy": promise | (privacy or {}),
    }  # fmt: skip
    return validate(Experiment, values | blocks, "test")


def _engine(broken: Callable[[Stepper], Stepper]) -> Callable[..., Any]:
    """The inline engine whose sites have a fault."""

    def run(setting: Setting, conduct: Callable[..., Any]) -> Any:
        data = setting.data
        bench = Workbench.set_up(setting.experiment, data.shape, data.classes, len(data.sites), setting.states)
        assert bench.protection is not None and bench.protection.stepper is not None
        bench.protection = dataclasses.replace(bench.protection, stepper=broken(bench.protection.stepper))
        return conduct(Inline(data, bench))

    return run


def test_an_honest_run_raises_no_alarm_and_shows_the_bound_beside_what_is_claimed(tmp_path: Path) -> None:
    folder, summary = simulate(_experiment(), tmp_path / "run", None, quiet=True)
    verdict = audited(folder.path)
    claimed, bound = verdict.together.claimed, verdict.together.bound
    assert not verdict.alarm and bound.canaries == 800 and set(verdict.sites) == {"site-000", "site-001"}
    assert claimed.epsilon == pytest.approx(summary["privacy"]["epsilon"]) and 0 <= bound.epsilon < claimed.epsilon < bound.most
    assert f"claimed {claimed} | found ε ≥ {bound.epsilon:.2f}" in verdict.words()[0]
    assert summary["privacy"]["audit"]["bound"]["epsilon"] == bound.epsilon and verdict.words()[0] in summary["notes"]
    assert json.loads((folder.path / "audit.json").read_text())["alarm"] is False


@pytest.mark.parametrize(
    "broken",
    [
        lambda stepper: dataclasses.replace(stepper, noise_multiplier=0.1 * stepper.noise_multiplier),
        lambda stepper: dataclasses.replace(stepper, noise_multiplier=0.0),
        lambda stepper: dataclasses.replace(stepper, spec=stepper.spec.model_copy(update={"sampling_rate": 1.0, "clip": 3.0}), noise_multiplier=1.0),
    ],
    ids=["a tenth of the noise", "no noise", "everybody in every step, and clipped too late"],
)  # fmt: skip
def test_a_run_whose_noise_was_broken_on_purpose_raises_the_alarm(tmp_path: Path, broken: Callable[[Stepper], Stepper]) -> None:
    folder, summary = simulate(_experiment(), tmp_path / "run", None, quiet=True, engine=_engine(broken))
    said = CliRunner().invoke(app, ["audit", str(folder.path)])
    assert said.exit_code == 1 and "ALARM: the bound is above what is claimed" in said.output
    assert summary["privacy"]["audit"]["alarm"] is True


def test_a_fault_at_one_site_is_found_and_named(tmp_path: Path) -> None:
    folder, _ = simulate(_experiment(), tmp_path / "run", None, quiet=True)
    canaries, traces = Canaries(folder.path / "sites", SiteId("site-001")), Traces(2.0, 0.2)
    shadow = canaries.read(traces)
    assert shadow is not None
    shadow.scores = np.where(shadow.took_part, 5.0, -5.0)
    canaries.scored(dataclasses.replace(shadow, fresh=True), 9, 1)
    verdict = audited(folder.path)
    assert [site for site, found in verdict.sites.items() if found.alarm] == ["site-001"] and "at site-001" in verdict.words()[1]


# ------------------------------------------------------------------------------------------------ canaries as images


def test_canary_images_are_a_sites_examples_from_the_key_alone_and_those_that_are_out_stay_out() -> None:
    own = _examples(0)
    pictures = Pictures(np.array([True, False, True]), key=7)
    images, labels = pictures.drawn((1, 4, 4), 3)
    joined = pictures.among(own, 3)
    assert len(joined) == 11
    batch = joined.batch(np.array([10, 0, 9]))
    assert torch.equal(batch.inputs[1], own.batch(np.array([0])).inputs[0]) and batch.targets.tolist() == [labels[2], 0, labels[0]]
    assert torch.equal(batch.inputs[0], torch.from_numpy(images[2] / np.float32(255)))
    nobody = Examples(own.source, np.arange(0))
    assert torch.equal(pictures.among(nobody, 3).batch(np.array([1])).inputs, batch.inputs[:1])


def test_canary_images_are_found_in_a_model_that_learned_them_and_said_to_be_in_it(tmp_path: Path) -> None:
    audit = {"audit": {"kind": "images", "canaries": 60}, "noise_multiplier": 0.5, "divisor": 20.0, "delta": 1e-5}
    experiment = _experiment(
        audit, federation={"rounds": 2}, training={"steps": 60, "learning_rate": 1.0}, model={"name": "mlp", "width": 128}
    )

    def loud(stepper: Stepper) -> Stepper:
        return dataclasses.replace(stepper, noise_multiplier=0.0)

    folder, summary = simulate(experiment, tmp_path / "run", None, quiet=True, engine=_engine(loud))
    assert any("canary images are IN this model: about 30 at each site" in note for note in summary["notes"])
    bound = audited(folder.path).together.bound
    assert (bound.canaries, bound.guesses) in {(120, 30), (120, 120)} and bound.right / bound.guesses > 0.7
    assert json.loads((folder.path / "audit.json").read_text())["bound"]["right"] == bound.right


def test_canary_images_are_the_same_in_every_round_and_their_loss_is_said(tmp_path: Path) -> None:
    secret_spec = _stepper(audit={"kind": "images", "canaries": 40}).spec
    first, again = (pictures_at(tmp_path, SiteId("a"), secret_spec) for _ in range(2))
    assert first.key == again.key and np.array_equal(first.took_part, again.took_part) and 5 < first.took_part.sum() < 35
    (tmp_path / "a" / "canary-images.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(RunFolderError, match="who of the canaries took part is lost"):
        pictures_at(tmp_path, SiteId("a"), secret_spec)


# ------------------------------------------------------------------------------------------ canaries at the coordinator


def _central(**more: Any) -> Experiment:
    promise = {"mechanism": "central", "noise_multiplier": 3.0, "delta": 1e-5, "clip": 0.5, "audit": {"canaries": 400}} | more
    values = {**_experiment().model_dump(mode="json"), "training": {"epochs": 1, "batch_size": 32}, "privacy": promise}
    return validate(Experiment, values, "test")


def test_under_central_noise_canaries_are_sites_that_are_not_there_and_the_model_is_what_it_is_without_them(tmp_path: Path) -> None:
    digests = []
    for audit in ({"canaries": 400}, None):
        folder, summary = simulate(_central(simulation_only_seed=3, audit=audit), tmp_path / str(audit is None), None, quiet=True)
        digests.append(summary["model_sha256"])
        if audit is not None:
            verdict = audited(folder.path)
            assert verdict.together.bound.canaries == 400 and not verdict.alarm
            assert verdict.together.claimed.epsilon == pytest.approx(summary["privacy"]["epsilon"])
    assert digests[0] == digests[1]


def test_central_noise_that_was_broken_on_purpose_raises_the_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = CentralNoise.__init__

    def quieter(self: CentralNoise, strategy: Any, spec: Any, sigma: float, *others: Any) -> None:
        release(self, strategy, spec, sigma / 10, *others)

    monkeypatch.setattr(CentralNoise, "__init__", quieter)
    folder, summary = simulate(_central(), tmp_path / "run", None, quiet=True)
    assert audited(folder.path).alarm and summary["privacy"]["audit"]["alarm"]


def test_canary_images_are_for_examples_not_for_whole_sites() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.audit\.kind = images and privacy\.mechanism = central"):
        _central(audit={"kind": "images"})


def test_a_run_without_canaries_is_exit_2_and_says_how_to_have_them(tmp_path: Path) -> None:
    folder, _ = simulate(_experiment({"audit": None}), tmp_path / "run", None, quiet=True)
    with pytest.raises(ConfigError, match=r"had no canaries: .*--set privacy\.audit\.canaries=1000") as refused:
        audited(folder.path)
    assert refused.value.exit_code == 2


def test_canaries_change_nothing_that_a_run_without_them_would_pay() -> None:
    assert plan_of(_experiment()) == plan_of(_experiment({"audit": None}))


def test_a_round_that_repeats_its_noise_is_scored_once(tmp_path: Path) -> None:
    stepper = _stepper(simulation_only_seed=1, audit={"canaries": 20})
    canaries = Canaries(tmp_path, SiteId("a"))
    for attempt in (1, 1, 2):
        shadow = canaries.shadow(stepper.spec, 1.0)
        assert shadow is not None and len(shadow) == 20
        shadow.steps += 1
        canaries.scored(shadow, 0, attempt)
    kept = canaries.read(Traces(1.0, 1.0))
    assert kept is not None and (kept.rounds, kept.steps) == ([(0, 1), (0, 2)], 2)


def test_scores_that_were_damaged_are_said_to_be_lost(tmp_path: Path) -> None:
    canaries = Canaries(tmp_path, SiteId("a"))
    canaries.path.parent.mkdir()
    canaries.path.write_bytes(b"nothing of the kind")
    with pytest.raises(RunFolderError, match=r"canaries\.npy is damaged.*delete it to go on without"):
        canaries.read(Traces(1.0, 1.0))


@pytest.mark.ray
def test_canaries_in_rays_workers_see_what_they_see_in_a_loop(tmp_path: Path) -> None:
    bounds = []
    for name, workers in (("inline", 1), ("ray", 2)):
        experiment = _experiment({"simulation_only_seed": 5}, engine={"name": name, "workers": workers})
        folder, _ = simulate(experiment, tmp_path / name, None, quiet=True)
        bounds.append(audited(folder.path).as_json())
    assert bounds[0] == bounds[1]
    assert bounds[0]["private"] is False
