"""What is brought from outside: a data set, model, task, strategy or partition that a config names by where it stands.

    my_file.py:thing          a Python file; a relative path starts at the config's folder
    package.module:thing      an installed package
    name                      an entry point of the group "fedvision.datasets", "fedvision.models", ... of an installed package

Its code runs in the process of whoever runs the config: bring only what you would run yourself.  A site that is sent a config by a
coordinator runs none of it, unless it says so itself: `refuse_from_outside`.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedvision.errors import ConfigError

if TYPE_CHECKING:
    from fedvision.experiment import Experiment

ALLOWED = "FEDVISION_RUNS_BROUGHT_CODE"  # in the environment of a site: 1 = it runs what a coordinator's config names
_VOUCHED = ".brought"  # file among the sites' states of a simulation: the hash of the config whose code may be run
GROUPS = ("datasets", "models", "tasks", "strategies", "clients", "partitions")
_WRITTEN = re.compile(r"(?P<place>.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<thing>[A-Za-z_]\w*)")
_HOW = "write FILE.py:NAME, PACKAGE.MODULE:NAME, or the name of an entry point"


@functools.cache
def by_entry_point(group: str) -> dict[str, EntryPoint]:
    """What installed packages offer under "fedvision.<group>", by name."""
    return {point.name: point for point in sorted(entry_points(group=f"fedvision.{group}"), key=lambda p: p.name)}


def is_brought(reference: str, group: str) -> bool:
    """Whether `reference` is of one of the three forms, and not the name of something that is here."""
    return _WRITTEN.fullmatch(reference) is not None or reference in by_entry_point(group)


def from_folder(reference: str, folder: Path) -> str:
    """`reference` with the path of its file made absolute, starting at `folder`.

    >>> from_folder("nets.py:small", Path("/study")), from_folder("my_package.nets:small", Path("/study"))
    ('/study/nets.py:small', 'my_package.nets:small')
    """
    place, _, thing = reference.rpartition(":")
    return f"{(folder / place).resolve()}:{thing}" if place.endswith(".py") else reference


def in_short(reference: str) -> str:
    """`reference` without the folders of its file, for a sentence.

    >>> in_short("/study/nets.py:small"), in_short("torchvision/resnet18")
    ('nets.py:small', 'torchvision/resnet18')
    """
    place, _, thing = reference.rpartition(":")
    return f"{Path(place).name}:{thing}" if place.endswith(".py") else reference


def references(experiment: "Experiment") -> Iterator[tuple[str, str, str]]:
    """(key, reference, group) of all that `experiment` brings."""
    sections = (("data", "datasets"), ("partition", "partitions"), ("strategy", "strategies"))
    for name, group in sections:
        source = getattr(getattr(experiment, name), "source", None)
        if source is not None:
            yield f"{name}.source", source, group
    client = getattr(experiment.strategy, "client", None)
    if client is not None:
        yield "strategy.client", client, "clients"
    if is_brought(experiment.model.name, "models"):
        yield "model.name", experiment.model.name, "models"
    if is_brought(experiment.task, "tasks"):
        yield "task", experiment.task, "tasks"


def digests(experiment: "Experiment") -> dict[str, str]:
    """SHA-256 of each file that `experiment` brings, by the key that names it; ConfigError where one or its NAME is not there."""
    result = {}
    for key, reference, group in references(experiment):
        find(reference, key, group)
        place, _ = _parts(reference, key, group)
        result[key] = hashlib.sha256(_file(place, reference, key).read_bytes()).hexdigest()
    return result


def vouch(experiment: "Experiment", states: Path) -> None:
    """Say to this machine's own workers that what `experiment` names was named here: only who can write here can say so."""
    if any(references(experiment)):
        states.mkdir(parents=True, exist_ok=True)
        (states / _VOUCHED).write_text(_said(experiment.model_dump_json()))


