"""How a config is read: strict, complete, and with errors that name the key, the value, what is allowed, the nearest key."""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from fedvision.errors import ConfigError


class Section(BaseModel):
    """One block of a config: frozen, strict (no string is taken for a number), and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class _Loader(yaml.SafeLoader):
    """YAML with 1e-3 read as a number, `on`/`yes` read as words, and a key given twice refused (YAML 1.2's core schema)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise ConfigError(f"line {node.start_mark.line + 1}: the key {twice!r} is given twice; keep one")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, rule)
        for tag, rule in rules
        if tag not in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"}
    ]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def parse(text: str) -> Any:
    """The YAML value in `text`; ConfigError with line and column where it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"not YAML: {where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError where there is no such file or no mapping in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1, 0.4)
        near = f"; did you mean {path.parent / beside[0]}?" if beside else "; `fedvision list configs` shows what is there"
        raise ConfigError(f"there is no config {path}{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    try:
        value = parse(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, and this is {type(value).__name__}")
    return value


def with_settings(values: Mapping[str, Any], settings: list[str], section: type[Section]) -> dict[str, Any]:
    """`values` with each "a.b=value" of `settings` put in.  A setting that changes what a block IS (strategy.name,
    partition.scheme, data.dataset) drops the keys that only the old kind knows."""
    result = _copy(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting!r}: write it as key=value, for example --set federation.rounds=5")
        try:
            value = parse(text)
        except ConfigError as error:
            raise ConfigError(f"--set {setting!r}: {error}") from None
        _put(result, key.strip().split("."), value, section)
    return result


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _put(values: dict[str, Any], path: list[str], value: Any, section: type[Section]) -> None:
    here: Any = values
    kind: Any = section
    for number, name in enumerate(path[:-1]):
        field = _field(kind, name)
        if here.get(name) is None and field is not None:
            here[name] = {}
        here = here.get(name)
        if not isinstance(here, dict):
            known = ".".join(path[: number + 1])
            raise ConfigError(f"--set {'.'.join(path)}: there is no block {known} in this config{_near(path[: number + 1], section)}")
        kind = field.annotation if field is not None else None
        variants = _variants(field)
        if variants:
            tag = field.discriminator if field is not None else None
            if tag == path[-1] and number == len(path) - 2 and value in variants:
                for old in set(here) - set(variants[value].model_fields):
                    del here[old]
            kind = variants.get(str(here.get(str(tag))))
    here[path[-1]] = value


def validate(section: type[Section], values: Mapping[str, Any], source: str) -> Any:
    """`values` as a `section`; ConfigError listing each mistake, a line each, where they are not one."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = [_line(mistake, section, values) for mistake in error.errors()]
        raise ConfigError(f"{source}: " + "\n  ".join(dict.fromkeys(lines))) from None


def _line(mistake: Any, section: type[Section], values: Any) -> str:
    path = _path(mistake["loc"], section)
    key, value = ".".join(map(str, path)), mistake["input"]
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "extra_forbidden":
        shown = "" if isinstance(value, dict) else f" (= {value!r})"
        return f"{key}{shown}: unknown key{_near(path, section, values)}"
    if kind == "missing":
        return f"{key}: this key is missing; it has no default"
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        allowed = [name.strip(" '") for name in context["expected_tags"].split(",")]
        return f"{key}.{tag} = {context['tag']!r}: allowed are {', '.join(allowed)}{_nearest(context['tag'], allowed)}"
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        return f"{key}.{tag}: this key is missing; it says which kind of block this is"
    if kind == "value_error":
        return f"{key} = {value!r}: {context['error']}" if path and not isinstance(value, dict) else str(context["error"])
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"{key} = {value!r}: allowed are {context['expected']}{_nearest(str(value), allowed)}"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return f"{key} = {value!r}: this is a block of keys, not one value{_near([*path, '?'], section, values)}"
    return f"{key} = {value!r}: {mistake['msg'].replace('Input should', 'it should')}"


