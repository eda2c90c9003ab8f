"""One start of Flower's runtime for all tests that run on it: a process of its own, which is told run after run.

A line on its standard input names a config and a folder; a line on its standard output tells what the run ended at, or what it failed with.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedvision.experiment import Experiment, load
from fedvision.schema import render

NODES, WORKERS = 8, 2  # as many sites as a run may have, and how many work at once
ROOT = Path(__file__).parents[1]


class FlowerRuns:
    """The process, from the outside; a context manager."""

    def __enter__(self) -> "FlowerRuns":
        self._folder = tempfile.TemporaryDirectory(prefix="flower-", dir="/tmp")  # Ray's sockets: a longer path would not fit
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        here = {"PYTHONPATH": path, "RAY_TMPDIR": self._folder.name, "RAY_USAGE_STATS_ENABLED": "0"}
        self._said = Path(self._folder.name) / "stderr"
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env={**os.environ, **here},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=60)  # the end of its input ends it
        finally:
            self._process.kill()
            self._folder.cleanup()

    def run(self, config: Path | Experiment, out: Path) -> dict[str, Any]:
        """The summary of a simulation with a run folder at `out`; fails as it failed."""
        if isinstance(config, Experiment):
            out.parent.mkdir(parents=True, exist_ok=True)
            (out.parent / f"{out.name}.yaml").write_text(render(config))
            config = out.parent / f"{out.name}.yaml"
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended: below it is told with what
            print(json.dumps([str(config), str(out)]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"Flower's process ended: {self._said.read_text()[-3000:]}"
        told = json.loads(line)
        assert "error" not in told, f"{told}\n{self._said.read_text()[-3000:]}"
        return told["summary"]  # type: ignore[no-any-return]


def conduct(first: Any) -> None:
    """Run what the standard input names, until it ends.  Flower's workers read in each message which run it is of."""
    from server.exchange import GridExchange
    from simulations.flower import premises
    from simulations.run import simulate

    nodes = [first.__dict__["_node"][site] for site in first.sites()]  # by the number of the partition: the roll is called once

    def on_nodes(setting: Any, inner: Callable[..., Any]) -> Any:
        exchange, sites = GridExchange.__new__(GridExchange), tuple(setting.data.sites)
        assert len(sites) <= NODES
        exchange.__dict__ |= first.__dict__ | {
            "premises": premises(setting), "_sites": sites, "_node": dict(zip(sites, nodes, strict=False)), "_busy": 0.0
        }  # fmt: skip
        return inner(exchange)

    for line in sys.stdin:
        config, out = json.loads(line)
        try:
            experiment = load(Path(config), ["engine.name=flower", f"engine.workers={WORKERS}"])
            told = {"summary": simulate(experiment, Path(out), None, quiet=True, engine=on_nodes)[1]}
        except Exception as error:  # told to the test, which fails with it
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), file=ANSWERS, flush=True)


def serve(folder: Path) -> None:
    """Start Flower's runtime with NODES nodes, and conduct on it."""
    from flwr.simulation import run_simulation

    from clients.app import app as client
    from fedvision.data.federation import open_federated
    from fedvision.errors import EngineError
    from fedvision.schema import validate
    from server.app import Conductor
    from simulations.flower import _backend, _environment_kept, _quiet, premises
    from simulations.setting import Setting

    blocks = {"data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": NODES}, "federation": {"rounds": 1}}
    experiment = validate(Experiment, blocks, "the roll")
    data = open_federated(experiment)
    conductor = Conductor(conduct, data.sites, premises(Setting(experiment, data, folder / "sites", print)), WORKERS)
    with _quiet(), _environment_kept():
        try:
            run_simulation(conductor.app(), client, NODES, backend_config=_backend(WORKERS, 0.0))
        except Exception as error:  # else its own thread would wait for the workers for ever
            conductor.halt(EngineError(f"Flower's runtime stopped: {error!r}, because of {error.__cause__!r}"))
    conductor.outcome()


if __name__ == "__main__":
    from simulations.flower import ALONE

    os.environ.update(ALONE)
    ANSWERS = os.fdopen(os.dup(1), "w")  # what anything else prints goes beside the answers
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as scratch:
        serve(Path(scratch))
