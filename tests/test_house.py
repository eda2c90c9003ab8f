"""The house keeps its shape: imports point one way, and each vendor has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "fedvision": {"fedvision"},
    "privacy": {"fedvision", "privacy"},
    "clients": {"fedvision", "privacy", "clients"},
    "server": {"fedvision", "privacy", "server"},
    "simulations": {"fedvision", "privacy", "clients", "server", "simulations"},
}
DOORS = {
    "opacus": ("privacy/dpsgd.py",),
    "mlflow": ("fedvision/tracking/",),
    "ray": ("simulations/",),
    "flwr": ("fedvision/wire.py", "server/app.py", "server/exchange.py", "clients/app.py", "clients/courier.py", "simulations/"),
}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of each import, wherever it stands: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.lineno, node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"__import__", "import_module", "importlib.import_module"}:
            yield from ((node.lineno, str(a.value).partition(".")[0]) for a in node.args[:1] if isinstance(a, ast.Constant))


def wrong(file: str, source: str) -> list[str]:
    """What the source of `file` imports and may not."""
    own = file.partition("/")[0]
    return [
        f"{file}:{line} imports {name}"
        for line, name in imports(source)
        if (name in MAY_IMPORT and name not in MAY_IMPORT[own]) or (name in DOORS and not file.startswith(DOORS[name]))
    ]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way_and_each_vendor_has_one_door(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert [said for path in files for said in wrong(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("fedvision/a.py", "def f():\n    import clients.answer"),
        ("fedvision/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from simulations import run"),
        ("clients/a.py", "from server.rounds import Rounds"),
        ("server/a.py", "import clients"),
        ("privacy/a.py", "from clients import answer"),
        ("privacy/other.py", "import opacus"),
        ("server/a.py", "import mlflow.pytorch"),
        ("clients/a.py", "import ray"),
        ("fedvision/a.py", "import importlib\nimportlib.import_module('flwr.server')"),
    ],
)
def test_a_wrong_import_is_found_wherever_it_stands(file: str, source: str) -> None:
    assert len(wrong(file, source)) == 1


def test_nothing_imports_relatively_so_that_every_import_says_its_package() -> None:
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            relative = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom) and n.level]
            assert not relative, path
