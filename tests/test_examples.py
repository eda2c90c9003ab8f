"""What is brought from outside runs as what is here does."""

from pathlib import Path

import pytest

from fedvision.experiment import load
from simulations.run import simulate

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"huggingface_data": "datasets", "monai_data": "monai"}
SHORT = ["federation.rounds=2", "tracking.mlflow=null", "tracking.report=false"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_says_what_it_is_for_and_trains(path: Path, tmp_path: Path) -> None:
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    assert path.read_text(encoding="utf-8").startswith("# ") and load(path).name == path.stem
    _, summary = simulate(load(path, SHORT), tmp_path / "run", None, quiet=True)
    assert summary["status"] == "completed" and summary["rounds"] == 2 and not summary["counts"]["declined"]
