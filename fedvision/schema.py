"""How a config is read: strict, complete, and with errors that name the key, the value, what is allowed, the nearest key."""

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from fedvision.errors import ConfigError

_DEEPEST = 32  # blocks inside blocks that are read
_LARGEST = 1 << 20  # bytes of a config
_LONGEST_NUMBER = 100  # digits
_MOST_MISTAKES = 12  # shown at once

Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Units = Annotated[int, Field(ge=1, le=65_536)]  # of a layer: what still fits in memory
Sites = Annotated[int, Field(ge=1, le=1_000_000)]
Side = Annotated[int, Field(ge=4, le=4096)]


def _each_has_a_name(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for item in items:
        if not isinstance(item.get("name"), str):
            raise ValueError(
                f"{item} has no name: each is a mapping of a name and its options, e.g. {{name: RandomHorizontalFlip, p: 0.5}}"
            )
    return items


Transforms = Annotated[list[dict[str, Any]], AfterValidator(_each_has_a_name)]


class Section(BaseModel):
    """One block of a config: frozen, strict (no string is taken for a number), finite, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: 1e-3 is a number, `on` and `yes` are words, 010 is ten.  What no config needs and what can
    hurt is refused: a key given twice, aliases (a few lines of them unfold to gigabytes), tags, endless nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(
                f"{line}: *{event.anchor} stands for something written elsewhere, and a config is read as it stands; write it out"
            )
        if getattr(event, "tag", None) not in {None, "!"}:
            raise ConfigError(f"{line}: the tag {event.tag!r} is not read here; write a plain value")
        if self.depth == _DEEPEST:
            raise ConfigError(f"{line}: blocks inside blocks, more than {_DEEPEST} deep; a config needs no more than 4")
        self.depth += 1
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((number for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            line = node.value[twice][0].start_mark.line + 1
            raise ConfigError(f"line {line}: the key {keys[twice]!r} is given twice; keep one")
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int | str:
        text = str(self.construct_scalar(node))
        return int(text) if len(text) < _LONGEST_NUMBER else text  # int() itself refuses thousands of digits


_RULES = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?\d+", "-+0123456789"),
    "float": (r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)", "-+0123456789."),
    "null": (r"~|null|Null|NULL|", "~nN"),
}
_Loader.yaml_implicit_resolvers = {}
for _name, (_rule, _first) in _RULES.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_rule})$"), [*_first, *([""] if _name == "null" else [])])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def parse(text: str) -> Any:
    """The YAML value in `text`; ConfigError with line and column where it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"not YAML: {where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError where there is no such file or no mapping in it."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        beside = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1, 0.4)
        near = f"; did you mean {path.parent / beside[0]}?" if beside else "; `fedvision list configs` shows what is there"
        raise ConfigError(f"there is no config {path}{near}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read: byte {error.start} is not UTF-8; a config is a text file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}; give a YAML file") from None
    if len(content) > _LARGEST:
        raise ConfigError(f"{path} has more than {_LARGEST:,} bytes, which no config needs; give a YAML file")
    try:
        value = parse(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path}: a config is a mapping of keys to values, and this is {'empty' if value is None else type(value).__name__}"
        )
    return value


def with_settings(values: Mapping[str, Any], settings: list[str], section: type[Section]) -> dict[str, Any]:
    """`values` with each "a.b=value" of `settings` put in.

    A setting that changes what a block IS (strategy.name, partition.scheme, data.dataset) goes before the others, drops the
    keys that only the old kind knows, and those at the old kind's default: fedavg's server_learning_rate of 1 is no choice
    that fedadam should inherit.
    """
    result = _copy(values)
    parsed = [_parsed(setting) for setting in settings]
    for path, value in sorted(parsed, key=lambda setting: not _is_tag(setting[0], section)):
        _put(result, path, value, section)
    return result


def _parsed(setting: str) -> tuple[list[str], Any]:
    key, equals, text = setting.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set {setting!r}: write it as key=value, for example --set federation.rounds=5")
    try:
        return path, parse(text)
    except ConfigError as error:
        raise ConfigError(f"--set {setting!r}: {error}") from None


def _is_tag(path: list[str], section: type[Section]) -> bool:
    field = _field(section, path[0]) if len(path) == 2 else None
    return field is not None and field.discriminator == path[1]


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _put(values: dict[str, Any], path: list[str], value: Any, section: type[Section]) -> None:
    here: Any = values
    kind: Any = section
    for number, name in enumerate(path[:-1]):
        field = _field(kind, name)
        if here.get(name) is None and field is not None:
            default = field.get_default(call_default_factory=True)
            here[name] = {t: getattr(default, t) for t in [field.discriminator] if isinstance(t, str) and isinstance(default, Section)}
        here = here.get(name)
        if not isinstance(here, dict):
            known = ".".join(path[: number + 1])
            raise ConfigError(f"--set {'.'.join(path)}: there is no block {known} in this config{_near(path[: number + 1], section)}")
        kind = field.annotation if field is not None else None
        variants = _variants(field)
        if variants:
            tag = field.discriminator if field is not None else None
            if tag == path[-1] and number == len(path) - 2 and isinstance(value, str) and value in variants:
                _become(here, variants.get(str(here.get(tag))), variants[value])
            kind = variants.get(str(here.get(str(tag))))
    here[path[-1]] = value


