"""Filters: what JSON means, and that what comes is said where it cannot be used."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.attributes import Attributes, FieldError
from heliograph.filter_parser import MAX_DEPTH, MAX_VALUES, parse_filter
from heliograph.filters import evaluate
from heliograph.index import NO_ITEM, VectorIndex

NAMES = "abcd"
SHELF = Attributes(
    pa.table(
        {
            "item_id": list(NAMES),
            "title": ["1984", "Up", "Heat", "Alien"],
            "genre": [["Drama", "War"], ["Comedy"], [], None],
            "brand": ["acme", None, "", "Zeta"],
            "year": pa.array([1949, 2009, None, 1979]),
            "year_text": ["1949", "2009", "unknown", None],
            "price": [1.5, -0.0, math.nan, 20.0],
            "prices": [[5.0, 40.0], [15.0], None, [12.0, math.nan]],
            "live": [True, False, None, True],
            "live_text": ["True", "false", "maybe", None],
            "released": pa.array(
                [datetime(2020, 1, 1), datetime(2024, 6, 1, 12), None, None], pa.timestamp("ms")
            ),
            "day": pa.array([18262, 19875, None, None], pa.int32()).cast(pa.date32()),
            "released_text": ["2020-01-01", "2024-06-01T14:00:00+02:00", "soon", None],
            "nothing": pa.nulls(4),
            "shape": [{"h": 1}, None, None, None],
            "names": pa.array(["x", "y", "x", None]).dictionary_encode(),
            "numbered": pa.array([[1, 2], [3, 4], None, [5, 6]], pa.list_(pa.int8(), 2)),
        }
    )
)


def matching(raw: Any, attributes: Attributes = SHELF) -> str:
    eligible = evaluate(parse_filter(raw, attributes), attributes)
    assert eligible.dtype == bool
    return "".join(np.array(list(NAMES))[eligible])


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, "abcd"),
        ({"genre": "War"}, "a"),
        ({"genre": ["War", "Comedy"]}, "ab"),
        ({"genre": []}, ""),
        ({"genre": "war"}, ""),
        ({"genre": None}, "cd"),  # without entries is the same as missing
        ({"genre": {"in": ["Drama", None]}}, "acd"),
        ({"brand": None}, "bc"),
        ({"brand": {"not": None}}, "ad"),
        ({"brand": {"gte": "acme"}}, "a"),  # capital letters come before small ones
        ({"year": 1979}, "d"),
        ({"year": "1979"}, "d"),  # the shorthand of old
        ({"year": {"eq": 1979.0}}, "d"),
        ({"year": {"gte": 1949, "lt": 2009}}, "ad"),
        ({"year": {"gt": 1949, "lte": 2009}}, "bd"),
        ({"year": {"gte": 1978.5}}, "bd"),
        ({"year": {"not": {"gte": 1979}}}, "ac"),  # unknown is not at least 1979
        ({"not": {"year": {"gte": 1979}}}, "ac"),
        ({"not": {"year": None}}, "abd"),
        ({"year": {"gte": 1900, "not": [1949, 2009]}}, "d"),
        ({"year": {"in": [1949, None], "gte": 1900}}, "a"),  # null is not at least 1900
        ({"year_text": "1949"}, "a"),
        ({"year_text": 1949}, "a"),
        ({"year_text": {"gte": 1900}}, "ab"),
        ({"year_text": "unknown"}, "c"),
        ({"price": 0}, "b"),
        ({"price": None}, "c"),
        ({"price": {"lt": 2}}, "ab"),
        ({"prices": {"gte": 10, "lt": 20}}, "bd"),  # one entry is both: neither 5 nor 40 is
        ({"and": [{"prices": {"gte": 10}}, {"prices": {"lt": 20}}]}, "abd"),
        ({"live": True}, "ad"),
        ({"live": "false"}, "b"),
        ({"live_text": True}, "a"),
        ({"live_text": "True"}, "a"),
        ({"live_text": {"not": False}}, "acd"),
        ({"released": {"gte": "2024-06-01T12:00:00Z"}}, "b"),
        ({"released": {"gt": "2024-06-01T14:00:00+02:00"}}, ""),
        ({"released": {"lt": "2021-01-01"}}, "a"),
        ({"day": "2020-01-01"}, "a"),
        ({"released_text": {"gte": "2024-06-01T12:00Z", "lte": "2024-06-01T12:00Z"}}, "b"),
        ({"released_text": "2020-01-01"}, "a"),
        ({"released_text": {"gt": "p"}}, "c"),
        ({"title": "1984"}, "a"),
        ({"title": 1984}, "a"),
        ({"names": "x"}, "ac"),
        ({"numbered": {"gt": 3}}, "bd"),
        ({"nothing": "x"}, ""),
        ({"nothing": {"gte": 3}}, ""),
        ({"nothing": None}, "abcd"),
        ({"or": [{"brand": "acme"}, {"year": 2009}]}, "ab"),
        ({"and": [{"live": True}, {"not": {"brand": "acme"}}]}, "d"),
        ({"live": True, "year": {"lt": 1970}}, "a"),
        ({"not": {"or": [{"live": True}, {"brand": None}]}}, ""),
        ({"not": {}}, ""),
        ({"item_id": ["a", "zzz"]}, "a"),
    ],
)
def test_a_filter_matches_what_it_says(raw: Any, expected: str) -> None:
    assert matching(raw) == expected


@pytest.mark.parametrize(
    ("raw", "place", "problem"),
    [
        ([], "filter", "a filter is an object"),
        ("x", "filter", "a filter is an object"),
        ({"colour": "red"}, "filter.colour", "no 'colour'; it has item_id, title, genre"),
        ({"and": {}}, "filter.and", "takes a list of filters"),
        ({"or": []}, "filter.or", "takes a list of filters"),
        ({"and": [{}, {"year": {"gte": "x"}}]}, "filter.and.1.year.gte", "came 'x', .*numbers"),
        ({"not": {"or": [{"year": "x"}]}}, "filter.not.or.0.year", "finite number"),
        ({"year": [1, "x"]}, "filter.year.1", "finite number"),
        ({"year": {"in": [1, True]}}, "filter.year.in.1", "finite number"),
        ({"year": {"in": 3}}, "filter.year.in", "takes a list of values"),
        ({"year": math.nan}, "filter.year", "finite number"),
        ({"year": {"lt": math.inf}}, "filter.year.lt", "finite number"),
        ({"year": 10**400}, "filter.year", "finite number"),
        ({"year": {}}, "filter.year", "comparisons are eq, in, gt"),
        ({"year": {"above": 3}}, "filter.year", "came 'above'; comparisons are"),
        ({"year": {"gte": None}}, "filter.year.gte", "neither smaller nor larger"),
        ({"year": {"gte": [1]}}, "filter.year.gte", "a value is text, a number"),
        ({"year": [[1]]}, "filter.year.0", "a value is text, a number"),
        ({"year": [{"gte": 1}]}, "filter.year.0", "a value is text, a number"),
        ({"genre": 3}, "filter.genre", "text such as 'Drama' and no number at all"),
        ({"genre": True}, "filter.genre", "no boolean at all"),
        ({"title": {"in": ["Up", 1984]}}, "filter.title.in.1", "values of one kind"),
        ({"live": "perhaps"}, "filter.live", "holds true and false; give one"),
        ({"live": {"gt": False}}, "filter.live.gt", "have no order"),
        ({"live_text": {"gt": False}}, "filter.live_text.gt", "have no order"),
        ({"released": "May"}, "filter.released", "ISO 8601"),
        ({"released": 2020}, "filter.released", "ISO 8601"),
        ({"shape": "1"}, "filter.shape", "cannot be compared"),
        ({"brand": "x" * 2000}, "filter.brand", "at most 1024 characters"),
        ({"brand": "\ud800"}, "filter.brand", "valid text"),
        ({"a\nb": 1}, r"filter.'a\nb'", "has no"),
        ({"c" * 5000: 1}, "filter." + "c" * 80, "has no 'c+...; it has"),
        ({"year": list(range(MAX_VALUES + 1))}, "filter.year.0", "more than 10000 values"),
        ({"or": [{"year": 1}] * 65}, "filter.or.31.year", "more than 64 conditions"),
    ],
)
def test_what_is_no_filter_is_refused_where_it_stands(raw: Any, place: str, problem: str) -> None:
    with pytest.raises(FieldError, match=problem) as error:
        parse_filter(raw, SHELF)
    assert error.value.place == place
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("step", ["not", "and"])
def test_a_filter_is_not_nested_without_end(step: str) -> None:
    def nested(depth: int) -> Any:
        inner = {"year": 1979} if depth == 1 else nested(depth - 1)
        return inner if depth == 1 else {step: inner if step == "not" else [inner]}

    assert parse_filter(nested(MAX_DEPTH), SHELF)
    with pytest.raises(FieldError, match="more than 8 levels deep"):
        parse_filter(nested(MAX_DEPTH + 1), SHELF)


def test_a_comparison_is_not_nested_without_end() -> None:
    raw: Any = 1979
    for _ in range(500):
        raw = {"not": raw}
    with pytest.raises(FieldError, match="more than 8 levels deep"):
        parse_filter({"year": raw}, SHELF)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"year": 1979, "live": True}, {"live": True, "year": [1979, 1979.0]}),
        ({"genre": ["War", "Drama"]}, {"genre": {"in": ["Drama", "War", "War"]}}),
        ({"year": {"gte": 1, "lt": 3}}, {"year": {"lt": 3, "gte": 1.0}}),
        ({"not": {"not": {"year": 1}}}, {"year": 1}),
        ({"not": {"year": 1}}, {"year": {"not": 1}}),
        ({"and": [{"live": True}, {"and": [{"year": 1}]}]}, {"live": True, "year": 1}),
        (
            {"or": [{"year": 1}, {"or": [{"live": True}, {"year": 1}]}]},
            {"or": [{"live": True}, {"year": 1}]},
        ),
        ({"released": "2020-01-01"}, {"released": "2020-01-01T01:00:00+01:00"}),
    ],
)
def test_filters_that_say_the_same_are_equal(one: Any, other: Any) -> None:
    first, second = parse_filter(one, SHELF), parse_filter(other, SHELF)
    assert first == second
    assert hash(first) == hash(second)


def test_a_column_of_several_chunks_is_one_column() -> None:
    table = pa.concat_tables([SHELF.table.slice(0, 1), SHELF.table.slice(1)])
    for raw in ({"genre": "Comedy"}, {"prices": {"gte": 12}}, {"brand": None}):
        assert matching(raw, Attributes(table)) == matching(raw)


def test_a_slice_of_a_table_has_the_rows_of_the_slice() -> None:
    part = Attributes(SHELF.table.slice(1, 2))
    assert evaluate(parse_filter({"genre": "Comedy"}, part), part).tolist() == [True, False]
    assert evaluate(parse_filter({"year": None}, part), part).tolist() == [False, True]


TEXTS = ["", "a", "b", "B", "é", "10", "-3"]
NUMBERS = [0, 1, 2.5, -3, 10, 1e300]
MOMENTS = ["2020-01-01", "2020-01-01T00:00:00Z", "2024-02-29T12:30:00+05:00", "1969-12-31"]

COLUMNS: dict[str, Any] = {
    "text": st.sampled_from(TEXTS),
    "number": st.sampled_from([float(number) for number in NUMBERS] + [math.nan, -0.0]),
    "boolean": st.booleans(),
    "time": st.sampled_from([datetime.fromisoformat(text).replace(tzinfo=UTC) for text in MOMENTS]),
}
TYPES = {
    "text": pa.string(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}
VALUES = {
    "text": st.sampled_from(TEXTS),
    "number": st.sampled_from(NUMBERS),
    "boolean": st.booleans(),
    "time": st.sampled_from(MOMENTS),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, dict[str, list[Any]]]:
    """Draw a table with a scalar and a list column of each kind, and the same as Python lists."""
    rows = draw(st.integers(1, 6))
    columns, plain = {}, {}
    for kind, values in COLUMNS.items():
        scalars = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
        lists = st.none() | st.lists(st.none() | values, max_size=3)
        listed = draw(st.lists(lists, min_size=rows, max_size=rows))
        columns[kind] = pa.array(scalars, TYPES[kind])
        columns[f"{kind}s"] = pa.array(listed, pa.list_(TYPES[kind]))
        plain[kind] = [[value] for value in scalars]
        plain[f"{kind}s"] = [value or [] for value in listed]
    return pa.table(columns), plain


def conditions(kind: str) -> st.SearchStrategy[Any]:
    value = VALUES[kind]
    several = st.lists(st.none() | value, max_size=3)
    operators = {"eq": st.none() | value, "in": several}
    if kind != "boolean":
        operators |= dict.fromkeys(("gt", "gte", "lt", "lte"), value)
    compared = st.fixed_dictionaries({}, optional=operators).filter(bool)
    plain = st.none() | value | several | compared
    return plain | plain.map(lambda one: {"not": one})


LEAVES = st.sampled_from(sorted(COLUMNS)).flatmap(
    lambda kind: st.dictionaries(
        st.sampled_from([kind, f"{kind}s"]), conditions(kind), min_size=1, max_size=2
    )
)
FILTERS = st.recursive(
    LEAVES,
    lambda part: (
        st.fixed_dictionaries({"not": part})
        | st.fixed_dictionaries({"and": st.lists(part, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"or": st.lists(part, min_size=1, max_size=3)})
    ),
    max_leaves=5,
)


def oracle(raw: Any, row: dict[str, list[Any]]) -> bool:
    return all(holds(key, value, row) for key, value in raw.items())


def holds(key: str, raw: Any, row: dict[str, list[Any]]) -> bool:
    if key == "not":
        return not oracle(raw, row)
    if key == "and":
        return all(oracle(part, row) for part in raw)
    if key == "or":
        return any(oracle(part, row) for part in raw)
    return passes(raw, row[key])


def passes(raw: Any, entries: list[Any]) -> bool:
    """Tell whether one entry passes all comparisons; without any, null is the entry."""
    if isinstance(raw, dict) and "not" in raw:
        rest = {name: value for name, value in raw.items() if name != "not"}
        return not passes(raw["not"], entries) and (not rest or passes(rest, entries))
    known = [entry for entry in entries if entry not in (None, "") and entry == entry]
    comparisons = raw if isinstance(raw, dict) else {"in" if isinstance(raw, list) else "eq": raw}
    return any(
        all(compare(name, value, entry) for name, value in comparisons.items())
        for entry in known or [None]
    )


def compare(operator: str, value: Any, entry: Any) -> bool:
    if operator == "in":
        return any(compare("eq", one, entry) for one in value)
    if isinstance(entry, datetime) and value is not None:
        value = datetime.fromisoformat(value)
        value = value if value.tzinfo else value.replace(tzinfo=UTC)
    if operator == "eq":
        return bool(entry == value)
    if entry is None:
        return False
    compared = {"gt": entry > value, "gte": entry >= value}
    return bool((compared | {"lt": entry < value, "lte": entry <= value})[operator])


@given(tables(), FILTERS)
def test_filters_are_what_plain_python_says(
    table: tuple[pa.Table, dict[str, list[Any]]], raw: Any
) -> None:
    attributes = Attributes(table[0])
    found = evaluate(parse_filter(raw, attributes), attributes)
    rows = [
        dict(zip(table[1], values, strict=True)) for values in zip(*table[1].values(), strict=True)
    ]
    assert found.tolist() == [oracle(raw, row) for row in rows]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["and", "or", "not", "in", "gte", "eq", "year", "genre", "live", "released"]
            )
            | st.text(max_size=3),
            part,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_a_filter_or_refused(raw: Any) -> None:
    try:
        condition = parse_filter(raw, SHELF)
    except FieldError as error:
        assert error.place.startswith("filter")
        str(error).encode()
    else:
        assert evaluate(condition, SHELF).shape == (4,)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.sampled_from(
        [{"group": 0}, {"group": {"gte": 2}}, {"not": {"group": [1, 2]}}, {"group": 9}]
    ),
)
def test_a_filtered_search_is_exact(seed: int, k: int, raw: Any) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    query = rng.normal(size=(1, 4)).astype(np.float32)
    attributes = Attributes(pa.table({"group": rng.integers(0, 4, 30)}))
    eligible = evaluate(parse_filter(raw, attributes), attributes)
    unwanted = rng.choice(30, 3, replace=False).astype(np.int32)
    hits = VectorIndex.build(vectors).search(query, k, [unwanted], eligible)
    allowed = np.setdiff1d(np.flatnonzero(eligible), unwanted)
    best = allowed[np.argsort(-(vectors[allowed] @ query[0]), kind="stable")][:k]
    assert hits.items[0, : len(best)].tolist() == best.tolist()
    assert (hits.items[0, len(best) :] == NO_ITEM).all()
