"""What is written is true: the README's commands run, doctests hold, links lead somewhere."""

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip().removeprefix(".venv/bin/") for line in README.splitlines() if re.match(r"    (\.venv/bin/)?fedvision ", line)]
SHORT = ["--set", "federation.rounds=1", "--set", "training.epochs=null", "--set", "training.steps=1", "--set", "tracking.mlflow=null"]
TRAIN = {"simulate", "centralised", "local"}


def test_the_commands_of_the_readme_run_in_their_order(tmp_path: Path) -> None:
    """Each as it stands, but trained for a moment only."""
    assert {command.split()[1] for command in COMMANDS} >= TRAIN | {"compare", "report", "list", "data"}
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    script = "import sys\nfrom fedvision.cli import main\ncode = 0\n" + "".join(
        f"sys.argv = {[*shlex.split(command), *(SHORT if command.split()[1] in TRAIN else [])]!r}\nprint('$', *sys.argv, flush=True)\nmain()\n"
        for command in COMMANDS
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    for made in (
        "runs/first/report.html",
        "runs/pooled/summary.json",
        "runs/alone/summary.json",
        "quickstart-data.png",
        "runs/private/privacy.html",
    ):
        assert (tmp_path / made).stat().st_size > 1000, made


def test_the_mistake_that_the_readme_shows_is_said_so() -> None:
    from fedvision.errors import ConfigError
    from fedvision.experiment import load

    shown = re.search(r"    error: (configs/quickstart\.yaml: .*); \.\.\.", README)
    assert shown is not None
    with pytest.raises(ConfigError) as caught:
        load(ROOT / "configs" / "quickstart.yaml", ["training.lr=0.1"])
    assert shown[1] in str(caught.value).replace(f"{ROOT}/", "")


def test_the_targets_of_make_that_are_written_of_are_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        named = re.findall(r"(?:`|^    )make ([a-z ]+)", page.read_text(encoding="utf-8"), re.M)
        assert {name for names in named for name in names.split()} <= targets, page


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_inside_the_project_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / link).exists(), f"{page} links to {link}"


def modules() -> list[str]:
    import fedvision

    found = pkgutil.walk_packages(fedvision.__path__, "fedvision.")
    return ["README.md", *(module.name for module in found if not module.ispkg)]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if name.endswith(".md"):
        result = doctest.testfile(str(ROOT / name), module_relative=False)
    else:
        result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
