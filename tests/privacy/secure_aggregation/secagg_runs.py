"""Small masked runs on digits, and what to watch and to falsify them with."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clients.workbench import Workbench
from fedvision.data.federation import open_federated
from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.tracking.folder import RunFolder
from server.run import Assignment, federate
from simulations.conditions import Troubled
from simulations.inline import Inline
from simulations.masked import founded
from simulations.run import simulate


def experiment(masked: bool, **changes: Any) -> Experiment:
    """Seven sites on digits, linear, two rounds."""
    values: dict[str, Any] = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "iid", "sites": 7},
        "federation": {"rounds": 2, "min_replies": 5, "max_examples": 1000},
        "model": {"name": "mlp", "width": 4},
        "training": {"batch_size": 50, "learning_rate": 0.5},
        "evaluation": {"sites": "none", "server": {"test": 0.2}},
        "encoding": {"bits": 32},
        "secure_aggregation": {"enabled": masked},
        "tracking": {"mlflow": None, "report": False},
    }
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value}
    return validate(Experiment, values, "the test")


def summary(tmp_path: Path, masked: bool, **changes: Any) -> dict[str, Any]:
    return simulate(experiment(masked, **changes), tmp_path / f"{masked}", None, quiet=True)[1]


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


class Tapped:
    """An exchange that keeps what passes, breaks down at the n-th call, and hands on what `falsify` makes of a reply."""

    def __init__(self, exchange: Any, breaks_at: int = 10**9, falsify: Callable[[Any], Any] = lambda reply: reply):
        self.exchange, self.breaks_at, self.calls, self.falsify = exchange, breaks_at, 0, falsify
        self.asked: list[Mapping[str, Any]] = []
        self.replies: list[Any] = []

    @property
    def requests(self) -> list[Any]:
        """All that was asked, in order."""
        return [request for asked in self.asked for request in asked.values()]

    def ask(self, requests: Mapping[str, Any]) -> Iterator[Any]:
        self.calls += 1
        if self.calls == self.breaks_at:
            raise KeyboardInterrupt
        self.asked.append(requests)
        for reply in map(self.falsify, self.exchange.ask(requests)):
            self.replies.append(reply)
            yield reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self.exchange, name)


class Quiet:
    """A display that shows nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def conducted(
    folder: RunFolder,
    e: Experiment,
    breaks_at: int = 10**9,
    falsify: Callable[[Any], Any] = lambda reply: reply,
    display: Any = None,
) -> tuple[Tapped, dict[str, Any] | None]:
    """Run `e` in the folder over a tapped inline exchange, from where the folder stands."""
    data = open_federated(e)
    states = folder.path / "sites"
    roster = founded(states, e, data.sites) if e.secure_aggregation.enabled else None
    bench = Workbench.set_up(e, data.shape, data.classes, len(data.sites), states)
    tapped = Tapped(Inline(data, bench), breaks_at, falsify)
    exchange = Troubled(tapped, e.conditions, bench.layout, e.seed) if e.conditions.any else tapped
    job = Assignment(e, folder, data.shape, data.classes, {"test": data.server("test")}, roster=roster)
    try:
        return tapped, federate(job, exchange, display or Quiet())
    except KeyboardInterrupt:
        return tapped, None


def new_folder(e: Experiment, path: Path) -> RunFolder:
    return RunFolder.create(e, "simulate", path)
