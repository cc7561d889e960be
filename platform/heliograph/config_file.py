"""A YAML file and overrides -> a configuration, or an error that says what to do.

Knows the schema only as something to check against.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from heliograph.config import HeliographConfig, ServeConfig, names_folder

PATHS = (("items", "path"), ("events", "path"), ("splits", "given"), ("embedding", "encoder"))
"""Section and key of each setting that is a path, besides the workspace; an encoder may be one."""


class ConfigError(ValueError):
    """A setting that does not exist or cannot be right; the message says what to do."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> HeliographConfig:
    """Read a YAML file and apply overrides such as `train.lr=1e-3`.

    Relative paths in the file (`workspace`, `items.path`, `events.path`, `splits.given`, and an
    `embedding.encoder` that is a path) are relative to the folder of the file.

    Raises:
        ConfigError: The file is missing or not YAML, a key stands there twice or does not exist
            (the nearest one that does is named), or a value is out of bounds.
    """
    raw = read_mapping(path, "configuration")
    for override in overrides:
        _apply(raw, override)
    return parse_config(_anchor(raw, path.resolve().parent), str(path))


def read_mapping(path: Path, kind: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; `kind` says in errors what it was to be.

    Raises:
        ConfigError: The file is missing, not YAML, has a key twice, or holds something else.
    """
    if not path.is_file():
        raise ConfigError(f"no {kind} at {path}; pass the path of a YAML file")
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_ConfigLoader)
    except _RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        what = "is empty" if raw is None else f"holds {type(raw).__name__}"
        raise ConfigError(f"{path} {what}, but a {kind} is a mapping")
    return raw


def parse_config(raw: dict[str, Any], origin: str) -> HeliographConfig:
    """Check a mapping against the schema; `origin` is named in the errors."""
    try:
        return HeliographConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain_errors(error, HeliographConfig, origin)) from error


def override_serve(serve: ServeConfig, options: Mapping[str, Any]) -> ServeConfig:
    """Set options of the command line; those that are None stay as they are.

    Raises:
        ConfigError: A value is out of bounds.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return ServeConfig.model_validate(serve.model_dump() | given)
    except ValidationError as error:
        raise ConfigError(explain_errors(error, ServeConfig, "the command line")) from error


def dump_config(config: HeliographConfig) -> str:
    """Write a configuration, defaults included, as YAML that `load_config` reads."""
    settings = config.model_dump(mode="json")
    return yaml.dump(settings, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)


def explain_errors(error: ValidationError, schema: type[BaseModel], origin: str) -> str:
    """Say in one line a mistake what came, what was expected and what to do."""
    lines = [f"{origin} is not a valid configuration:"]
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {key}: no such setting{nearest(key, schema)}")
        elif problem["type"] == "literal_error" and problem["loc"][-1] == "[key]":
            choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
            key = key.removesuffix(".[key]")
            lines.append(f"  {key}: no such setting{_nearest_of(choices, key)}")
        elif problem["type"] == "missing":
            lines.append(f"  {key}: is missing, and has no default")
        else:
            lines.append(f"  {key}: {problem['msg']} (got {problem['input']!r})")
    return "\n".join(lines)


def setting_paths(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted path of a schema, sections included; of a list of sections the first."""
    for name, field in schema.model_fields.items():
        yield prefix + name
        section = _section(field.annotation)
        if section is not None:
            first = "0." if get_origin(field.annotation) is tuple else ""
            yield from setting_paths(section, f"{prefix}{name}.{first}")


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a setting is, may be (`X | None`) or lists (`tuple[X, ...]`)."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def nearest(key: str, schema: type[BaseModel]) -> str:
    """Return the end of an error: the path most like one that does not exist, or its siblings."""
    section, dot, _ = key.rpartition(".")
    paths = [path.rpartition(".") for path in setting_paths(schema)]
    as_first = re.sub(r"\.\d+(?=\.|$)", ".0", section)
    siblings = {last: section + dot + last for above, _, last in paths if above == as_first}
    anywhere = {last: above + dot + last for above, dot, last in reversed(paths)}
    return _nearest_in(siblings, key) or _nearest_in(anywhere, key) or _listed(siblings)


def _nearest_of(choices: Sequence[str], key: str) -> str:
    section, dot, _ = key.rpartition(".")
    pool = {choice: section + dot + choice for choice in choices}
    return _nearest_in(pool, key) or _listed(pool)


def _nearest_in(pool: Mapping[str, str], key: str) -> str:
    """Name the path whose last part is most like that of a key; nothing if none is like it."""
    found = difflib.get_close_matches(key.rpartition(".")[2], pool, n=1, cutoff=0.6)
    return f"; did you mean {pool[found[0]]}?" if found else ""


def _listed(pool: Mapping[str, str]) -> str:
    return f"; here are: {', '.join(pool.values())}" if pool else ""


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r} is not of the form section.key=value")
    node = raw
    *sections, last = key.strip().split(".")
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {section} is a value, not a section")
    node[last] = text if _is_text(key.strip()) and text != "null" else _value(text, override)


def _is_text(key: str) -> bool:
    """Tell whether a setting is text: `items.text={title}` is no YAML mapping."""
    schema: type[BaseModel] = HeliographConfig
    *sections, last = key.split(".")
    for section in sections:
        field = schema.model_fields.get(section)
        inner = None if field is None else _section(field.annotation)
        if inner is None:
            return False
        schema = inner
    field = schema.model_fields.get(last)
    return field is not None and field.annotation in (str, str | None, Path)


def _value(text: str, override: str) -> Any:
    try:
        return _number(yaml.load(text, Loader=_ConfigLoader))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value: {error}") from error


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a string; people who type it mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _anchor(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    anchored = dict(raw)
    if isinstance(raw.get("workspace"), str):
        anchored["workspace"] = _at(folder, raw["workspace"])
    for name, key in PATHS:
        section = raw.get(name)
        path = section.get(key) if isinstance(section, dict) else None
        if isinstance(path, str) and (key != "encoder" or names_folder(path)):
            anchored[name] = {**raw[name], key: _at(folder, path)}
    return anchored


def _at(folder: Path, path: str) -> str:
    return path if "://" in path else str(folder / os.path.expanduser(path))


class _RepeatedKeyError(yaml.YAMLError):
    """A key that stands twice in one mapping; YAML would take the last one and say nothing."""


class _ConfigLoader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise _RepeatedKeyError(
                    f"line {line} has the key {key.value!r} again, which line {lines[name]} has "
                    "already; make one of the two, or take one out"
                )
            lines[name] = line
        return node


class _ConfigDumper(yaml.SafeDumper):
    """Escapes the line breaks of Unicode, which PyYAML would write bare and read back as others."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if set(text) & set("\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_ConfigDumper.add_representer(str, _ConfigDumper.represent_text)
