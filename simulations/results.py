"""From Python and notebooks: run an experiment, and have what came of it as pandas frames and matplotlib figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedvision.evaluation import flat
from fedvision.experiment import Experiment
from fedvision.learning import METRICS
from fedvision.tracking.folder import RunFolder

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from torch import nn

    from fedvision.data.federation import Federated


def run(
    experiment: Experiment,
    out: str | Path | None = None,
    kind: Literal["simulate", "centralised", "local"] = "simulate",
    *,
    quiet: bool = True,
) -> "Results":
    """Run an experiment and return its results.  out: the run folder, new; None = runs/NAME-KIND-TIME.

    kind: federated, or one of the two lines between which it should lie: all data pooled, each site alone.
    """
    from simulations.baselines import centralised, local
    from simulations.run import simulate

    ways: dict[str, Callable[[], tuple[RunFolder, dict[str, Any]]]] = {
        "simulate": lambda: simulate(experiment, folder, None, quiet),
        "centralised": lambda: centralised(experiment, folder, quiet),
        "local": lambda: local(experiment, folder, quiet),
    }
    folder = Path(out) if out is not None else None
    return Results(ways[kind]()[0].path)


def resume(folder: str | Path, *, quiet: bool = True) -> "Results":
    """Go on with a federated run that was interrupted, as its own config has it."""
    from fedvision.experiment import load
    from simulations.run import config_of, simulate

    path = Path(folder)
    return Results(simulate(load(config_of(path)), None, path, quiet)[0].path)


@dataclass(frozen=True)
class Results:
    """What came of a run, read from its folder, also years later: Results("runs/mine")."""

    path: Path

    @cached_property
    def folder(self) -> RunFolder:
        """The run folder; RunFolderError where there is none."""
        return RunFolder.open(Path(self.path))

    @cached_property
    def experiment(self) -> Experiment:
        """What was run."""
        return self.folder.experiment()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json: status, metrics, model_sha256, notes, ..."""
        return self.folder.summary()

    @property
    def metrics(self) -> "pandas.Series[float]":
        """The figures of the final model, by name."""
        import pandas

        return pandas.Series(self.summary["metrics"], name=self.folder.path.name, dtype=float)

    @property
    def rounds(self) -> "pandas.DataFrame":
        """A row a round, from 1: status, how many were asked and answered, training loss, examples, seconds, and every metric that was
        measured then (NaN where none was)."""
        import pandas

        rows = [
            {
                "round": record["round"] + 1, "status": record["status"], "asked": len(record["asked"]), "answered": len(record["answered"]),
                "training_loss": record["train"]["loss"], "examples": record["train"]["examples"], "seconds": record["seconds"]["total"],
                **flat(record.get("evaluation")),
            }
            for record in self.folder.rounds()
        ]  # fmt: skip
        return pandas.DataFrame(rows).set_index("round") if rows else pandas.DataFrame(index=pandas.Index([], name="round"))

    @property
    def sites(self) -> "pandas.DataFrame":
        """A row a site: how many images it holds by part, and the metrics of the final model on its own test data.  Of each site trained
        alone (kind = local), those of its own model, on the wider test data."""
        import pandas

        held = self.folder.partition()["sites"]
        rows = {site: {part: sum(held[site][part]) for part in ("train", "validation", "test")} for site in held}
        for site, metrics in self.summary.get("sites", {}).items():
            rows.setdefault(site, {}).update(metrics)
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("site")

    @property
    def confusion(self) -> "pandas.DataFrame":
        """Counts of the final model: rows are the truth, columns what it said; empty where nothing was measured."""
        import pandas

        counts, classes = self.summary.get("confusion"), self.summary.get("classes")
        return pandas.DataFrame(counts, index=classes, columns=classes) if counts is not None else pandas.DataFrame()

    @cached_property
    def data(self) -> "Federated":
        """The data as it was shared out; DataError where the images are no more those of the run."""
        from fedvision.data.federation import open_federated

        return open_federated(self.experiment, self.folder.path / "partition.npz")

    def model(self) -> "nn.Module":
        """The final model with its weights, in evaluation mode."""
        from safetensors.torch import load_file

        from fedvision.models import build
        from fedvision.tasks import task_of

        network = build(self.experiment, self.data.shape, task_of(self.experiment, self.data.classes).outputs)
        network.load_state_dict(load_file(self.folder.path / "model.safetensors"))
        return network.eval()

    # --------------------------------------------------------------------------------------------------- figures

    def who_holds_what(self) -> "Figure":
        """Classes by site, and some of their images."""
        from fedvision.data.picture import draw_partition

        return draw_partition(self.data)

    def curves(self, metric: str | None = None, others: Sequence["Results"] = ()) -> "Figure":
        """A metric by round, and that of other runs beside it.  metric: None = what picks the best model."""
        from matplotlib.figure import Figure

        name = metric or self.experiment.evaluation.best
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for result in (self, *others):
            if name in (frame := result.rounds):
                measured = frame[name].dropna()
                axes.plot(measured.index, measured, label=result.folder.path.name, marker="." if len(measured) < 40 else None)
            elif name in result.metrics:
                axes.axhline(result.metrics[name], linestyle="--", color="0.5", label=result.folder.path.name)
        axes.set(xlabel="round", ylabel=name.replace("_", " "))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        return figure

    def by_site(self, metric: str | None = None) -> "Figure":
        """A metric of each site, sorted, with their mean."""
        from matplotlib.figure import Figure

        name = metric or self.experiment.evaluation.best
        values = self.sites[name].dropna().sort_values() if name in self.sites else self.sites.iloc[:, 0][:0]
        figure = Figure(figsize=(7, max(2.0, 0.5 + 0.18 * min(len(values), 60))), layout="constrained")
        axes = figure.subplots()
        if len(values) <= 60:
            axes.barh(values.index, values)
            axes.tick_params(axis="y", labelsize=8)
            axes.set_xlabel(name.replace("_", " "))
        else:
            axes.hist(values, 30)
            axes.set(xlabel=name.replace("_", " "), ylabel="sites")
        if len(values):
            axes.axvline(values.mean(), color="0.3", linestyle="--", label=f"mean {values.mean():.3f}")
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        return figure

    def _repr_html_(self) -> str:
        """In a notebook: the headline figures and where the rest is."""
        import html

        wanted = [m for m in METRICS.get(self.experiment.task, tuple(self.summary["metrics"])) if m in self.summary["metrics"]]
        cells = "".join(f"<tr><td>{html.escape(m)}</td><td>{self.summary['metrics'][m]:.4f}</td></tr>" for m in wanted)
        name = html.escape(f"{self.summary['name']}, {self.summary['kind']}, {self.summary['status']}")
        return f"<b>{name}</b><table>{cells}</table><code>{html.escape(str(self.folder.path))}</code>"
