"""The columns of a catalogue as filters and rules see them: typed values, each with its row.

A column has a kind: text, numbers, booleans or times; a list is of the kind of its entries. Text
formats give text whatever a column means, so text can also be read as another kind: a filter that
compares it with a number sees the entries that are numbers, and the others match no number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from heliograph.tables import is_list, strings
from heliograph.values import is_instant, is_numeric, iso_microseconds, microseconds, numbers
from heliograph.workspace import InputError

Kind = Literal["text", "number", "boolean", "time"]

SHOWN = 80
"""Characters of what came that stand in a message."""


class FieldError(InputError):
    """A part of a filter or rule that cannot be used; `place` names it: `filter.year.gte`."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place = place
        self.problem = problem

    def __reduce__(self) -> tuple[type[FieldError], tuple[str, str]]:
        """Travel between processes as place and problem."""
        return FieldError, (self.place, self.problem)


@dataclass(frozen=True)
class Attribute:
    """The values of a column, a list's one by one, without those that are missing."""

    entries: pa.Array
    """(entries,) strings, 64-bit floats or booleans; times are microseconds since 1970."""

    rows: NDArray[np.int64]
    """(entries,) the row of each, ascending."""


class Attributes:
    """All columns of a catalogue, each read when it is first asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._read: dict[tuple[str, Kind], Attribute] = {}

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def kind(self, name: str, place: str) -> Kind | None:
        """Return the kind of a column as it is stored; None: it has no values at all.

        Args:
            name: Of the column.
            place: What asks for it, for the message.

        Raises:
            FieldError: There is no such column, or its values are of none of the kinds.
        """
        if name not in self.table.column_names:
            names = ", ".join(self.table.column_names)
            raise FieldError(place, f"the catalogue has no {shown(name)}; it has {names}")
        kind = kind_of(self.table.schema.field(name).type)
        if kind is None:
            stored = self.table.schema.field(name).type
            raise FieldError(
                place,
                f"{name} holds values of type {stored}, which cannot be compared; "
                "those that can are text, numbers, booleans, times and lists of these",
            )
        return kind if len(self.read(name, kind).rows) else None

    def read(self, name: str, kind: Kind) -> Attribute:
        """Return the values of a column that can be read as one kind: its own, or any of text."""
        found = self._read.get((name, kind))
        if found is None:
            found = self._read[name, kind] = _read(self.table[name], kind)
        return found


def shown(value: object) -> str:
    """Return what came as it stands in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def named(key: object) -> str:
    """Return a key as it stands in a place, cut where it is long."""
    text = str(key)
    return text[:SHOWN] if text.isprintable() else shown(text)


def kind_of(stored: pa.DataType) -> Kind | None:
    """Return the kind of the values of a type, or of a list's entries; None: of none."""
    if is_list(stored):
        return None if is_list(stored.value_type) else kind_of(stored.value_type)
    if pa.types.is_dictionary(stored):
        return kind_of(stored.value_type)
    if is_numeric(stored):
        return "number"
    if pa.types.is_boolean(stored):
        return "boolean"
    if is_instant(stored):
        return "time"
    if pa.types.is_string(stored) or pa.types.is_large_string(stored) or pa.types.is_null(stored):
        return "text"
    return None


def _read(values: pa.ChunkedArray, kind: Kind) -> Attribute:
    values = values.combine_chunks()
    rows = np.arange(len(values))
    if is_list(values.type):
        values = values.cast(pa.list_(values.type.value_type))  # of one shape, and sliced as it is
        lengths = pc.fill_null(pc.list_value_length(values), 0)
        rows, values = np.repeat(rows, lengths), pc.list_flatten(values)
    entries = _READERS[kind](values)
    there = np.asarray(entries.is_valid())
    return Attribute(entries.drop_null(), rows[there])


def _numbers(values: pa.Array) -> pa.Array:
    return _known(numbers(values))


def _times(values: pa.Array) -> pa.Array:
    return _known(microseconds(values) if is_instant(values.type) else iso_microseconds(values))


def _booleans(values: pa.Array) -> pa.Array:
    if pa.types.is_boolean(values.type):
        return values
    texts = pc.utf8_lower(strings(values))
    known = pc.is_in(texts, value_set=pa.array(["true", "false"]))
    return pc.if_else(known, pc.equal(texts, "true"), None)


def _known(read: NDArray[np.float64]) -> pa.Array:
    """Make NaN null, and -0.0 the 0.0 that it equals: look-ups in a set tell them apart."""
    return pa.array(read + 0.0, pa.float64(), from_pandas=True)


_READERS: dict[Kind, Callable[[pa.Array], pa.Array]] = {
    "text": strings,
    "number": _numbers,
    "boolean": _booleans,
    "time": _times,
}
