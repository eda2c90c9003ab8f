"""Where a run ran: what could change its bytes, and what a reader of its report wants to know."""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedvision.brought import digests
from fedvision.experiment import Experiment

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "flwr", "ray", "fedvision")
OUR_PACKAGES = ("fedvision", "privacy", "clients", "server", "simulations")

# key of the environment -> how it is called in a sentence.  What is not here (memory, Ray, Flower) moves no byte.
CHANGES_BYTES = {
    "cpu": "CPU",
    "cpu_capability": "vector instructions",
    "machine": "machine type",
    "device": "device",
    "threads": "torch threads of a worker",
    "python": "Python",
    "versions.torch": "torch",
    "versions.torchvision": "torchvision",
    "versions.timm": "timm",
    "versions.numpy": "numpy",
    "versions.pillow": "pillow",
    "versions.fedvision": "fedvision",
    "source_sha256": "fedvision's source code",
}


def environment(experiment: Experiment) -> dict[str, Any]:
    """Versions, CPU, machine, threads, device and seed of a run that starts here and now; memory in bytes."""
    import psutil
    import torch

    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "source_sha256": source_sha256(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil.cpu_count(logical=True),
        "memory_bytes": psutil.virtual_memory().total,
        "device": _device(experiment.engine.device),
        "engine": experiment.engine.name,
        "workers": experiment.engine.workers,
        "threads": experiment.engine.threads,
        "seed": experiment.seed,
        "brought": digests(experiment),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(wanted: str) -> str:
    import torch

    if wanted == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda ({torch.cuda.get_device_name()})"


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name for itself, as far as the system tells it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def source_sha256() -> str:
    """SHA-256 over the project's own Python files, by path: two checkouts of one version need not be the same code."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in OUR_PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What differs between two environments that could change bytes, a sentence each; [] = the bytes are comparable.

    >>> differences({"threads": 1, "python": "3.11.4"}, {"threads": 2, "python": "3.11.4"})
    ['torch threads of a worker: 1 and 2']
    """
    files = {f"brought/{key}": f"the file that {key} names" for run in (a, b) for key in run.get("brought") or {}}
    pairs = ((name, _at(a, key), _at(b, key)) for key, name in (CHANGES_BYTES | files).items())
    return [f"{name}: {_shown(one)} and {_shown(other)}" for name, one, other in pairs if one != other]


def _at(values: Any, key: str) -> Any:
    for name in key.split("/") if "/" in key else key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _shown(value: Any) -> str:
    text = "not known" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a SHA-256
