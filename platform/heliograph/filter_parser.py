"""Filters as JSON -> the tree of `filters`.

    {"genre": ["Comedy", "Drama"], "year": {"gte": 1990, "lt": 2000}}
    {"or": [{"brand": "acme"}, {"not": {"price": {"gt": 100}}}]}

What a filter compares with decides as what text is read: with a number the entries that are
numbers, with true or false those that say so, and times where both sides of a range are ISO 8601.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from heliograph.attributes import Attributes, FieldError, Kind, named, shown
from heliograph.filters import (
    And,
    Check,
    Filter,
    Matches,
    Missing,
    Operator,
    Or,
    Value,
    joined,
    negated,
)

MAX_DEPTH = 8
"""Levels of `and`, `or` and `not` inside each other."""

MAX_CONDITIONS = 64
"""Comparisons, `and`, `or` and `not` of one filter."""

MAX_VALUES = 10_000
"""Values that one filter compares with."""

MAX_TEXT = 1024
"""Characters of a value."""

_RANGES: dict[str, Operator] = {"gt": "gt", "gte": "gte", "lt": "lt", "lte": "lte"}
_COMPARISONS = ("eq", "in", *_RANGES, "not")


def parse_filter(raw: object, attributes: Attributes, place: str = "filter") -> Filter:
    """Read a filter as it came in JSON.

    Args:
        raw: What came.
        attributes: Of the catalogue, which say what columns hold.
        place: What it is called in messages.

    Raises:
        FieldError: It is no filter of this catalogue; says where, what came and what is allowed.
    """
    return _Parser(attributes).filter(raw, place, 1)


@dataclass(frozen=True)
class _Comparison:
    """A comparison as it came, each value with its place."""

    operator: Operator
    values: Sequence[Any]
    places: Sequence[str]


class _Parser:
    """Reads one filter, and counts so that none is too large."""

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        self.conditions = 0
        self.values = 0

    def filter(self, raw: object, place: str, depth: int) -> Filter:
        if not isinstance(raw, Mapping):
            raise FieldError(place, f"came {shown(raw)}, but a filter is an object")
        self._enter(place, depth)
        return joined(And, [self._entry(key, raw[key], place, depth) for key in raw])

    def _entry(self, key: object, raw: object, place: str, depth: int) -> Filter:
        place = f"{place}.{named(key)}"
        if key == "not":
            return negated(self.filter(raw, place, depth + 1))
        if key not in ("and", "or"):
            return self._condition(str(key), raw, place, depth)
        if not isinstance(raw, list) or not raw:
            raise FieldError(place, f"came {shown(raw)}, but {key} takes a list of filters")
        parts = [self.filter(part, f"{place}.{n}", depth + 1) for n, part in enumerate(raw)]
        return joined(And if key == "and" else Or, parts)

    def _condition(self, column: str, raw: object, place: str, depth: int) -> Filter:
        """Read what a column is compared with: a value, a list of values, or comparisons."""
        self.attributes.kind(column, place)
        self._enter(place, depth)
        if not isinstance(raw, dict):
            return self._compared(column, [self._one_of(raw, place)])
        if not raw or (unknown := [key for key in raw if key not in _COMPARISONS]):
            came = shown(unknown[0]) if raw else "{}"
            raise FieldError(place, f"came {came}; comparisons are {', '.join(_COMPARISONS)}")
        comparisons = [
            self._comparison(key, value, f"{place}.{key}")
            for key, value in raw.items()
            if key != "not"
        ]
        parts = [self._compared(column, comparisons)] if comparisons else []
        if "not" in raw:
            other = self._condition(column, raw["not"], f"{place}.not", depth + 1)
            parts.append(negated(other))
        return joined(And, parts)

    def _comparison(self, key: str, raw: object, place: str) -> _Comparison:
        if key == "in" and not isinstance(raw, list):
            raise FieldError(place, f"came {shown(raw)}, but in takes a list of values")
        if key in ("in", "eq"):
            return self._one_of(raw, place)
        if raw is None:
            raise FieldError(place, "came null, which is neither smaller nor larger than anything")
        return _Comparison(_RANGES[key], [raw], [place])

    def _one_of(self, raw: object, place: str) -> _Comparison:
        if isinstance(raw, list):
            return _Comparison("in", raw, [f"{place}.{n}" for n in range(len(raw))])
        return _Comparison("in", [raw], [place])

    def _compared(self, column: str, comparisons: Sequence[_Comparison]) -> Filter:
        kind: Kind | None = None
        checks = []
        for comparison in comparisons:
            check, kind = self._check(column, comparison, kind)
            checks.append(check)
        found: Filter = Or(())  # one of no values: nothing is
        if kind is not None and all(check.values for check in checks):
            checks.sort(key=lambda check: (check.operator, repr(check.values)))
            found = Matches(column, kind, tuple(dict.fromkeys(checks)))
        if all(None in comparison.values for comparison in comparisons):
            return joined(Or, [found, Missing(column)])
        return found

    def _check(
        self, column: str, comparison: _Comparison, kind: Kind | None
    ) -> tuple[Check, Kind | None]:
        """Read the values of a comparison, all of one kind, and of the given one if there is."""
        self._count(len(comparison.values), comparison.places)
        values = set()
        for raw, place in zip(comparison.values, comparison.places, strict=True):
            if raw is None:
                continue
            found = self._kind(column, raw, comparison.operator, place)
            if kind not in (None, found):
                raise FieldError(
                    place,
                    f"came {shown(raw)}, but another value that {column} is compared with is of "
                    f"kind {kind}; compare with values of one kind",
                )
            kind = found
            values.add(_value(raw, kind, column, place))
        return Check(comparison.operator, tuple(sorted(values))), kind

    def _kind(self, column: str, raw: object, operator: Operator, place: str) -> Kind:
        """Tell as what a column is read to be compared with a value."""
        asked = _kind_of(raw, place)
        stored = self.attributes.kind(column, place)
        if stored is None:  # no item has a value: any comparison is false of all
            return asked
        if stored != "text":
            if stored == "boolean" and operator in _RANGES:
                raise FieldError(place, f"{column} holds true and false, which have no order")
            return stored
        if asked == "boolean" and operator in _RANGES:
            raise FieldError(place, f"came {shown(raw)}, but true and false have no order")
        if asked != "text":
            self._require_any(column, asked, place)
            return asked
        if operator in _RANGES and _moment(raw) is not None and self._has(column, "time"):
            return "time"
        return "text"

    def _require_any(self, column: str, kind: Kind, place: str) -> None:
        if not self._has(column, kind):
            example = self.attributes.read(column, "text").entries[0].as_py()
            raise FieldError(
                place,
                f"{column} holds text such as {shown(example)} and no {kind} at all; "
                "compare it with text",
            )

    def _has(self, column: str, kind: Kind) -> bool:
        return len(self.attributes.read(column, kind).rows) > 0

    def _enter(self, place: str, depth: int) -> None:
        self.conditions += 1
        if depth > MAX_DEPTH:
            raise FieldError(place, f"is more than {MAX_DEPTH} levels deep")
        if self.conditions > MAX_CONDITIONS:
            raise FieldError(place, f"the filter has more than {MAX_CONDITIONS} conditions")

    def _count(self, values: int, places: Sequence[str]) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise FieldError(places[0], f"the filter has more than {MAX_VALUES} values")


def _kind_of(raw: object, place: str) -> Kind:
    """Return the kind of a value as JSON has it."""
    if isinstance(raw, bool):
        return "boolean"
    if isinstance(raw, (int, float)):
        return "number"
    if isinstance(raw, str):
        return "text"
    raise FieldError(
        place, f"came {shown(raw)}, but a value is text, a number, true, false or null"
    )


def _value(raw: Any, kind: Kind, column: str, place: str) -> Value:
    """Return a value as entries of a kind are stored, or say what would be one."""
    read = _AS_KIND[kind](raw)
    if read is None:
        raise FieldError(place, f"came {shown(raw)}, but {column} {_WANTED[kind]}")
    return read


def _text(raw: object) -> str | None:
    if not isinstance(raw, str) or len(raw) > MAX_TEXT:
        return None
    try:
        raw.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
        return None
    return raw


def _number(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        return None
    try:
        number = float(raw)
    except (ValueError, OverflowError):
        return None
    return number + 0.0 if math.isfinite(number) else None  # no -0.0, which equals 0.0


def _boolean(raw: object) -> bool | None:
    if isinstance(raw, str):
        return {"true": True, "false": False}.get(raw.lower())
    return raw if isinstance(raw, bool) else None


def _moment(raw: object) -> float | None:
    """Return microseconds since 1970 of an ISO 8601 text; without an offset it is UTC."""
    if not isinstance(raw, str):
        return None
    try:
        moment = datetime.fromisoformat(raw)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return float((moment - _EPOCH) // timedelta(microseconds=1))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AS_KIND: dict[Kind, Callable[[object], Value | None]] = {
    "text": _text,
    "number": _number,
    "boolean": _boolean,
    "time": _moment,
}
_WANTED: dict[Kind, str] = {
    "text": f"holds text; give at most {MAX_TEXT} characters of valid text",
    "number": "holds numbers; give a finite number",
    "boolean": "holds true and false; give one of them",
    "time": "holds times; give one as ISO 8601 text, such as 2024-05-31 or 2024-05-31T12:00:00Z",
}
