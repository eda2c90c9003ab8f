"""A cluster of two nodes, here two Ray nodes on one machine: runs join it, spread over it, and outlive one of its nodes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_runs import digits, workers

SCAFFOLD = {"strategy": {"name": "scaffold"}, "federation": {"rounds": 3, "sampling": "fixed", "cohort": 5}}

# Each part runs in a process of its own, because a process joins one Ray at a time, and the tests' own has joined another.
CLUSTER = """
import os, sys
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
from ray.cluster_utils import Cluster
from simulations.ray_bare import bare
with bare():  # as a run starts its own: seconds sooner
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    node = cluster.add_node(num_cpus=2)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(node, allow_graceful=False)
    print("gone", flush=True)
cluster.shutdown()
"""
RUN = """
import json, sys
from pathlib import Path
from fedvision.experiment import Experiment
from fedvision.schema import validate
from simulations import ray_exchange
from simulations.ray_crew import Crew
from simulations.run import simulate
out, values, loss = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "lose a node"
nodes = []

class Losing(ray_exchange.OnRay):
    def ask(self, requests):
        nodes.extend(sorted({hand.who.split()[-1] for hand in self.crew.hands}) if not nodes else ())
        for number, reply in enumerate(super().ask(requests)):
            if loss and number == 1 and not getattr(self, "lost", False):
                self.lost = True
                print("now", flush=True)
                assert sys.stdin.readline() == "gone\\n"
            yield reply

ray_exchange.OnRay = Losing
folder, summary = simulate(validate(Experiment, values, "test"), out, None, quiet=True)
print(json.dumps({"sha": summary["model_sha256"], "nodes": nodes}))
"""
UNSEEN = """
import json, sys
from pathlib import Path
from fedvision.data.federation import open_federated
from fedvision.errors import EngineError
from fedvision.experiment import Experiment
from fedvision.schema import validate
from simulations import ray_exchange
from simulations.setting import Setting
experiment = validate(Experiment, json.loads(sys.argv[2]), "test")
ray_exchange._write_probe = lambda job: None  # as if the folder were another one than the workers'
try:
    ray_exchange.run_on_ray(Setting(experiment, open_federated(experiment), Path(sys.argv[1]), print), lambda exchange: None)
except EngineError as error:
    print(error)
"""

pytestmark = pytest.mark.ray


class Program:
    """A Python program with its ends in our hands."""

    def __init__(self, code: str, *words: str):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, line: str) -> None:
        """Give it a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[tuple[Program, str]]:
    """Two nodes of two CPUs each, and their address; the second is lost at a word."""
    cluster = Program(CLUSTER)
    yield cluster, cluster.line().strip()
    assert cluster.process.stdin is not None
    cluster.process.stdin.close()
    cluster.process.wait(timeout=60)


def values(address: str, **blocks: Any) -> str:
    """An experiment as JSON."""
    return json.dumps(digits(workers(2, address=address), **blocks).model_dump())


def test_a_run_on_two_nodes_ends_at_the_bytes_of_a_loop_also_where_one_is_lost(
    two_nodes: tuple[Program, str], run: Any, tmp_path: Path
) -> None:
    """One test, because what is lost cannot be had back: a run over both nodes, and one that loses the second."""
    cluster, address = two_nodes
    _, loop = run("loop", {"name": "inline"}, **SCAFFOLD)
    whole = json.loads(Program(RUN, str(tmp_path / "whole"), values(address, **SCAFFOLD), "").line())
    assert whole["sha"] == loop["model_sha256"]
    assert len(whole["nodes"]) == 2  # the workers were spread
    losing = Program(RUN, str(tmp_path / "losing"), values(address, **SCAFFOLD), "lose a node")
    assert losing.line() == "now\n"
    cluster.tell("lose\n")
    assert cluster.line() == "gone\n"
    losing.tell("gone\n")
    assert json.loads(losing.line())["sha"] == loop["model_sha256"]
    assert " died: " in (tmp_path / "losing" / "run.log").read_text()


def test_a_node_that_does_not_see_the_sites_states_is_refused_before_the_first_round(
    two_nodes: tuple[Program, str], tmp_path: Path
) -> None:
    said = Program(UNSEEN, str(tmp_path / "states"), values(two_nodes[1], **SCAFFOLD)).line()
    assert said.startswith(f"strategy.name = scaffold keeps states of the sites in {tmp_path / 'states'}, and the worker on Ray node ")
    assert "put the run (--out) on a file system that all nodes share" in said
