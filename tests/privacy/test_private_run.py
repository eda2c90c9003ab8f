"""A run that promises something: what it refuses, what leaves a site, what is charged, and what a repetition gives."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clients.answer import answer
from clients.workbench import Workbench
from fedvision.data.federation import Federated, open_federated
from fedvision.errors import ConfigError, ModelRefused
from fedvision.experiment import Experiment, load
from fedvision.schema import render, validate
from fedvision.types import ClientUpdate, Declined, EvaluateRequest, TrainRequest
from privacy.plan import plan_of
from simulations.baselines import centralised
from simulations.run import simulate

DP = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-4, "sampling_rate": 0.1, "divisor": 20.0}


def _experiment(privacy: dict[str, Any] | None = None, **changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 3}, "federation": {"rounds": 2},
        "training": {"steps": 2}, "model": {"name": "mlp", "width": 8}, "evaluation": {"server": {"test": 0.2}},
        "tracking": {"mlflow": None, "report": False}, "privacy": DP | (privacy or {}),
    }  # fmt: skip
    for key, block in changes.items():
        values[key] = {**values.get(key, {}), **block} if isinstance(block, dict) else block
    return validate(Experiment, values, "test")


def _central(**changes: Any) -> dict[str, Any]:
    return {"mechanism": "central", "noise_multiplier": 1.0, "delta": 1e-2, "clip": 0.5, **changes}


def _opened(experiment: Experiment, folder: Path) -> tuple[Federated, Workbench, TrainRequest]:
    data = open_federated(experiment)
    bench = Workbench.set_up(experiment, data.shape, data.classes, len(data.sites), folder)
    model = {name: t.clone() for name, t in bench.model.state_dict().items()}
    return data, bench, TrainRequest("run", 0, 1, model)


def _charged(states: Path, site: str) -> list[tuple[str, tuple[int, int] | None]]:
    """What the site's account holds after it was opened and joined: (kind, what a charge is for)."""
    lines = (states / site / "account" / "account.jsonl").read_text().splitlines()
    bodies = [json.loads(line)["body"] for line in lines]
    assert [body["kind"] for body in bodies[:2]] == ["opened", "joined"]
    return [(body["kind"], (body["round"], body["attempt"]) if body["kind"] == "charge" else None) for body in bodies[2:]]


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"steps": None, "epochs": 2, "batch_size": 20}, "federation": {"max_examples": 400}}, r"privacy\.sampling_rate = 0\.05, training\.steps = 40, privacy\.divisor = 20"),
        ({"training": {"batch_size": 20}}, "training.batch_size = 20.*private"),
        ({"federation": {"weighting": "examples"}}, "federation.weighting = examples.*uniform"),
        ({"evaluation": {"sites": "all"}}, "evaluation.sites = all.*in the clear"),
        ({"training": {"gradient_clip": 1.0}}, "training.gradient_clip = 1"),
        ({"strategy": {"name": "fedbn"}, "evaluation": {"server": None}, "model": {"norm": "batch"}}, "strategy.name = fedbn.*statistics read the private images"),
        ({"model": {"name": "cnn", "norm": "batch"}}, "model.norm = batch.*set model.norm to group"),
    ],
)  # fmt: skip
def test_what_a_promise_would_not_cover_is_refused_with_the_way_out(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _experiment(**changes)


@pytest.mark.parametrize(("name", "mechanism"), [("scaffold", "central"), ("median", "central"), ("fedbn", "local")])
def test_an_algorithm_that_sends_more_than_was_paid_for_is_refused_by_name(name: str, mechanism: str) -> None:
    training = {"optimizer": "sgd", "batch_size": 8}
    with pytest.raises(ConfigError, match=f"strategy.name = {name} and privacy.mechanism = {mechanism} exclude each other"):
        validate(
            Experiment,
            {
                **json.loads(_experiment().model_dump_json()),
                "strategy": {"name": name},
                "training": training,
                "privacy": _central(mechanism=mechanism),
            },
            "test",
        )


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"epsilon": 3.0}, "privacy.epsilon = 3.0 and privacy.noise_multiplier = 1.0"),
        ({"unit": "subject"}, "privacy.max_images"),
        ({"unit": "subject", "max_images": 4, "gradients": "opacus"}, "norm of a subject's sum cannot be formed"),
        ({"views": 4}, "the views would all be the same"),
        ({"noise_multiplier": 0.0}, "privacy.noise_multiplier"),
        ({"sampling_rate": 0.0}, "privacy.sampling_rate"),
        ({"delta": 1.0}, "privacy.delta"),
        ({"accountant": "gdp"}, "'pld', 'rdp' or 'prv'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(privacy: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _experiment(privacy)


def test_repeatable_noise_on_images_of_ones_own_is_refused_and_declined(tmp_path: Path) -> None:
    own = {"dataset": "image_folder", "root": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"simulation_only_seed = 1 and data\.dataset = image_folder"):
        _experiment({"simulation_only_seed": 1}, data=own)
    experiment = _experiment({"simulation_only_seed": 1})
    data, bench, request = _opened(experiment, tmp_path)
    bench.experiment = experiment.model_copy(update={"data": _experiment(data=own).data})  # what validation would have refused
    reply = answer(request, data.site(data.sites[0]), bench)
    assert isinstance(reply, Declined) and reply.code == "not_private"


def test_a_model_with_running_statistics_is_refused_before_anything_trains(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"norm_statistics to frozen"):
        simulate(_experiment(model={"name": "timm/test_resnet"}, data={"image_size": 32}), tmp_path / "run", None, quiet=True)


def test_training_without_federation_would_break_the_promise_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set privacy to null"):
        centralised(_experiment(), tmp_path / "run", quiet=True)


def test_absent_keys_are_what_privacy_needs_and_a_written_config_says_them(tmp_path: Path) -> None:
    experiment = _experiment()
    assert (experiment.training.batch_size, experiment.training.epochs) == (None, None)
    assert (experiment.federation.weighting, experiment.evaluation.sites) == ("uniform", "none")
    (tmp_path / "c.yaml").write_text(render(experiment))
    assert load(tmp_path / "c.yaml") == experiment


# ------------------------------------------------------------------------------------------------ what leaves a site


@pytest.mark.parametrize("privacy", [DP, _central(), _central(mechanism="local")], ids=lambda p: p["mechanism"])
def test_nothing_leaves_but_the_update_and_the_same_number_for_every_site(privacy: dict[str, Any], tmp_path: Path) -> None:
    training = {} if privacy is DP else {"steps": None, "epochs": 1, "batch_size": 16}
    experiment = validate(
        Experiment, {**json.loads(_experiment().model_dump_json()), "training": training or {"steps": 2}, "privacy": privacy}, "test"
    )
    data, bench, request = _opened(experiment, tmp_path)
    assert set(bench.layout.by_name) == {"weights", "count"}
    extras = {"privacy": {"clip": torch.tensor(0.5)}} if privacy["mechanism"] == "central" else {}
    site = data.site(data.sites[0])
    empty = dataclasses.replace(site, train=data.site(data.sites[0]).part("validation"))
    assert len(empty.train) == 0
    for number, holder in enumerate((site, empty)):
        reply = answer(dataclasses.replace(request, extras=extras, round=number), holder, bench)
        assert isinstance(reply, ClientUpdate)
        assert reply.vector[bench.layout.span("count")][0] == 1
        assert reply.work == (40 if privacy is DP else 16)


def test_a_site_measures_nothing_for_anyone_in_a_private_run(tmp_path: Path) -> None:
    data, bench, request = _opened(_experiment(), tmp_path)
    reply = answer(EvaluateRequest("run", 0, request.model), data.site(data.sites[0]), bench)
    assert isinstance(reply, Declined) and reply.code == "private"


def test_the_same_request_gets_the_same_bytes_at_no_charge_until_it_is_counted(tmp_path: Path) -> None:
    data, bench, request = _opened(_experiment(), tmp_path)
    site = data.site(data.sites[0])
    first, again = (answer(request, site, bench) for _ in range(2))
    assert isinstance(first, ClientUpdate) and isinstance(again, ClientUpdate)
    assert np.array_equal(first.vector, again.vector)
    other = answer(dataclasses.replace(request, attempt=2), site, bench)
    assert isinstance(other, ClientUpdate) and not np.array_equal(first.vector, other.vector)
    assert _charged(tmp_path, site.id) == [("charge", (0, 1)), ("settle", None), ("charge", (0, 2)), ("settle", None)]
    assert len(list((tmp_path / site.id / "replies").glob("*.npy"))) == 2
    answer(dataclasses.replace(request, round=1, counted=0), site, bench)
    assert not list((tmp_path / site.id / "replies").glob("0-*.npy"))


def test_a_site_declines_what_its_plan_does_not_pay_for_before_it_computes(tmp_path: Path) -> None:
    data, bench, request = _opened(_experiment(), tmp_path)
    site = data.site(data.sites[0])
    replies = [answer(dataclasses.replace(request, round=n), site, bench) for n in range(3)]
    assert [type(r) for r in replies] == [ClientUpdate, ClientUpdate, Declined]
    assert isinstance(replies[2], Declined) and replies[2].code == "budget" and "all its 2 rounds are spent" in replies[2].reason
    assert [kind for kind, _ in _charged(tmp_path, site.id)] == ["charge", "settle"] * 2


def test_a_reservation_is_on_disk_before_the_step_that_it_pays_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, bench, request = _opened(_experiment(), tmp_path)
    site = data.site(data.sites[0])

    def crash(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("privacy.training.Stepper.release", crash)
    with pytest.raises(SystemExit):
        answer(request, site, bench)
    assert _charged(tmp_path, site.id) == [("charge", (0, 1))]


def test_the_noise_of_an_update_is_that_of_its_steps(tmp_path: Path) -> None:
    """Two steps at η = 0.5 on sites without examples: each number is −η Σ N(0, (σC / divisor)²)."""
    experiment = _experiment({"noise_multiplier": 3.0}, training={"learning_rate": 0.5}, model={"width": 64})
    data, bench, request = _opened(experiment, tmp_path)
    nobody = dataclasses.replace(data.site(data.sites[0]), train=data.site(data.sites[0]).part("validation"))
    reply = answer(request, nobody, bench)
    assert isinstance(reply, ClientUpdate)
    moved = reply.vector[bench.layout.span("weights")] / bench.layout.scale("weights")
    assert moved.std() == pytest.approx(0.5 * np.sqrt(2) * 3.0 / 20.0, rel=0.05)


def test_the_local_noise_of_an_update_is_that_of_the_clip_norm(tmp_path: Path) -> None:
    """A site without examples sends σC of noise on each number, and nothing beside."""
    privacy = _central(mechanism="local", noise_multiplier=2.0, clip=0.05)
    values = {**json.loads(_experiment(model={"width": 64}).model_dump_json()), "training": {"epochs": 1, "batch_size": 32}}
    data, bench, request = _opened(validate(Experiment, {**values, "privacy": privacy}, "test"), tmp_path)
    nobody = dataclasses.replace(data.site(data.sites[0]), train=data.site(data.sites[0]).part("validation"))
    reply = answer(request, nobody, bench)
    assert isinstance(reply, ClientUpdate)
    moved = reply.vector[bench.layout.span("weights")] / bench.layout.scale("weights")
    assert moved.std() == pytest.approx(2.0 * 0.05, rel=0.05)


# -------------------------------------------------------------------------------------------------------- whole runs


def test_a_run_prints_its_promise_in_summary_notes_and_rounds(tmp_path: Path) -> None:
    experiment = _experiment({"ema": 0.5})
    folder, summary = simulate(experiment, tmp_path / "run", None, quiet=True)
    promise = plan_of(experiment).guarantee
    assert summary["privacy"]["epsilon"] == promise.epsilon and summary["privacy"]["text"] == str(promise) and summary["privacy"]["private"]
    assert any(str(promise) in note for note in summary["notes"])
    records = folder.rounds()
    assert [r["privacy"]["rounds_spent"] for r in records] == [1, 2]
    assert 0 < records[0]["privacy"]["epsilon"] < records[1]["privacy"]["epsilon"] == promise.epsilon
    assert all(r["train"] is None for r in records)


def test_two_private_runs_differ_and_two_with_simulation_only_seed_do_not_and_say_so(tmp_path: Path) -> None:
    digests = [simulate(_experiment(), tmp_path / f"a{n}", None, quiet=True)[1]["model_sha256"] for n in range(2)]
    assert digests[0] != digests[1]
    seeded = [simulate(_experiment({"simulation_only_seed": 5}), tmp_path / f"b{n}", None, quiet=True)[1] for n in range(2)]
    assert seeded[0]["model_sha256"] == seeded[1]["model_sha256"]
    assert not seeded[0]["privacy"]["private"] and any("NOT PRIVATE" in note for note in seeded[0]["notes"])


def test_a_resumed_run_draws_no_release_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = _experiment(federation={"rounds": 3})
    from server.rounds import Rounds

    apply = Rounds._apply
    calls: list[int] = []

    def stopped(self: Rounds, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt  # after every site has replied, before the round is counted
        return apply(self, *args)

    monkeypatch.setattr(Rounds, "_apply", stopped)
    with pytest.raises(KeyboardInterrupt):
        simulate(experiment, tmp_path / "run", None, quiet=True)
    sites = sorted((tmp_path / "run" / "sites").iterdir())
    before = {p: p.read_bytes() for site in sites for p in site.glob("replies/1-*.npy")}
    assert len(before) == 3
    _, summary = simulate(experiment, None, tmp_path / "run", quiet=True)
    assert summary["status"] == "completed" and summary["rounds"] == 3
    for site in sites:
        assert [asked for kind, asked in _charged(site.parent, site.name) if kind == "charge"] == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("privacy", [_central(), _central(adaptive={"noise": 1.0}), _central(mechanism="local", noise_multiplier=2.0)])
def test_site_level_runs_end_and_promise_sites(privacy: dict[str, Any], tmp_path: Path) -> None:
    experiment = validate(
        Experiment,
        {**json.loads(_experiment().model_dump_json()), "training": {"epochs": 1, "batch_size": 32}, "privacy": privacy},
        "test",
    )
    folder, summary = simulate(experiment, tmp_path / "run", None, quiet=True)
    assert summary["privacy"]["unit"] == "site" and summary["privacy"]["steps"] == 2
    if privacy["mechanism"] == "central":
        assert all(r["update_norm"] is None for r in folder.rounds())


def test_opacus_gradients_train_too(tmp_path: Path) -> None:
    experiment = _experiment({"gradients": "opacus", "simulation_only_seed": 3}, federation={"rounds": 1})
    ours = _experiment({"simulation_only_seed": 3}, federation={"rounds": 1})
    models = []
    for number, e in enumerate((experiment, ours)):
        folder, _ = simulate(e, tmp_path / str(number), None, quiet=True)
        models.append(load_file(folder.path / "model.safetensors"))
    assert all(torch.allclose(a, models[1][name], atol=1e-4) for name, a in models[0].items())


def test_every_allowed_algorithm_runs_under_dp_sgd(tmp_path: Path) -> None:
    for name in ("fedprox", "scaffold", "fedadam", "median"):
        experiment = _experiment({"simulation_only_seed": 0}, strategy={"name": name}, federation={"rounds": 2})
        assert simulate(experiment, tmp_path / name, None, quiet=True)[1]["status"] == "completed"


def test_sites_that_join_fewer_rounds_have_spent_less_and_retries_count_for_everyone() -> None:
    from privacy.on_server import Accounted

    plan = plan_of(_experiment(federation={"rounds": 5}))
    records = [
        {"round": 0, "attempt": 1, "asked": ["a"]},
        {"round": 1, "attempt": 1, "asked": ["a", "b"]},
        {"round": 2, "attempt": 2, "asked": ["b"]},
    ]
    assert dict(Accounted.of(None, plan, records, ["a", "b", "c"], 1).rounds) == {"a": 4, "b": 3, "c": 2}