def refuse_from_outside(experiment: "Experiment", sent: str, states: Path) -> None:
    """ConfigError where a config that somebody else sent names code to run, and nothing on this machine allows it.

    sent: the config as it came.  states: where the sites of this machine keep what is theirs.
    """
    named = next(references(experiment), None)
    if named is None or os.environ.get(ALLOWED) == "1":
        return
    note = states / _VOUCHED
    if not note.is_file() or note.read_text() != _said(sent):
        raise ConfigError(
            f"{named[0]} = {named[1]!r} names code that the coordinator wants to be run here: set {ALLOWED}=1 in this machine's environment "
            "to allow it, after you have read that code"
        )


def _said(config: str) -> str:
    return hashlib.sha256(config.encode()).hexdigest()


def changed_since(value: Callable[[str], Any], recorded: Mapping[str, str]) -> list[str]:
    """Which of the files that a run brought are no more what it recorded, a sentence each.  value: of a key of its config."""
    sentences = []
    for key, sha256 in recorded.items():
        path = Path(str(value(key)).rpartition(":")[0])
        if path.suffix == ".py" and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            sentences.append(f"{path.name}, which {key} names, has changed since this run: its SHA-256 was {sha256[:12]}….")
    return sentences


def find(reference: str, key: str, group: str) -> Any:
    """The thing that `reference`, the value of `key`, names; ConfigError where there is no such file, package or name."""
    place, thing = _parts(reference, key, group)
    module = _from_file(_file(place, reference, key), reference, key) if place.endswith(".py") else _import(place, reference, key)
    if not hasattr(module, thing):
        own = [n for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise ConfigError(f"{key} = {reference!r}: {place} has no {thing!r}; it has {', '.join(own) or 'nothing of its own'}")
    return getattr(module, thing)


def make(reference: str, key: str, group: str, *given: Any, **options: Any) -> Any:
    """What the thing that `reference` names returns when it is called; ConfigError where it does not take the options."""
    thing: Callable[..., Any] = find(reference, key, group)
    try:
        inspect.signature(thing).bind(*given, **options)
    except (TypeError, ValueError) as error:
        said = f"{len(given)} value{'s' if len(given) != 1 else ''} and the options {', '.join(options) or '(none)'}"
        raise ConfigError(f"{key} = {reference!r} is called with {said}: {error}; it takes {_signature(thing)}") from None
    return thing(*given, **options)


def _signature(thing: Any) -> str:
    return str(inspect.signature(thing)) if callable(thing) else f"nothing, being {type(thing).__name__}"


def _parts(reference: str, key: str, group: str) -> tuple[str, str]:
    point = by_entry_point(group).get(reference)
    match = _WRITTEN.fullmatch(point.value if point is not None else reference)
    if match is None:
        known = f" (there are {', '.join(by_entry_point(group))})" if by_entry_point(group) else ""
        raise ConfigError(f"{key} = {reference!r}: {_HOW} of fedvision.{group}{known}")
    return match["place"], match["thing"]


def _file(place: str, reference: str, key: str) -> Path:
    if place.endswith(".py"):
        path = Path(place).absolute()
        if not path.is_file():
            raise ConfigError(f"{key} = {reference!r}: there is no file {path}; a relative path starts at the config's folder")
        return path
    module = _import(place, reference, key)
    if module.__file__ is None:
        raise ConfigError(f"{key} = {reference!r}: {place} is a package without code of its own; name the module that defines it")
    return Path(module.__file__)


def _import(place: str, reference: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key} = {reference!r}: no module {error.name!r} is installed here; install it, or give a file") from None


def _from_file(path: Path, reference: str, key: str) -> ModuleType:
    """The module in a file, run once for each content that the file has had: an edited file counts at once in a notebook."""
    content = path.read_bytes()
    name = f"fedvision_brought_{path.stem}_{hashlib.sha256(str(path).encode() + content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it runs
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except Exception as error:  # whatever somebody else's file raises, it is said with the line where
        del sys.modules[name]
        raise ConfigError(
            f"{key} = {reference!r}: {path.name} does not run: {_where(error, path)}{type(error).__name__}: {error}"
        ) from error
    return module


def _where(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {lines[-1]}: " if lines else ""
