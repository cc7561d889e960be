"""One setting of a configuration by its dotted path, and which values it takes.

The bounds are those of `heliograph.config`: nothing is said here a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from heliograph.config import HeliographConfig
from heliograph.config_file import ConfigError, nearest, parse_config


@dataclass(frozen=True)
class Setting:
    """What the configuration says of one path."""

    path: str
    kind: Any
    """The type, with its bounds as annotations."""

    @property
    def is_section(self) -> bool:
        """Whether it holds further settings."""
        return _is_model(self.kind)

    @property
    def is_whole_number(self) -> bool:
        """Whether only whole numbers are taken."""
        return _plain(self.kind) is int

    @property
    def is_number(self) -> bool:
        """Whether any number is taken, fractions too."""
        return _plain(self.kind) is float

    def check(self, value: Any) -> Any:
        """Return a value as the configuration would hold it, in what JSON can say.

        Raises:
            ConfigError: The setting does not take the value; the message says what it takes.
        """
        adapter: TypeAdapter[Any] = TypeAdapter(self.kind)
        try:
            return adapter.dump_python(adapter.validate_python(value), mode="json")
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"{self.path}: {problem} (got {value!r})") from error


def find_setting(path: str) -> Setting:
    """Look a path such as `models.als.factors` up.

    Below a mapping a path goes on with its key: `candidates.weights.als`.

    Raises:
        ConfigError: There is no such setting; the nearest one is named.
    """
    kind: Any = HeliographConfig
    for part in path.split("."):
        inner = _plain(kind)
        if _is_model(inner) and part in inner.model_fields:
            field = inner.model_fields[part]
            kind = field.annotation
            if field.metadata:
                kind = Annotated[(kind, *field.metadata)]
        elif get_origin(inner) is dict:
            keys, kind = get_args(inner)
            if part not in get_args(keys):
                names = ", ".join(get_args(keys))
                raise ConfigError(f"{path}: no such setting; here are: {names}")
        else:
            raise ConfigError(f"{path}: no such setting{nearest(path, HeliographConfig)}")
    return Setting(path, kind)


def with_settings(config: HeliographConfig, settings: Mapping[str, Any]) -> HeliographConfig:
    """Return a configuration with other values at some paths.

    A mapping as the value of a section changes what it names and nothing else of the section.

    Raises:
        ConfigError: Together the values are no valid configuration.
    """
    raw = config.model_dump(mode="json")
    for path, value in settings.items():
        *sections, last = path.split(".")
        node = raw
        for section in sections:
            if node[section] is None:
                node[section] = {}
            node = node[section]
        merged = isinstance(value, Mapping) and find_setting(path).is_section
        node[last] = node[last] | value if merged else value
    return parse_config(raw, "the drawn configuration")


def value_at(config: HeliographConfig, path: str) -> Any:
    """Return the value at a path in what JSON can say; None below a mapping that is null."""
    node: Any = config.model_dump(mode="json")
    for part in path.split("."):
        node = None if node is None else node.get(part)
    return node


def _plain(kind: Any) -> Any:
    """Strip bounds and `| None`."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    members = [member for member in get_args(kind) if member is not NoneType]
    return members[0] if NoneType in get_args(kind) and len(members) == 1 else kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
