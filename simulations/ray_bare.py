"""Ray's own start without what a run never asks it for.

`ray.init` starts five Python processes besides its store and scheduler: a dashboard's server, two agents, an autoscaler and a
reader of logs.  Each imports Ray, and the scheduler waits until the agents have said at which ports they listen: ten
seconds of two cores.  Nobody here connects to any of them: metrics and the dashboard are off, workers have no environment of
their own, and logs stay in files.  So they are not started, and where the scheduler insists on an agent it is given a process
that only waits.  (Of the scheduler, `raylet`: it ends when its agents do, and does not start before their ports are in files.)

This reaches into Ray's private parts, which another version may have arranged otherwise: `start` then falls back on
`ray.init` as it is, which takes longer and does the same.
"""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

log = logging.getLogger("fedvision.ray")
_WAITS = [sys.executable, "-I", "-S", "-c", "import os, time; parent = os.getppid()\nwhile os.getppid() == parent: time.sleep(1)"]
_AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
_NO_PORT = 1  # told as the ports of agents that do not listen


def start(**given: Any) -> None:
    """`ray.init(address="local", **given)`, bare where this version of Ray lets us; raises what `ray.init` raises."""
    import ray

    try:
        with bare():
            ray.init(address="local", **given)
    except Exception as error:  # whatever a changed private part raises: Ray as it is shipped decides what is an error
        log.warning("Ray did not start without its agents (%s); starting it with them", error)
        if ray.is_initialized():
            ray.shutdown()
        ray.init(address="local", **given)


@contextmanager
def bare() -> Iterator[None]:
    """While this lasts, a node that is started has no dashboard, autoscaler, log monitor and agents."""
    nodes: Any
    services: Any
    raylet: Any
    nodes, services, raylet = (import_module(name) for name in ("ray._private.node", "ray._private.services", "ray._raylet"))
    ports = [
        getattr(raylet, f"{name}_PORT_NAME") for name in ("DASHBOARD_AGENT_LISTEN", "METRICS_AGENT", "METRICS_EXPORT", "RUNTIME_ENV_AGENT")
    ]
    whole, start_process = nodes.Node, services.start_ray_process

    class Bare(whole):  # type: ignore[misc, valid-type]
        """A node of Ray's without the five."""

        def __init__(self, ray_params: Any, *args: Any, **more: Any):
            ray_params.no_monitor, ray_params.include_log_monitor = True, False
            super().__init__(ray_params, *args, **more)

        def start_api_server(self, **_: Any) -> None:
            self._webui_url = ""

        def start_raylet(self, *args: Any, **more: Any) -> None:
            for name in ports:
                raylet.persist_port(self._session_dir, self._node_id, name, _NO_PORT)
            super().start_raylet(*args, **more)

    def start_waiting(command: list[str], *args: Any, **more: Any) -> Any:
        return start_process([_waiting(part) for part in command], *args, **more)

    nodes.Node, services.start_ray_process = Bare, start_waiting
    try:
        yield
    finally:
        nodes.Node, services.start_ray_process = whole, start_process


def _waiting(part: str) -> str:
    """A part of the scheduler's command, with agents that only wait.

    >>> _waiting("--dashboard_agent_command=python agent.py").startswith("--dashboard_agent_command=" + sys.executable)
    True
    >>> _waiting("--node_id=7")
    '--node_id=7'
    """
    agent = next((name for name in _AGENTS if part.startswith(name)), None)
    return part if agent is None else agent + subprocess.list2cmdline(_WAITS)
