"""An experiment is valid as a whole or says why not; no junk in a config ends in anything but a ConfigError."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from fedvision.algorithms import ALGORITHMS, SITE_STATE, UNIFORM
from fedvision.errors import ConfigError
from fedvision.experiment import Experiment, has_site_state, load
from fedvision.schema import leaves, parse, render, validate, with_settings

COMPLETE = render(
    validate(
        Experiment,
        parse("{name: whole, data: {dataset: image_folder, root: x}, partition: {scheme: dirichlet, sites: 4, camera: {gamma: 1.0}}, federation: {rounds: 2}, evaluation: {server: {test: 0.2}}}"),
        "whole",
    )
)  # fmt: skip
VALUES: dict[str, Any] = parse(COMPLETE)
KEYS = sorted(leaves(Experiment))

junk = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20) | some.sampled_from([*KEYS, "nan", "iid", "ray", -1, 10**30]),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=8) | some.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


def paths(values: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, value in values.items():
        found.append((*before, name))
        found += paths(value, (*before, name)) if isinstance(value, dict) else []
    return found


def put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    result = copy.deepcopy(values)
    here = result
    for name in path[:-1]:
        here = here[name]
    here[path[-1]] = value
    return result


def is_one_or_says_why(values: dict[str, Any]) -> None:
    try:
        experiment = validate(Experiment, values, "junk")
    except ConfigError as error:
        assert str(error).startswith("junk: ") and len(str(error)) < 8000
    else:
        assert validate(Experiment, parse(render(experiment)), "rendered") == experiment


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=some.sampled_from(paths(VALUES)), value=junk)
def test_junk_in_any_place_of_a_config_is_a_config_error_or_a_valid_experiment(path: tuple[str, ...], value: Any) -> None:
    is_one_or_says_why(put(VALUES, path, value))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    block=some.sampled_from([(), *(p for p in paths(VALUES) if len(p) == 1 and isinstance(VALUES[p[0]], dict))]),
    key=some.text(max_size=12),
    value=junk,
)
def test_a_junk_key_in_any_block_is_a_config_error_or_a_valid_experiment(block: tuple[str, ...], key: str, value: Any) -> None:
    is_one_or_says_why(put(VALUES, (*block, key), value))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(key=some.sampled_from(KEYS) | some.text("abc.=_ ", max_size=10), value=junk | some.text("[]{}:'\"*&!#-0123456789.e ", max_size=12))
def test_a_junk_setting_is_a_config_error_or_a_valid_experiment(key: str, value: Any) -> None:
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6)
    try:
        values = with_settings(VALUES, [f"{key}={text}"], Experiment)
    except ConfigError as error:
        assert str(error).startswith("--set ")
    else:
        is_one_or_says_why(values)


@settings(max_examples=100, deadline=None)
@given(start=some.integers(0, len(COMPLETE.encode())), length=some.integers(0, 60), noise=some.binary(max_size=12))
def test_a_torn_file_is_a_config_error_or_a_valid_experiment(tmp_path_factory: Any, start: int, length: int, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("torn") / "torn.yaml"
    content = COMPLETE.encode()
    path.write_bytes(content[:start] + noise + content[start + length :])
    try:
        assert isinstance(load(path), Experiment)
    except ConfigError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["federation.sampling=fixed"], "federation.sampling = fixed needs federation.cohort"),
        (["federation.cohort=2"], "federation.cohort = 2 and federation.sampling = all exclude each other"),
        (["federation.sampling=poisson"], "federation.sampling = poisson needs federation.rate"),
        (["federation.rate=0.5"], "federation.rate = 0.5 and federation.sampling = all exclude each other"),
        (["federation.sampling=fixed", "federation.cohort=9"], "federation.cohort = 9 is more than partition.sites = 4"),
        (["federation.min_replies=5"], "federation.min_replies = 5 can never be reached: at most 4 sites"),
        (["strategy.name=scaffold", "training.momentum=0.9"], "strategy.name = scaffold and training.optimizer = sgd with momentum 0.9"),
        (["strategy.name=scaffold", "training.optimizer=adamw"], "strategy.name = scaffold and training.optimizer = adamw"),
        (["strategy.name=scaffold", "training.gradient_clip=1"], "strategy.name = scaffold and training.gradient_clip"),
        (["strategy.name=median"], "strategy.name = median and federation.weighting = examples"),
        (["strategy.name=fedbn", "model.norm=batch"], "strategy.name = fedbn and evaluation.server exclude each other"),
        (["strategy.name=fedrep"], "the heads stay at the sites, so the coordinator has no whole model to test; set evaluation.server to null"),
        (["strategy.name=fednova", "training.optimizer=adamw"], "strategy.name = fednova and training.optimizer = adamw exclude each other"),
        (["strategy.name=feddyn"], "strategy.name = feddyn and federation.weighting = examples exclude each other"),
        (["strategy.name=afl", "federation.weighting=uniform", "federation.sampling=poisson", "federation.rate=0.5"],
         "strategy.name = afl and federation.sampling = poisson exclude each other: it weighs all sites by their losses in every round"),
        (["strategy.name=krum", "federation.weighting=uniform"],
         "strategy.byzantine = 1 and federation.min_replies = 1 exclude each other: krum tolerates f such sites among 2f + 3 replies or more; set "
         "min_replies to 5"),
        (["strategy.name=fedbn", "model.norm=group", "evaluation.server=null"], "strategy.name = fedbn and model.norm = group"),
        (["strategy.name=fedbn", "evaluation.server=null"], "strategy.name = fedbn needs BatchNorm, and model.name = cnn has none"),
        (["evaluation.sites=none", "evaluation.server=null"], "evaluation.sites = none and evaluation.server = null"),
        (["engine.address=auto"], "engine.address = 'auto' and engine.name = inline"),
        (["engine.workers=2"], "engine.workers = 2 and engine.name = inline exclude each other"),
        (["engine.gpus_per_worker=0.5"], "engine.gpus_per_worker = 0.5 and engine.name = inline exclude each other: its one worker has the whole GPU"),
        (["engine.name=ray", "engine.gpus_per_worker=0.5", "engine.device=cpu"],
         "engine.gpus_per_worker = 0.5 and engine.device = cpu exclude each other: a share of a GPU would lie idle"),
        (["training.steps=3"], "training.epochs = 1 and training.steps = 3 exclude each other"),
        (["training.epochs=null"], "training.epochs = None and training.steps = None"),
        (["data.test=0.6", "data.validation=0.5"], "data.validation + data.test = 1.1 leaves nothing to train on"),
        (["data.std=[0.0]"], "data.std = [0.0]: each value must be above 0"),
        (["evaluation.server={validation: 0.0, test: 0.0}"], "evaluation.server: validation + test = 0"),
    ],
)  # fmt: skip
def test_what_excludes_each_other_is_said_with_both_keys_and_the_way_out(changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Experiment, with_settings(VALUES, changes, Experiment), "whole")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_can_be_chosen_by_its_name(name: str) -> None:
    needs = {
        "fedbn": ["model.norm=batch", "evaluation.server=null"],
        "fedrep": ["evaluation.server=null"],
        "fedbuff": ["strategy.buffer=2", "strategy.concurrency=2"],
        "krum": ["strategy.byzantine=0", "federation.min_replies=3"],
        "multi_krum": ["strategy.byzantine=0", "federation.min_replies=3"],
        "brought": ["strategy.source=own.py:strategy"],
    }
    changes = [f"strategy.name={name}", *needs.get(name, []), *(["federation.weighting=uniform"] if name in UNIFORM else [])]
    experiment = validate(Experiment, with_settings(VALUES, changes, Experiment), "whole")
    assert experiment.strategy.name == name and has_site_state(experiment) == (name in SITE_STATE)


def test_relative_paths_start_at_the_folder_of_the_config(tmp_path: Path) -> None:
    path = tmp_path / "configs" / "own.yaml"
    path.parent.mkdir()
    path.write_text(COMPLETE)
    changes = ["data.root=../images", "data.manifest=m.csv", "model.weights=/abs/w.safetensors", "partition.load=p.npz"]
    experiment = load(path, changes)
    assert experiment.data.root == str(tmp_path / "images") and experiment.data.manifest == str(tmp_path / "configs" / "m.csv")
    assert experiment.model.weights == "/abs/w.safetensors" and experiment.partition.load == str(tmp_path / "configs" / "p.npz")


def test_an_experiment_cannot_be_changed() -> None:
    experiment = validate(Experiment, VALUES, "whole")
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 3
