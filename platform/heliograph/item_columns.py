"""Items that arrive online: the columns of the file of items, checked against a catalogue.

An item comes as it would stand in the next file of items, so it goes through the same cleaning.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from heliograph.attributes import FieldError, kind_of, named, shown
from heliograph.catalog import COLUMNS, attribute_name, clean_items, template_columns
from heliograph.config import ItemsConfig
from heliograph.tables import REASON, ROW, is_list
from heliograph.values import iso_microseconds

KINDS = {"text": "text", "number": "a number", "boolean": "true or false", "time": "ISO 8601"}
"""What a value of each kind is called in messages."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXTS = pa.list_(pa.string())


class ItemColumns:
    """What the columns of items are called and hold."""

    def __init__(self, config: ItemsConfig, schema: pa.Schema) -> None:
        """Take the schema of the catalogue that the items go into, as `plain_types` leaves it."""
        self.config = config
        self.schema = schema
        self.types: dict[str, pa.DataType] = dict.fromkeys(
            template_columns(config.text), pa.string()
        )
        for stored in schema:
            if stored.name not in COLUMNS:
                self.types[_source_of(stored.name, config)] = stored.type
        self.types[config.title] = pa.string()
        if config.categories:
            self.types[config.categories] = _TEXTS  # or one text, as it stands in some files
        self.types.pop(config.item_id, None)

    def check(self, columns: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Return the columns of one item, each with a value that fits.

        Raises:
            FieldError: There is no such column, or its value is of another kind.
        """
        return {name: self._fit(name, value, place) for name, value in columns.items()}

    def clean(self, ids: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Bring items into the schema of the catalogue.

        What another catalogue's item has and does not fit here is left out: the items of a bundle
        may have other columns than those of the next.
        """
        given = [row.get(self.config.categories or "") for row in rows]
        as_text = [place for place, value in enumerate(given) if isinstance(value, str)]
        as_list = [place for place, value in enumerate(given) if not isinstance(value, str)]
        cleaned = [
            self._clean([ids[place] for place in some], [rows[place] for place in some], stored)
            for some, stored in ((as_text, pa.string()), (as_list, _TEXTS))
        ]
        order = pa.array(np.argsort([*as_text, *as_list]), pa.int64())
        return pa.concat_tables(cleaned).take(order)

    def _clean(
        self, ids: Sequence[str], rows: Sequence[Mapping[str, Any]], categories: pa.DataType
    ) -> pa.Table:
        """Clean items whose categories are all one text each, or all lists."""
        types = self.types | (
            {self.config.categories: categories} if self.config.categories else {}
        )
        arrays = {self.config.item_id: pa.array(ids, pa.string())}
        for name, stored in types.items():
            arrays[name] = _column([row.get(name) for row in rows], stored)
        cleaned = clean_items(pa.table(arrays), self.config).drop_columns([REASON, ROW])
        missing = [one for one in self.schema if one.name not in cleaned.column_names]
        for one in missing:
            cleaned = cleaned.append_column(one, pa.nulls(len(ids), one.type))
        return cleaned.select(self.schema.names).cast(self.schema)

    def _fit(self, name: str, value: Any, place: str) -> Any:
        stored = self.types.get(name)
        where = f"{place}.{named(name)}"
        if stored is None:
            near = difflib.get_close_matches(name, self.types, n=1, cutoff=0.6)
            there = f"did you mean {near[0]}?" if near else f"it has {', '.join(self.types)}"
            if name == self.config.item_id:
                there = "the identifier is item_id here"
            raise FieldError(where, f"the catalogue has no such column; {there}")
        is_text = name == self.config.categories and isinstance(value, str)
        return fit(value, pa.string() if is_text else stored, where)


def fit(value: Any, stored: pa.DataType, place: str) -> Any:
    """Return a JSON value if a column of a type can hold it.

    Raises:
        FieldError: It cannot.
    """
    if value is None:
        return None
    if is_list(stored):
        if not isinstance(value, list):
            raise FieldError(place, f"expected a list, got {shown(value)}")
        if pa.types.is_fixed_size_list(stored) and len(value) != stored.list_size:
            raise FieldError(place, f"expected {stored.list_size} entries, got {len(value)}")
        return [fit(one, stored.value_type, f"{place}.{n}") for n, one in enumerate(value)]
    kind = kind_of(stored)
    if kind is None:
        raise FieldError(place, f"holds values of type {stored}, which cannot be given online")
    if not _is_of_kind(value, kind):
        raise FieldError(place, f"expected {KINDS[kind]}, got {shown(value)}")
    if kind == "text" and "\0" in value:  # PostgreSQL keeps none
        raise FieldError(place, "has a character that is nothing (U+0000)")
    if isinstance(value, float) and pa.types.is_integer(stored) and not value.is_integer():
        raise FieldError(place, f"expected a whole number, got {shown(value)}")
    try:
        value.encode() if kind == "text" else pa.array([_plain(value, stored)], stored)
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        raise FieldError(place, f"{shown(value)} is no value of type {stored}: {error}") from error
    return value


def _column(values: Sequence[Any], stored: pa.DataType) -> pa.Array:
    """Return values as a column; those that do not fit are missing."""
    try:
        return pa.array([_plain(value, stored) for value in values], stored)
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        return pa.array([_plain(_fitting(value, stored), stored) for value in values], stored)


def _fitting(value: Any, stored: pa.DataType) -> Any:
    try:
        return fit(value, stored, "")
    except FieldError:
        return None


def _plain(value: Any, stored: pa.DataType) -> Any:
    """Return a JSON value as Arrow takes it: times are texts in JSON."""
    if value is None:
        return None
    if is_list(stored):
        if not isinstance(value, list):
            raise TypeError(f"expected a list, got {shown(value)}")
        return [_plain(entry, stored.value_type) for entry in value]
    if kind_of(stored) == "time":
        moment = pa.scalar(int(_microseconds(value)), pa.timestamp("us"))
        return moment.cast(stored, safe=False).as_py()
    return value


def _is_of_kind(value: Any, kind: str) -> bool:
    if kind == "number":
        return isinstance(value, int) and not isinstance(value, bool) or _is_finite(value)
    if kind == "time":
        return isinstance(value, str) and not math.isnan(_microseconds(value))
    return isinstance(value, bool if kind == "boolean" else str)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _microseconds(text: str) -> float:
    try:  # by far the fastest, for nearly all there are
        moment = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (moment - EPOCH) / timedelta(microseconds=1)
    return float(iso_microseconds(pa.chunked_array([pa.array([text], pa.string())]))[0])


def _source_of(attribute: str, config: ItemsConfig) -> str:
    """Return what a column of the catalogue is called in the file of items."""
    source = attribute.removesuffix("_")
    return source if attribute_name(source) == attribute else attribute
