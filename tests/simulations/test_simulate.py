"""Whole simulations on the inline engine, small: what a researcher relies on."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedvision.errors import ConfigError, RoundFailed, RunFolderError
from fedvision.experiment import Experiment
from fedvision.schema import validate
from simulations.baselines import centralised, local, steps_a_round
from simulations.run import simulate


def experiment(**changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "dirichlet", "sites": 6, "alpha": 0.5},
        "federation": {"rounds": 3},
        "model": {"name": "mlp", "width": 16},
        "training": {"batch_size": 16, "learning_rate": 0.1},
        "evaluation": {"server": {"validation": 0.1, "test": 0.2}},
        "tracking": {"mlflow": None, "report": False},
    }
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return validate(Experiment, values, "test")


def run(out: Path, **changes: Any) -> dict[str, Any]:
    return simulate(experiment(**changes), out, None, quiet=True)[1]


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_the_same_seed_ends_at_the_same_bytes_and_another_elsewhere(tmp_path: Path) -> None:
    a, b, c = run(tmp_path / "a"), run(tmp_path / "b"), run(tmp_path / "c", seed=1)
    assert a["model_sha256"] == b["model_sha256"] != c["model_sha256"]
    assert a["metrics"] == b["metrics"]


def test_the_federation_learns_and_lies_between_alone_and_pooled(tmp_path: Path) -> None:
    plan = {"federation": {"rounds": 12}, "training": {"epochs": 2, "learning_rate": 0.2}}
    alone, together, pooled = (
        local(experiment(**plan), tmp_path / "l", quiet=True)[1]["metrics"]["accuracy"],
        run(tmp_path / "f", **plan)["metrics"]["accuracy"],
        centralised(experiment(**plan), tmp_path / "c", quiet=True)[1]["metrics"]["accuracy"],
    )
    assert alone < together - 0.1 and together <= pooled + 0.02 and together > 0.85


def test_how_often_a_model_is_measured_does_not_change_it(tmp_path: Path) -> None:
    for kind in (centralised, lambda e, out, quiet: simulate(e, out, None, quiet=quiet)):
        found = [kind(experiment(evaluation={"every": n}), tmp_path / f"{kind}-{n}", quiet=True)[1] for n in (1, 2, 1000)]
        assert len({summary["model_sha256"] for summary in found}) == 1


def test_pooled_training_sees_as_many_examples_as_the_federation_does() -> None:
    half = experiment(federation={"sampling": "fixed", "cohort": 3}, training={"epochs": 2})
    assert steps_a_round(half, 320, 6, 6) == 2 * 320 // 2 // 16
    stepped = experiment(federation={"sampling": "fixed", "cohort": 3}, training={"epochs": None, "steps": 4})
    assert steps_a_round(stepped, 320, 6, 6) == 12


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "median"])
def test_a_run_that_is_resumed_from_any_round_ends_at_the_same_bytes(strategy: str, tmp_path: Path) -> None:
    plan = {"strategy": {"name": strategy}, "federation": {"rounds": 4, "weighting": "uniform"}, "conditions": {"dropout": 0.3}}
    whole = run(tmp_path / "whole", **plan)
    with pytest.raises(RoundFailed):  # stops in the middle: nobody answers from round 2 on
        _until_round(experiment(**plan), tmp_path / "cut", 2)
    _, resumed = simulate(experiment(**plan), None, tmp_path / "cut", quiet=True)
    assert resumed["model_sha256"] == whole["model_sha256"] and resumed["metrics"] == whole["metrics"]
    kept = [{k: v for k, v in r.items() if k != "seconds"} for r in rounds(tmp_path / "cut")]
    assert kept == [{k: v for k, v in r.items() if k != "seconds"} for r in rounds(tmp_path / "whole")]


def _until_round(plan: Experiment, out: Path, last: int) -> None:
    """The run, with an engine whose sites all fall silent from round `last` on."""
    from collections.abc import Iterator, Mapping

    from fedvision.types import Reply, Request, SiteId, TrainRequest
    from simulations.engines import inline

    def silenced(setting: Any, conduct: Any) -> Any:
        def quiet(exchange: Any) -> Any:
            ask = exchange.ask

            def only_before(requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
                late = any(isinstance(r, TrainRequest) and r.round >= last for r in requests.values())
                return iter(()) if late else ask(requests)

            exchange.ask = only_before
            return conduct(exchange)

        return inline(setting, quiet)

    simulate(plan, out, None, quiet=True, engine=silenced)


def test_a_resume_with_another_config_is_refused_and_names_the_key(tmp_path: Path) -> None:
    run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"training\.learning_rate = 0\.2, and the run was begun with 0\.1"):
        simulate(experiment(training={"learning_rate": 0.2}), None, tmp_path / "a", quiet=True)


def test_a_run_that_is_done_is_resumed_to_the_same_summary(tmp_path: Path) -> None:
    done = run(tmp_path / "a")
    _, again = simulate(experiment(), None, tmp_path / "a", quiet=True)
    assert {k: again[k] for k in ("model_sha256", "metrics", "confusion", "rounds")} == {
        k: done[k] for k in ("model_sha256", "metrics", "confusion", "rounds")
    }


def test_sites_that_send_rubbish_are_refused_counted_and_named_and_the_run_goes_on(tmp_path: Path) -> None:
    kinds = ["nan", "huge", "wrong_shape", "wrong_names", "huge_weight"]
    bad = {f"site-00{number}": kind for number, kind in enumerate(kinds)}
    summary = run(tmp_path / "a", conditions={"misbehaving": bad})
    assert summary["counts"]["refused"] == {"wrong_dtype": 3, "out_of_range": 3, "wrong_shape": 3, "wrong_names": 3, "bad_weight": 3}
    assert rounds(tmp_path / "a")[0]["answered"] == ["site-005"]


def test_absent_lost_and_late_sites_are_told_apart_and_cost_simulated_time(tmp_path: Path) -> None:
    conditions = {"absent": 0.3, "dropout": 0.3, "speed_sigma": 1.5, "deadline": 0.25}
    run(tmp_path / "a", conditions=conditions, federation={"rounds": 6, "min_replies": 1, "on_missing": "skip"})
    records = rounds(tmp_path / "a")
    assert {kind for r in records for kind in r["missing"].values()} == {"absent", "dropout", "late"}
    assert all(0 < r["simulated_seconds"] <= 0.25 for r in records)


def test_a_misbehaving_site_that_does_not_exist_is_a_mistake_in_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="misbehaving names 'site-9', and the sites are site-000 to site-005"):
        run(tmp_path / "a", conditions={"misbehaving": {"site-9": "nan"}})


def test_a_budget_of_a_site_that_does_not_exist_is_a_mistake_that_names_the_nearest(tmp_path: Path) -> None:
    private = {"mechanism": "local", "epsilon": 100.0, "delta": 1e-3}
    federation = {"weighting": "uniform", "min_replies": 1}
    with pytest.raises(ConfigError, match=r"conditions.budgets names 'site_002', .*; did you mean 'site-002'\?"):
        run(
            tmp_path / "a",
            conditions={"budgets": {"site_002": 1.0}},
            privacy=private,
            federation=federation,
            evaluation={"sites": "none", "server": {}},
        )
    with pytest.raises(ConfigError, match=r"conditions.budgets and privacy = null exclude each other"):
        run(tmp_path / "b", conditions={"budgets": {"site-002": 1.0}})


def test_an_out_folder_that_is_in_use_is_refused_before_anything_trains(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="is not empty"):
        run(tmp_path / "a")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["thesis.txt"]


def test_a_partition_of_an_earlier_run_can_be_used_again(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    again = run(tmp_path / "b", partition={"load": str(tmp_path / "a" / "partition.npz")})
    assert again["model_sha256"] == first["model_sha256"]


def test_thirty_two_bits_end_close_to_sixty_four(tmp_path: Path) -> None:
    wide = run(tmp_path / "a", federation={"weighting": "uniform"})
    narrow = run(tmp_path / "b", federation={"weighting": "uniform"}, encoding={"bits": 32})
    assert narrow["model_sha256"] != wide["model_sha256"]
    assert abs(narrow["metrics"]["accuracy"] - wide["metrics"]["accuracy"]) < 0.03