def _path(location: tuple[Any, ...], section: type[Section]) -> list[str]:
    """Pydantic's location without the names of union members that it puts in between."""
    path: list[str] = []
    kind: Any = section
    rest = list(location)
    while rest:
        name = rest.pop(0)
        field = _field(kind, name)
        path.append(str(name))
        variants = _variants(field)
        if variants and rest and rest[0] in variants:
            kind = variants[rest.pop(0)]
        else:
            kind = next(iter(_sections(field.annotation)), None) if field is not None else None
            while rest and kind is not None and rest[0] == kind.__name__:
                rest.pop(0)
    return path


def _field(kind: Any, name: Any) -> FieldInfo | None:
    for section in _sections(kind):
        if name in section.model_fields:
            return section.model_fields[name]
    return None


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) in {Union, type(int | str)} or get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _sections(argument)


def _variants(field: FieldInfo | None) -> dict[str, type[Section]]:
    """The sections of a tagged block by the value of its tag; {} for any other field."""
    tag = field.discriminator if field is not None else None
    if field is None or not isinstance(tag, str):
        return {}
    return {value: kind for kind in _sections(field.annotation) for value in get_args(kind.model_fields[tag].annotation)}


def leaves(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every key of a config as "a.b", the keys of all kinds of a tagged block included."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections(field.annotation):
            yield from leaves(inner, f"{prefix}{name}.")


def _near(path: list[str], section: type[Section], values: Any = None) -> str:
    kind: list[Any] = [section]
    for name in path[:-1]:
        field = next((f for f in (_field(k, name) for k in kind) if f is not None), None)
        values = values.get(name) if isinstance(values, Mapping) else None
        variants = _variants(field)
        tag = field.discriminator if field is not None else None
        tagged = variants.get(str(values.get(str(tag)))) if variants and isinstance(values, Mapping) else None
        kind = [tagged] if tagged else list(_sections(field.annotation)) if field is not None else []
    siblings = list(dict.fromkeys(name for k in kind for name in k.model_fields))
    allowed = f"; allowed here: {', '.join(siblings)}" if siblings else ""
    close = difflib.get_close_matches(path[-1], siblings, 1, 0.55)
    if close:
        return f"; did you mean {'.'.join([*path[:-1], close[0]])}?{allowed}"
    everywhere = {leaf.rpartition(".")[2]: leaf for leaf in leaves(section)}
    initials = {"".join(word[0] for word in name.split("_")): name for name in [*everywhere, *siblings]}
    close = [initials[path[-1]]] if path[-1] in initials else difflib.get_close_matches(path[-1], list(everywhere), 1, 0.55)
    return (f"; the nearest key is {everywhere[close[0]]}" if close else "") + allowed


def _nearest(value: Any, allowed: list[str]) -> str:
    close = difflib.get_close_matches(str(value), allowed, 1, 0.4)
    return f"; did you mean {close[0]}?" if close else ""


def render(section: Section, indent: int = 0) -> str:
    """`section` as complete YAML: every key, its value, and its description (with the unit) as a comment."""
    lines = []
    for name, field in type(section).model_fields.items():
        value, pad = getattr(section, name), "  " * indent
        if isinstance(value, Section):
            note = (type(value).__doc__ or "").strip().splitlines()[0]
            lines += [f"{pad}{name}:  # {note}", render(value, indent + 1)]
        else:
            lines.append(f"{pad}{name}: {_scalar(value)}  # {field.description}")
    text = "\n".join(lines)
    return text + "\n" if indent == 0 else text


def _scalar(value: Any) -> str:
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    if isinstance(value, float):
        return repr(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()


def flat_values(section: Section, prefix: str = "") -> dict[str, Any]:
    """Every key of a config as "a.b" with its value."""
    result: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        result |= flat_values(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name: value}
    return result
