"""What a page is made of: a run as it was kept, and sections with their plots and tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedvision.schema import read_yaml
from fedvision.tracking.figures import metric_names, site_metrics
from fedvision.tracking.folder import RunFolder, write_atomically


@dataclass(frozen=True)
class Plot:
    """A drawn plot with its caption."""

    name: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a head.  numbers: all columns but the first are numbers.  folded: the words that unfold it."""

    head: list[str]
    body: list[list[str]]
    numbers: bool = True
    folded: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    notes: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A run as it was kept, read once.

    config is the plain mapping, not an Experiment: runs of older versions, whose keys we no longer know, are drawn too.
    """

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    records: list[dict[str, Any]]
    partition: dict[str, Any]
    environment: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Run":
        """The run in the folder `path`; RunFolderError or ConfigError where it cannot be read."""
        folder = RunFolder.open(path)
        config = read_yaml(folder.path / "config.yaml")
        return cls(folder.path, config, folder.summary(), folder.rounds(), folder.partition(), folder.environment())

    def get(self, key: str) -> Any:
        """The config's value at "a.b"; None where it has no such key."""
        value: Any = self.config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.summary.get("name") or self.get("name"))

    @property
    def kind(self) -> str:
        """simulate, centralised or local."""
        return str(self.summary.get("kind", "simulate"))

    @property
    def status(self) -> str:
        """How the run stands: running, completed, interrupted, ..."""
        return str(self.summary.get("status", "running"))

    @property
    def best(self) -> str:
        """The main metric."""
        return str(self.get("evaluation.best") or "accuracy")

    @cached_property
    def sites(self) -> dict[str, dict[str, Any]]:
        """The last metrics of each site."""
        return site_metrics(self.summary, self.records)

    @cached_property
    def metrics(self) -> list[str]:
        """The names of all metrics, the main one first."""
        return metric_names(self.records, self.best, [*self.sites.values(), self.summary.get("metrics") or {}])

    @property
    def last_evaluation(self) -> Mapping[str, Any] | None:
        """The evaluation of the last round that had one."""
        return next((record["evaluation"] for record in reversed(self.records) if record.get("evaluation")), None)

    @property
    def step(self) -> str:
        """What a record is: a round, or an epoch of pooled training."""
        return "epoch" if self.kind == "centralised" else "round"

    @property
    def site_count(self) -> int:
        """Number of sites, as far as the run tells."""
        return len(self.partition.get("sites") or self.sites) or self.get("partition.sites") or 0


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template of this package; every text in `values` is escaped, only the plots' own SVG is not."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_atomically(path, templates.get_template(template).render(version=version("fedvision"), **values).encode())
