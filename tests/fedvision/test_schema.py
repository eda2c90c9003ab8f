"""A config is read strictly, and what is wrong with it is said in one message that names the key."""

from pathlib import Path

import pytest

from fedvision.errors import ConfigError
from fedvision.experiment import Experiment, load
from fedvision.schema import flat_values, parse, read_yaml, render, validate, with_settings

SMALL = """
name: small
data: {dataset: digits}
partition: {scheme: iid, sites: 4}
federation: {rounds: 2}
"""


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "experiment.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def complaint(folder: Path, content: str | bytes, *settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(written(folder, content), list(settings))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1.", 1.0), (".5", 0.5), ("-2E+3", -2000.0), ("12", 12), ("-7", -7), ("010", 10),
        ("yes", "yes"), ("on", "on"), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("1:30", "1:30"), ("0x10", "0x10"), ("1_000", "1_000"), ("2026-11-23", "2026-11-23"), ("'1'", "1"), ("{a: [1, x]}", {"a": [1, "x"]}),
    ],
)  # fmt: skip
def test_a_scalar_is_what_yaml_1_2_says_that_it_is(text: str, value: object) -> None:
    assert parse(text) == value and type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "this is empty"),
        ("- 1\n- 2\n", "this is list"),
        ("hello", "this is str"),
        (bytes(range(256)), "byte 128 is not UTF-8"),
        (b"a: \0", "unacceptable character"),
        ("a:\n\tb: 1\n", "line 2, column 1"),
        (SMALL + "seed: [1\n", "line 7, column 1: expected ',' or ']'"),
        (SMALL + "---\nseed: 1\n", "another document"),
        ("? [a, b]\n: 1\n", "unhashable key"),
        (SMALL + "seed: 1\nseed: 2\n", "line 7: the key 'seed' is given twice"),
        (SMALL.replace("sites: 4", "sites: 4, sites: 5"), "line 4: the key 'sites' is given twice"),
        (SMALL + "5: 3\n", "5: a key is a word"),
        ("a: &a [*a]\n", "line 1: *a stands for"),
        (SMALL + "x: &x {sites: 3}\ny: {<<: *x}\n", "line 7: *x stands for"),
        ("a: !!python/object/apply:os.system ['true']\n", "the tag"),
        (SMALL + "seed: !!int abc\n", "the tag"),
        ("a: " + "[" * 5000 + "]" * 5000, "more than 32 deep"),
        ("a: " + "{a: " * 5000 + "1" + "}" * 5000, "more than 32 deep"),
        ("\n".join(" " * i + "a:" for i in range(500)), "more than 32 deep"),
        (SMALL + "# " + "x" * (1 << 20), "more than 1,048,576 bytes"),
        (SMALL + f"seed: {'9' * 5000}\n", "seed = '9999"),
    ],
)
def test_a_file_that_is_no_config_is_one_message_with_the_place(tmp_path: Path, content: str | bytes, said: str) -> None:
    message = complaint(tmp_path, content)
    assert str(tmp_path / "experiment.yaml") in message and said in message
    assert len(message) < 2000


