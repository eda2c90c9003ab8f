"""From Python: frames and figures hold what the run folder holds, and the tutorial runs as it stands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedvision import Experiment, from_values
from fedvision.errors import ConfigError, RunFolderError
from simulations.results import Results, resume, run

BLOCKS = {
    "name": "small",
    "data": {"dataset": "digits"},
    "partition": {"scheme": "dirichlet", "sites": 4, "alpha": 1.0},
    "federation": {"rounds": 3},
    "model": {"name": "mlp", "width": 8},
    "training": {"batch_size": 16, "epochs": None, "steps": 2},
    "evaluation": {"every": 2, "server": {"test": 0.2}},
    "tracking": {"mlflow": None, "report": False},
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run(from_values(BLOCKS), tmp_path_factory.mktemp("runs") / "small")


def test_an_experiment_is_made_of_mappings_and_a_mistake_in_them_is_named(tmp_path: Path) -> None:
    experiment = from_values(BLOCKS, ["federation.rounds=2"])
    assert isinstance(experiment, Experiment) and experiment.federation.rounds == 2
    with pytest.raises(ConfigError, match=r"model\.widht .*did you mean model\.width"):
        from_values({**BLOCKS, "model": {"name": "mlp", "widht": 8}})
    assert from_values({**BLOCKS, "model": {"weights": "w.safetensors"}}, folder=tmp_path).model.weights == str(tmp_path / "w.safetensors")


def test_the_frame_of_the_rounds_has_a_row_a_round_and_gaps_where_nothing_was_measured(result: Results) -> None:
    frame, records = result.rounds, result.folder.rounds()
    assert frame.index.tolist() == [1, 2, 3] and frame["answered"].tolist() == [4, 4, 4]
    assert frame["training_loss"].tolist() == [record["train"]["loss"] for record in records]
    assert np.isnan(frame["accuracy"][1]) and frame["accuracy"][3] == records[2]["evaluation"]["server"]["test"]["accuracy"]
    assert frame["accuracy"][3] == result.metrics["accuracy"] == result.summary["metrics"]["accuracy"]


def test_the_frame_of_the_sites_has_what_each_holds_and_its_own_figures(result: Results) -> None:
    frame = result.sites
    federated = result.data
    assert frame.index.tolist() == list(federated.sites)
    assert frame["train"].tolist() == [len(federated.site(id).train) for id in federated.sites]
    assert frame["accuracy"].to_dict() == {site: figures["accuracy"] for site, figures in result.summary["sites"].items()}
    assert int(result.confusion.to_numpy().sum()) == len(federated.server("test"))


def test_the_final_model_gives_the_recorded_accuracy(result: Results) -> None:
    test = result.data.server("test")
    batch = test.batch(np.arange(len(test)))
    with torch.inference_mode():
        right = result.model()(batch.inputs).argmax(1) == batch.targets
    assert float(right.float().mean()) == pytest.approx(result.metrics["accuracy"], abs=1e-6)


def test_figures_are_drawn_of_a_run_and_of_several(result: Results, tmp_path: Path) -> None:
    pooled = run(from_values(BLOCKS), tmp_path / "pooled", "centralised")
    alone = run(from_values(BLOCKS), tmp_path / "alone", "local")
    axes = result.curves("accuracy", [pooled, alone]).axes[0]
    assert [line.get_label() for line in axes.lines] == ["small", "pooled", "alone"]
    assert axes.lines[0].get_xdata().tolist() == [2, 3]
    assert len(result.by_site().axes[0].patches) == 4
    for number, figure in enumerate((result.who_holds_what(), alone.by_site("accuracy"))):
        figure.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 5000
    assert "<td>accuracy</td>" in result._repr_html_()


def test_a_run_that_is_done_is_resumed_to_the_same_model_and_no_folder_is_no_result(result: Results, tmp_path: Path) -> None:
    again = resume(result.path)
    assert again.summary["model_sha256"] == result.summary["model_sha256"] and again.rounds.index.tolist() == [1, 2, 3]
    with pytest.raises(RunFolderError, match="there is no run folder"):
        _ = Results(tmp_path / "nowhere").summary


def test_the_tutorial_runs_as_it_stands_and_holds_no_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    path = Path(__file__).parents[2] / "examples" / "tutorial.ipynb"
    notebook = nbformat.read(path, 4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = json.dumps(notebook)
    assert "did you mean training.learning_rate" in said and "as recorded" in said
    assert sum("image/png" in json.dumps(cell.get("outputs", [])) for cell in notebook.cells) == 3
