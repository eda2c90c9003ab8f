"""Code named in a config is found, called with its options, and refused in words where it is not what it should be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedvision.brought import ALLOWED, by_entry_point, find, make, refuse_from_outside, vouch
from fedvision.data.federation import open_federated
from fedvision.errors import ConfigError, DataError, FedvisionError
from fedvision.experiment import Experiment, load
from fedvision.models import build
from fedvision.schema import validate
from fedvision.tasks import make_task

BASE: dict[str, Any] = {"data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": 3}, "federation": {"rounds": 1}}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """A Python file of that text."""

    def write(text: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text(text)
        return path

    return write


def said(go: Callable[[], Any], kind: type[FedvisionError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        go()
    return str(caught.value)


def test_a_relative_path_starts_at_the_configs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets.py").write_text("def net(shape, outputs):\n    from torch import nn\n    return nn.Flatten()\n")
    (tmp_path / "c.yaml").write_text(
        "data: {dataset: digits}\npartition: {scheme: iid, sites: 3}\nfederation: {rounds: 1}\nmodel: {name: 'nets.py:net'}\n"
    )
    monkeypatch.chdir("/")
    experiment = load(tmp_path / "c.yaml")
    assert experiment.model.name == f"{tmp_path / 'nets.py'}:net"
    assert type(build(experiment, (1, 8, 8), 10)).__name__ == "Flatten"


def test_options_are_passed_by_name_and_a_wrong_one_is_said_with_what_is_taken(file: Callable[[str], Path]) -> None:
    path = file("def thing(a, *, b=1):\n    return a + b\n")
    assert make(f"{path}:thing", "model.name", "models", 1, b=2) == 3
    assert said(lambda: make(f"{path}:thing", "model.name", "models", 1, c=2)) == (
        f"model.name = '{path}:thing' is called with 1 value and the options c: got an unexpected keyword argument 'c'; it takes (a, *, b=1)"
    )


def test_what_is_not_there_is_said_with_what_is(file: Callable[[str], Path]) -> None:
    path = file("def one():\n    pass\n")
    assert "there is no file /nowhere/a.py" in said(lambda: find("/nowhere/a.py:x", "task", "tasks"))
    assert said(lambda: find(f"{path}:two", "task", "tasks")).endswith("has no 'two'; it has one")
    assert "no module 'no_such_package' is installed" in said(lambda: find("no_such_package.nets:x", "task", "tasks"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\nx = 1 / 0\n", "mine.py does not run: line 2: ZeroDivisionError: division by zero"),
        ("def (:\n", "mine.py does not run: line 1: SyntaxError"),
    ],
)
def test_a_file_that_does_not_run_is_said_with_its_line(text: str, words: str, file: Callable[[str], Path]) -> None:
    path = file(text)
    assert words in said(lambda: find(f"{path}:x", "task", "tasks"))


def test_an_edited_file_counts_at_once(file: Callable[[str], Path]) -> None:
    path = file("x = 1\n")
    assert find(f"{path}:x", "task", "tasks") == 1
    file("x = 2\n")
    assert find(f"{path}:x", "task", "tasks") == 2


def test_an_entry_point_of_an_installed_package_is_named_alone_and_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedvision.listing import listed

    (tmp_path / "their_nets.py").write_text("def small(shape, outputs):\n    from torch import nn\n    return nn.Linear(1, outputs)\n")
    about = tmp_path / "their_nets-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nets\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fedvision.models]\nsmall-net = their_nets:small\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    by_entry_point.cache_clear()
    try:
        experiment = validate(Experiment, {**BASE, "model": {"name": "small-net"}}, "test")
        assert build(experiment, (1, 8, 8), 7).out_features == 7
        assert ("small-net", "their_nets:small, brought by their-nets") in listed("models")
    finally:
        monkeypatch.undo()
        by_entry_point.cache_clear()


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"task": "clasification"}, "task = 'clasification': allowed are classification, multilabel, segmentation, detection, instances, regression, FILE.py:NAME and PACKAGE.MODULE:NAME; did you mean classification?"),
        ({"model": {"options": {"width": 3}}}, "models of your own (FILE.py:NAME)"),
        ({"strategy": {"name": "brought", "source": "a.py:x"}, "privacy": {"mechanism": "local", "epsilon": 8.0, "delta": 1e-5}}, "what your own code reveals is not known here"),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_refused_when_the_config_is_read(blocks: dict[str, Any], words: str) -> None:
    assert words in said(lambda: validate(Experiment, {**BASE, **blocks}, "test"))


def test_a_site_runs_no_code_that_a_coordinators_config_names_unless_its_own_machine_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOWED, raising=False)
    wanted = validate(Experiment, {**BASE, "data": {"dataset": "brought", "source": "os:system", "options": {"command": "true"}}}, "test")
    sent = wanted.model_dump_json()
    assert "data.source = 'os:system' names code that the coordinator wants to be run here" in said(
        lambda: refuse_from_outside(wanted, sent, tmp_path)
    )
    vouch(validate(Experiment, {**BASE, "task": "own.py:Task"}, "test"), tmp_path)
    assert "wants to be run here" in said(lambda: refuse_from_outside(wanted, sent, tmp_path))
    vouch(wanted, tmp_path)
    refuse_from_outside(wanted, sent, tmp_path)
    plain = validate(Experiment, BASE, "test")
    refuse_from_outside(plain, plain.model_dump_json(), tmp_path / "nowhere")
    monkeypatch.setenv(ALLOWED, "1")
    refuse_from_outside(wanted, sent, tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------- what is returned is looked at

DATA = """
import numpy as np
from fedvision.data.adapters import from_arrays
from fedvision.data.dataset import Dataset