def test_a_few_lines_that_would_unfold_to_gigabytes_are_refused_at_once(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{n}: &{n} [{', '.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "line 2: *a stands for" in complaint(tmp_path, bomb)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/", "Is a directory"),
        ("/nowhere/none.yaml", "there is no config"),
        ("/tmp/" + "x" * 400, "File name too long"),
        ("/tmp/a\0b", "null byte"),
        ("/dev/zero", "more than 1,048,576 bytes"),
    ],
)
def test_a_path_that_cannot_be_read_is_said_with_the_reason(path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_yaml(Path(path))


def test_the_nearest_file_is_named(tmp_path: Path) -> None:
    written(tmp_path, SMALL)
    with pytest.raises(ConfigError, match=r"did you mean .*/experiment\.yaml"):
        load(tmp_path / "experimnet.yaml")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("federation.rouns=3", "federation.rouns (= 3): unknown key; did you mean federation.rounds?"),
        ("rounds=3", "the nearest key is federation.rounds"),
        ("training.lr=3", "the nearest key is training.learning_rate"),
        ("strategy.mu=3", "strategy.mu (= 3): unknown key; it is a key of strategy.name = fedprox"),
        ("data.manifest=a.csv", "it is a key of data.dataset = image_folder"),
        ("evaluation.server.tset=.1", "did you mean evaluation.server.test?"),
        ("partition.camera.gama=1", "did you mean partition.camera.gamma?"),
        ("data.dataset=mnist", "data.dataset = 'mnist': allowed are digits, mnist5k, "),
        ("data.dataset=[1]", "data.dataset = [1]: allowed are"),
        ("data.dataset=null", "data.dataset = null: allowed are"),
        ("strategy=fedprox", "did you mean strategy.name = fedprox?"),
        ("partition={sites: 3}", "partition.scheme: this key is missing"),
        ("partition=[]", "this is a block of keys, not one value"),
        ("federation.rounds=0", "federation.rounds = 0: it should be greater than or equal to 1"),
        ("federation.rounds=1e1", "federation.rounds = 10.0: it should be a valid integer"),
        ("federation.rounds=true", "federation.rounds = true: it should be a valid integer"),
        ("federation.rounds.x=3", "federation.rounds"),
        ("federation=null", "federation = null: this is a block of keys"),
        ("seed=9223372036854775808", "it should be below 2^63"),
        ("training.learning_rate=.nan", "training.learning_rate = nan: it should be a finite number"),
        ("training.learning_rate=1e400", "it should be a finite number"),
        ("training.learning_rate='0.1'", "training.learning_rate = '0.1': it should be a valid number"),
        ("data.mean=[.nan]", "data.mean.0 = nan"),
        ("engine.name=rya", "did you mean ray?"),
        ("encoding.bits=17", "encoding.bits = 17: allowed are 16, 20, 24, 32 or 64"),
        ("name=a/b", "name = 'a/b': it should match"),
        ("model.name=resnet18", "did you mean t"),
        ("evaluation.best=acuracy", "did you mean accuracy?"),
        ("conditions.misbehaving={1: nan}", "conditions.misbehaving.1"),
        ("partition.sites=100000000000000", "partition.sites"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(tmp_path: Path, setting: str, said: str) -> None:
    assert said in complaint(tmp_path, SMALL, setting)


@pytest.mark.parametrize("setting", ["", "=", "seed", "=3", ".=3", "federation..rounds=3", "federation.=3"])
def test_a_setting_that_is_no_key_and_value_shows_how_one_is_written(tmp_path: Path, setting: str) -> None:
    assert "write it as key=value, for example --set federation.rounds=5" in complaint(tmp_path, SMALL, setting)


def test_a_setting_that_is_not_yaml_is_shown(tmp_path: Path) -> None:
    assert complaint(tmp_path, SMALL, "seed=[1").startswith("--set 'seed=[1': not YAML")


def test_all_mistakes_are_listed_at_once_and_not_more_than_a_screen_of_them(tmp_path: Path) -> None:
    assert complaint(tmp_path, SMALL, "seed=-1", "name=a/b", "model.width=0").count("\n") == 2
    many = complaint(tmp_path, SMALL + "".join(f"unknown_{i}: {i}\n" for i in range(40)))
    assert many.count("\n") == 12 and many.endswith("and 28 more mistakes")


def test_a_setting_that_changes_what_a_block_is_drops_what_only_the_old_kind_knows() -> None:
    prox = {"strategy": {"name": "fedprox", "mu": 0.5, "server_learning_rate": 0.7}}
    assert with_settings(prox, ["strategy.name=fedavg"], Experiment) == {"strategy": {"name": "fedavg", "server_learning_rate": 0.7}}


def test_a_default_of_the_old_kind_is_not_taken_for_a_choice() -> None:
    averaged = {"strategy": {"name": "fedavg", "server_learning_rate": 1.0}}
    assert with_settings(averaged, ["strategy.name=fedadam"], Experiment) == {"strategy": {"name": "fedadam"}}
    chosen = with_settings(averaged, ["strategy.server_learning_rate=1.0", "strategy.name=fedadam"], Experiment)
    assert chosen == {"strategy": {"name": "fedadam", "server_learning_rate": 1.0}}


def test_settings_do_not_change_the_values_that_they_are_put_into() -> None:
    values = {"federation": {"rounds": 2}}
    assert with_settings(values, ["federation.rounds=3"], Experiment)["federation"]["rounds"] == 3
    assert values == {"federation": {"rounds": 2}}


def test_a_setting_reaches_into_a_block_that_is_null() -> None:
    values = {"evaluation": {"server": None}}
    assert with_settings(values, ["evaluation.server.test=0.3"], Experiment) == {"evaluation": {"server": {"test": 0.3}}}


def test_what_is_rendered_holds_every_key_with_its_unit_and_reads_as_the_same(tmp_path: Path) -> None:
    experiment = load(written(tmp_path, SMALL))
    text = render(experiment)
    assert validate(Experiment, parse(text), "rendered") == experiment
    for line in text.splitlines():
        assert "  # " in line and len(line.partition("  # ")[2]) > 5, line
    assert len(text.splitlines()) >= len(flat_values(experiment))


@pytest.mark.parametrize("name", ["a: b", "# no comment", "null", "1e-3", "ü", "two\nlines", "", "'", "*x", "[", "yes", "010"])
def test_any_word_that_is_rendered_reads_as_itself(tmp_path: Path, name: str) -> None:
    settings = ["data.dataset=image_folder", "data.root=x"]
    values = with_settings(parse(SMALL), settings, Experiment)
    values["data"]["classes"] = [name, "other"]
    values["data"]["root"] = name
    experiment = validate(Experiment, values, "given")
    assert parse(render(experiment))["data"]["classes"] == [name, "other"]
    assert validate(Experiment, parse(render(experiment)), "rendered") == experiment
