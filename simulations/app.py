"""The ServerApp of `flwr run .`: the experiment comes from Flower's run config, the sites from Flower's simulated nodes.

From the checkout, with the package installed and no network (export the first three lines' settings before the first
run: Flower keeps a SuperLink running in the background, with the environment in which it was first started):

    export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 RAY_USAGE_STATS_ENABLED=0
    export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
    export FLWR_HOME=$PWD/runs/flower FLWR_LOCAL_SUPERLINK_HTTP_API_PORT=39191
    flwr run . --stream --federation-config "num-supernodes=20 client-resources-num-cpus=1" \\
        --run-config 'set="federation.rounds=3,tracking.mlflow=null" out="runs/on-flower"'

Flower's own exit code is 0 whatever becomes of the run; the run folder's summary.json says how it ended.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedvision.experiment import Experiment, load
from fedvision.types import Exchange
from server.exchange import GridExchange
from simulations.flower import premises
from simulations.run import simulate
from simulations.setting import Setting

app = ServerApp()
ROOT = Path(__file__).parents[1]  # of the bundle, or of the checkout: where configs/ lies


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names, over the nodes of `grid`; says where its folder is."""
    given = {name: str(context.run_config.get(name, "")) for name in ("config", "set", "out")}
    experiment = experiment_of(given["config"], given["set"])

    def on_grid(setting: Setting, conduct: Callable[[Exchange], Any]) -> Any:
        workers = os.cpu_count() or 1  # one for each processor, where client-resources-num-cpus = 1
        return conduct(GridExchange(grid, setting.data.sites, premises(setting), workers))

    folder, summary = simulate(experiment, Path(given["out"]).absolute() if given["out"] else None, None, engine=on_grid)
    print(f"run folder {folder.path.absolute()}, model {summary['model_sha256']}")
    if not experiment.tracking.report:
        print(f"draw its report with: fedvision report {folder.path.absolute()}")


def experiment_of(config: str, settings: str) -> Experiment:
    """The experiment in `config` (a path from the bundle's root) with comma-separated settings put in.

    A report is not drawn where its templates are missing, which Flower does not take into a bundle.
    """
    from fedvision.tracking import report

    mine = ["engine.name=flower", "engine.address=null"]
    if not (Path(report.__file__).parent / "templates").is_dir():
        mine.append("tracking.report=false")
    return load(ROOT / config, [*split_settings(settings), *mine])


def split_settings(settings: str) -> list[str]:
    """Settings by key: a comma inside a value, as in data.mean=[0.5, 0.5], stays.

    >>> split_settings("federation.rounds=3, data.mean=[0.5,0.5],name=a")
    ['federation.rounds=3', 'data.mean=[0.5,0.5]', 'name=a']
    """
    return [part.strip() for part in re.split(r",(?=\s*[a-z_]+(?:\.[a-z_]+)*=)", settings) if part.strip()]