def good():
    return from_arrays("good", np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8), [0, 1] * 6)

def a_list():
    return [1, 2]

def floats():
    return Dataset("f", np.zeros((4, 1, 8, 8)), np.zeros(4, int), ("a",), (0.5,), (0.5,))

def labels_outside():
    return Dataset("l", np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 2, 1]), ("a", "b"), (0.5,), (0.5,))

def deal(units, weights, rng, *, site):
    return np.full(len(units), site)
"""


def opened(path: Path, name: str, partition: dict[str, Any] | None = None, **data: Any) -> Any:
    values = {**BASE, "data": {"dataset": "brought", "source": f"{path}:{name}", **data}, **({"partition": partition} if partition else {})}
    return open_federated(validate(Experiment, values, "test"))


def test_a_brought_data_set_is_resized_and_normalised_as_the_config_says(file: Callable[[str], Path]) -> None:
    federated = opened(file(DATA), "good", image_size=4, mean=[0.25], std=[0.5], test=0.0)
    assert federated.shape == (1, 4, 4) and federated.classes == ("0", "1")
    row = int(federated.site(federated.sites[0]).train.rows[0])
    batch = federated.site(federated.sites[0]).train.batch(np.array([0]))
    assert batch.inputs.flatten()[0].item() == pytest.approx((row / 255 - 0.25) / 0.5)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("a_list", ConfigError, "returned list; it must return a fedvision.data.dataset.Dataset"),
        ("floats", DataError, "images are float64 [4, 1, 8, 8], and must be uint8 [N,C,H,W]"),
        ("labels_outside", DataError, "labels go from 0 to 2, and there are 2 classes"),
    ],
)
def test_a_brought_data_set_that_is_none_is_refused(name: str, kind: type[FedvisionError], words: str, file: Callable[[str], Path]) -> None:
    path = file(DATA)
    assert words in said(lambda: opened(path, name), kind)


def test_a_brought_partition_must_give_each_unit_a_site_that_there_is(file: Callable[[str], Path]) -> None:
    path = file(DATA)
    words = said(lambda: opened(path, "good", {"scheme": "brought", "source": f"{path}:deal", "options": {"site": 3}, "sites": 3}))
    assert words.endswith("returned sites 3 to 3; partition.sites = 3")


def test_a_brought_task_is_made_over_the_classes(file: Callable[[str], Path]) -> None:
    path = file("class Task:\n    def __init__(self, classes):\n        self.classes = classes\n")
    assert make_task(f"{path}:Task", ("a", "b")).classes == ("a", "b")


def test_a_brought_strategy_must_see_what_the_config_says(file: Callable[[str], Path]) -> None:
    from server.strategies import make_strategy

    path = file("from server.strategies.median import Median\ndef own(**options):\n    return Median()\n")
    experiment = validate(Experiment, {**BASE, "strategy": {"name": "brought", "source": f"{path}:own"}}, "test")
    assert "strategy.sees = sum" in said(lambda: make_strategy(experiment.strategy))
    single = validate(Experiment, {**BASE, "strategy": {"name": "brought", "source": f"{path}:own", "sees": "single"}}, "test")
    assert make_strategy(single.strategy).kind == "single"
