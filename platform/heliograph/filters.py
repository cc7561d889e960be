"""Filters: a small tree of conditions on the catalogue, evaluated to one bit an item.

`filter_parser` reads them from JSON. An item without a value in a column, or with an empty list,
has null there: null equals null and nothing else, and is neither smaller nor larger than anything.
Of a list, one entry must pass all checks. `Not` is true wherever its part is false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from heliograph.attributes import Attribute, Attributes, Kind

Operator = Literal["in", "gt", "gte", "lt", "lte"]
Value = str | float | bool


@dataclass(frozen=True)
class Check:
    """A comparison of an entry: with any of several values, or with one bound."""

    operator: Operator
    values: tuple[Value, ...]
    """Distinct and sorted; exactly one for a bound."""


@dataclass(frozen=True)
class Matches:
    """True of items that have an entry in a column which passes every check."""

    column: str
    kind: Kind
    """As what the column is read."""

    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Missing:
    """True of items that have no value in a column."""

    column: str


@dataclass(frozen=True)
class Not:
    """True where its part is false."""

    part: Filter


@dataclass(frozen=True)
class And:
    """True where all parts are; without any, everywhere."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    """True where a part is; without any, nowhere."""

    parts: tuple[Filter, ...]


Filter = Matches | Missing | Not | And | Or
"""Equal filters mean the same: parts and values stand in one order, without repetition."""


def negated(part: Filter) -> Filter:
    """Return the filter that is true where a part is false."""
    return part.part if isinstance(part, Not) else Not(part)


def joined(kind: type[And] | type[Or], parts: Sequence[Filter]) -> Filter:
    """Join filters: those that are joined the same way melt in, a single one stays itself."""
    flat: dict[Filter, None] = {}
    for part in parts:
        flat.update(dict.fromkeys(part.parts if isinstance(part, kind) else (part,)))
    distinct = sorted(flat, key=repr)
    return distinct[0] if len(distinct) == 1 else kind(tuple(distinct))


def evaluate(condition: Filter, attributes: Attributes) -> NDArray[np.bool_]:
    """Return (items,), true where a filter is."""
    match condition:
        case And(parts):
            everywhere = np.ones(len(attributes), bool)
            for part in parts:
                everywhere &= evaluate(part, attributes)
            return everywhere
        case Or(parts):
            somewhere = np.zeros(len(attributes), bool)
            for part in parts:
                somewhere |= evaluate(part, attributes)
            return somewhere
        case Not(part):
            return ~evaluate(part, attributes)
        case Missing(column):
            kind = attributes.kind(column, column)
            return ~_rows(attributes.read(column, kind or "text").rows, len(attributes))
        case Matches(column, kind, checks):
            return _matching(attributes.read(column, kind), checks, len(attributes))


def _matching(attribute: Attribute, checks: Sequence[Check], items: int) -> NDArray[np.bool_]:
    passed = np.ones(len(attribute.rows), bool)
    for check in checks:
        passed &= np.asarray(_passes(attribute.entries, check), bool)
    return _rows(attribute.rows[passed], items)


def _rows(rows: NDArray[np.int64], items: int) -> NDArray[np.bool_]:
    mask = np.zeros(items, bool)
    mask[rows] = True
    return mask


def _passes(entries: pa.Array, check: Check) -> pa.Array:
    if check.operator == "in":
        return pc.is_in(entries, value_set=pa.array(check.values, entries.type))
    return _BOUNDS[check.operator](entries, pa.scalar(check.values[0], entries.type))


_BOUNDS: dict[Operator, Callable[[pa.Array, pa.Scalar], pa.Array]] = {
    "gt": pc.greater,
    "gte": pc.greater_equal,
    "lt": pc.less,
    "lte": pc.less_equal,
}