def _become(block: dict[str, Any], old: type[Section] | None, new: type[Section]) -> None:
    for name in list(block):
        at_default = old is not None and name in old.model_fields and old.model_fields[name].default == block[name]
        if name not in new.model_fields or (old is not new and at_default):
            del block[name]


def validate(section: type[Section], values: Mapping[str, Any], source: str) -> Any:
    """`values` as a `section`; ConfigError listing each mistake, a line each, where they are not one."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = list(dict.fromkeys(_line(mistake, section, values) for mistake in error.errors()))
        more = f"\n  and {len(lines) - _MOST_MISTAKES} more mistakes" if len(lines) > _MOST_MISTAKES else ""
        raise ConfigError(f"{source}: " + "\n  ".join(lines[:_MOST_MISTAKES]) + more) from None


def _line(mistake: Any, section: type[Section], values: Any) -> str:
    """One mistake of pydantic's in the words of the config."""
    path = _path(mistake["loc"], section)
    key, value = ".".join(path), mistake["input"]
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "extra_forbidden":
        said = "" if isinstance(value, dict) else f" (= {_shown(value)})"
        return f"{key}{said}: unknown key{_near(path, section, values)}"
    if kind == "missing":
        return f"{key}: this key is missing; it has no default"
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        allowed = [name.strip(" '") for name in context["expected_tags"].split(",")]
        return f"{key}.{tag} = {_shown(value[tag])}: allowed are {', '.join(allowed)}{_nearest(value[tag], allowed)}"
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        return f"{key}.{tag}: this key is missing; it says which kind of block this is"
    if kind == "value_error":
        return f"{key} = {_shown(value)}: {context['error']}" if path and not isinstance(value, dict) else str(context["error"])
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"{key} = {_shown(value)}: allowed are {context['expected']}{_nearest(value, allowed)}"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return f"{key} = {_shown(value)}: this is a block of keys, not one value{_block(path, value, section, values)}"
    if kind == "invalid_key" or path[-1:] == ["[key]"]:
        return f"{'.'.join(path[:-1])}{'.' if path[:-1] else ''}{_shown(value)}: a key is a word, and this is {type(value).__name__}; put it in quotes"
    if kind == "string_pattern_mismatch":
        return f"{key} = {_shown(value)}: it should match {context['pattern']}"
    return f"{key} = {_shown(value)}: {mistake['msg'].replace('Input should', 'it should')}"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 120, 120


def _shown(value: Any) -> str:
    """A value as one would write it in YAML, and not at length."""
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else _SHORT.repr(value)


def _block(path: list[str], value: Any, section: type[Section], values: Any) -> str:
    """The way out where a block's name was given a value: the key that was meant, or those that there are."""
    field = _field(section, path[0]) if len(path) == 1 else None
    if isinstance(value, str) and value in _variants(field):
        return f"; did you mean {path[0]}.{field.discriminator if field else ''} = {value}?"
    return _near([*path, "?"], section, values)


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
    variants: dict[str, type[Section]] = {}
    tag: Any = None
    for name in path[:-1]:
        field = next((f for f in (_field(k, name) for k in kind) if f is not None), None)
        values = values.get(name) if isinstance(values, Mapping) else None
        variants = _variants(field)
        tag = field.discriminator if field is not None else None
        tagged = variants.get(str(values.get(str(tag)))) if variants and isinstance(values, Mapping) else None
        kind = [tagged] if tagged else list(_sections(field.annotation)) if field is not None else []
    siblings = list(dict.fromkeys(name for k in kind for name in k.model_fields))
    allowed = f"; allowed here: {', '.join(siblings)}" if siblings else ""
    others = [f"{'.'.join(path[:-1])}.{tag} = {name}" for name, other in variants.items() if path[-1] in other.model_fields]
    if others:
        return f"; it is a key of {' and of '.join(others)}{allowed}"
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


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or 1.2 would take for something other than a word."""


_Dumper.yaml_implicit_resolvers = {
    first: [*_Loader.yaml_implicit_resolvers.get(first, []), *yaml.SafeDumper.yaml_implicit_resolvers.get(first, [])]
    for first in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
}


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()


def flat_values(section: Section, prefix: str = "") -> dict[str, Any]:
    """Every key of a config as "a.b" with its value."""
    result: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        result |= flat_values(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name: value}
    return result
