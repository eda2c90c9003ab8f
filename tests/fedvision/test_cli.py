"""The command says what it can do, what went wrong in one message with an exit code, and for programs one JSON line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedvision.cli import app, main, mount
from fedvision.reference import EXIT_CODES, commands, reference

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
TINY = """
name: tiny
data: {dataset: digits}
partition: {scheme: iid, sites: 3}
federation: {rounds: 2}
model: {name: mlp, width: 8}
training: {epochs: null, steps: 1}
tracking: {mlflow: null, report: false}
"""


def command_line(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it, from this tree."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "120", **environment}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'fedvision'; from fedvision.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedvision", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def every_command() -> dict[str, Any]:
    import typer

    mount()
    return dict(commands(typer.main.get_command(app)))


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate"], "simulate needs a CONFIG"),
        (["simulate", "nope.yaml"], "there is no config nope.yaml"),
        (["simulate", "configs/quikstart.yaml"], "did you mean configs/quickstart.yaml?"),
        (["simulate", "configs"], "Is a directory"),
        (["simulate", "configs/quickstart.yaml", "--set", "federation.rounds=0"], "federation.rounds = 0"),
        (["simulate", "configs/quickstart.yaml", "--set", "federation.rouns=1"], "did you mean federation.rounds?"),
        (["simulate", "configs/quickstart.yaml", "--engine", "foo"], "engine.name = 'foo'"),
        (["simulate", "configs/quickstart.yaml", "--engine", "inline", "--workers", "2"], "engine.workers = 2 and engine.name = inline"),
        (["simulate", "configs/quickstart.yaml", "--workers", "x"], "--workers"),
        (["simulate", "configs/quickstart.yaml", "--engin", "ray"], "--engine"),
        (["simulate", "configs/quickstart.yaml", "--resume", "/tmp", "--out", "/tmp/x"], "exclude each other"),
        (["simulate", "configs/quickstart.yaml", "too", "many"], "too"),
        (["centralised"], "CONFIG"),
        (["centralised", "configs/quickstart.yaml", "--set", "model.width=wide"], "model.width = 'wide'"),
        (["local", "configs/quickstart.yaml", "--set", "seed"], "write it as key=value"),
        (["data", "show", "configs/quickstart.yaml", "--set", "partition.alpha=0"], "partition.alpha = 0"),
        (["lst"], "did you mean list?"),
        (["list", "stratgies"], "did you mean strategies?"),
        (["compare"], "RUN"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_message_on_stderr(
    run: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(ROOT)
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert said in err and "Traceback" not in err


@pytest.mark.parametrize("arguments", [["report", "."], ["simulate", "--resume", "."], ["report", "none"], ["compare", "none"]])
def test_a_folder_that_is_no_run_is_exit_code_1_and_said(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 1 and out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_a_mistake_in_a_process_of_its_own_shows_no_traceback() -> None:
    done = command_line("simulate", "configs/quickstart.yaml", "--set", "training.lr=3", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: configs/quickstart.yaml: training.lr (= 3): unknown key; the nearest key is training.learning_rate"
    )


def test_a_mistake_makes_no_run_folder(run: Any, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    for wrong in (
        "partition.sites=5000",
        "model.name=torchvision/resnet1",
        "data.mean=[0.1, 0.2]",
        "partition.scheme=natural",
        "engine.device=cuda",
    ):
        code, _, err = run("simulate", config, "--set", wrong, "--out", tmp_path / "run")
        if code == 0:
            assert wrong == "engine.device=cuda"  # where there is a GPU
            continue
        assert code == 2, err
        assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- help and reference


def test_every_command_has_an_example_that_begins_with_its_name() -> None:
    for name, command in every_command().items():
        assert (command.epilog or "").startswith(f"Example: {name} "), name


def test_every_command_argument_and_option_says_what_it_is_for() -> None:
    for name, command in every_command().items():
        assert command.help, name
        for param in command.params:
            assert getattr(param, "help", None) or param.name == "help", (
                f"{name} {param.name} (click below 8.5 is needed: see pyproject.toml)"
            )


def test_help_of_every_command_shows_its_example(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in every_command():
        code, out, _ = run(*name.split()[1:], "--help")
        assert code == 0 and f"Example: {name}" in out


def test_the_reference_in_docs_is_what_the_command_says() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert text == reference(), "write it again: python -m fedvision.reference > docs/cli.md"
    for name, command in every_command().items():
        assert f"## {name}\n" in text
        for param in command.params:
            assert param.name == "help" or all(f"`{option}" in text for option in param.opts if option.startswith("--"))
    for code in EXIT_CODES:
        assert f"| {code} |" in text


def test_the_exit_codes_in_help_are_those_of_the_reference(run: Any) -> None:
    _, out, _ = run("--help")
    assert all(re.search(rf"\b{code}\b", out.partition("Exit codes")[2]) for code in EXIT_CODES)


def test_help_imports_no_torch_and_nothing_as_heavy() -> None:
    heavy = {"torch", "numpy", "pandas", "sklearn", "matplotlib", "mlflow", "ray", "flwr", "PIL", "scipy", "jinja2", "pydantic"}
    code = f"import sys, fedvision.cli as c; sys.argv = ['fedvision', '--help']\ntry: c.main()\nfinally: print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0 and done.stderr.strip() == "[]" and "simulate" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_the_commands(shell: str) -> None:
    done = command_line(_FEDVISION_COMPLETE=f"complete_{shell}", COMP_WORDS="fedvision si", COMP_CWORD="1", _TYPER_COMPLETE_ARGS="fedvision si",
                        _TYPER_COMPLETE_FISH_ACTION="get-args")  # fmt: skip
    assert "simulate" in done.stdout and "Traceback" not in done.stderr


def test_lists_name_what_there_is(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for what, name in [("tasks", "classification"), ("models", "cnn"), ("datasets", "elpv"), ("partitions", "dirichlet"), ("strategies", "scaffold"),
                       ("configs", "configs/quickstart.yaml")]:  # fmt: skip
        code, out, _ = run("list", what)
        assert code == 0 and name in out


# -------------------------------------------------------------------------------------------------------------- json


@pytest.mark.parametrize("command", ["simulate", "centralised", "local"])
def test_the_last_line_of_stdout_is_one_object_and_stdout_holds_nothing_else(run: Any, tmp_path: Path, command: str) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    code, out, err = run(command, config, "--out", tmp_path / "run", "--json")
    assert code == 0 and out.count("\n") == 1
    said = json.loads(out)
    assert set(said) == {"run_dir", "rounds", "metrics", "model_sha256", "seconds"} | ({"sites"} if command == "local" else set())
    assert said["run_dir"] == str(tmp_path / "run") and said["rounds"] == 2 and said["seconds"] > 0
    assert 0 <= said["metrics"]["accuracy"] <= 1 and all(isinstance(v, float) for v in said["metrics"].values())
    if command == "local":
        assert set(said["sites"]) == {"site-000", "site-001", "site-002"} and said["model_sha256"] is None
    else:
        assert re.fullmatch("[0-9a-f]{64}", said["model_sha256"])
    assert "run folder" in err


def test_without_json_stdout_is_empty_and_the_run_folder_is_named(run: Any, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    code, out, err = run("simulate", config, "--out", tmp_path / "run")
    assert (code, out) == (0, "") and str(tmp_path / "run") in err


def test_the_config_of_a_run_is_a_config_that_ends_at_the_same_bytes(run: Any, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    first = json.loads(run("simulate", config, "--out", tmp_path / "a", "--json")[1])
    again = json.loads(run("simulate", tmp_path / "a" / "config.yaml", "--out", tmp_path / "b", "--json")[1])
    assert first["model_sha256"] == again["model_sha256"]


def test_data_show_draws_who_holds_what(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("data", "show", QUICKSTART, "--out", tmp_path / "who.png")
    assert code == 0 and (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG") and "who.png" in out
