"""Events: cleaning and numbering. No Ray: plain functions."""

import json
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.catalog import Catalogue
from heliograph.config import CLOCK_SKEW_US, EventsConfig
from heliograph.events import EVENTS, clean_events, in_order_of_place, refuse_unknown_and_repeated
from heliograph.tables import REASON

CONFIG = EventsConfig(path="events.csv", format="csv", value="value", type="type")
NOW_US = 1_700_000_000_000_000
CATALOGUE = Catalogue(pa.table({"item_id": ["a", "b", "c"]}))


def clean(unit: str = "s", **columns: Any) -> pa.Table:
    """Clean a table given by its columns; user, item and time have defaults."""
    size = len(next(iter(columns.values())))
    defaults = {"user_id": ["u"] * size, "item_id": ["a"] * size, "timestamp": list(range(size))}
    return clean_events(
        pa.table({**defaults, **columns}),
        CONFIG.model_copy(update={"timestamp_unit": unit}),
        NOW_US,
    )


def events(**columns: Any) -> tuple[pa.Table, pa.Table]:
    """Return the events that are kept and the rejected rows."""
    return refuse_unknown_and_repeated(clean(**columns), CATALOGUE)


def times(column: pa.Array, unit: str = "s") -> list[int | None]:
    """Return the microseconds that are read, None where the row is refused."""
    cleaned = clean(unit, timestamp=column)
    stamps = cleaned["timestamp"].cast(pa.int64()).to_pylist()
    return [None if r else t for t, r in zip(stamps, cleaned[REASON].to_pylist(), strict=True)]


def test_an_event_has_every_column_of_the_schema() -> None:
    kept, rejected = events(user_id=[7], item_id=["a"], timestamp=[5], type=["like"], value=["3.5"])
    assert kept.schema == EVENTS
    row = kept.to_pylist()[0]
    assert len(row.pop("event_id")) == 24  # 12 bytes: no two of 10^9 events share one by chance
    assert row == {
        "user_id": "7",
        "item_id": "a",
        "timestamp": datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC),
        "type": "like",
        "value": 3.5,
    }
    assert rejected.num_rows == 0


def test_the_identifier_of_an_event_does_not_change_between_versions() -> None:
    kept, _ = events(timestamp=[881250949], type=["view"], value=[3.0])
    assert kept["event_id"].to_pylist() == ["52dafd6270a249ecdf01e679"]


SECOND = datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC)  # 881250949 s
NAIVE = SECOND.replace(tzinfo=None)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([881250949]),
        pa.array([881250949], pa.int32()),
        pa.array([881250949.0]),
        pa.array(["881250949"]),
        pa.array(["8.81250949e8"]),
        pa.array([881250949]).cast(pa.decimal128(25, 2)),
        pa.array(["1997-12-04T15:55:49Z"]),
        pa.array(["1997-12-04 15:55:49"]),
        pa.array(["1997-12-04T16:55:49+01:00"]),
        pa.array(["19971204T155549Z"]),
        pa.array(["1997-12-04T15:55:49Z"]).dictionary_encode(),
        *(pa.array([NAIVE], pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")),
        *(pa.array([SECOND], pa.timestamp(unit, "UTC")) for unit in ("s", "ms", "us", "ns")),
        pa.array([SECOND], pa.timestamp("us", "Europe/Berlin")),
        pa.array(np.array(["1997-12-04T15:55:49"], "datetime64[us]")),
        pa.array(np.array(["1997-12-04T15:55:49"], "datetime64[ns]")),
    ],
    ids=lambda column: f"{column.type}-{column[0]}",
)
def test_one_second_is_read_the_same_however_it_is_written(column: pa.Array) -> None:
    assert times(column) == [881250949_000_000]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_a_date_is_its_midnight(kind: pa.DataType) -> None:
    assert times(pa.array([date(1970, 1, 2)], kind)) == [86_400_000_000]
    assert times(pa.array(["1970-01-02"])) == [86_400_000_000]


@pytest.mark.parametrize(
    ("unit", "number", "expected"),
    [("s", 5, 5_000_000), ("ms", 5, 5_000), ("us", 5, 5), ("s", 1.001, 1_001_000)],
)
def test_numbers_are_in_the_unit_of_the_settings(unit: str, number: float, expected: int) -> None:
    assert times(pa.array([number]), unit) == [expected]
    assert times(pa.array([str(number)]), unit) == [expected]
    assert times(pa.array(["1970-01-01T00:00:05Z"]), unit) == [5_000_000]


def test_every_microsecond_counts() -> None:
    stamps = [NOW_US - 1, NOW_US, 881250949_123457]
    assert times(pa.array(stamps), "us") == stamps
    assert times(pa.array(stamps).cast(pa.timestamp("us"))) == stamps
    nanoseconds = pa.array([stamp * 1000 for stamp in stamps])
    assert times(nanoseconds.cast(pa.timestamp("ns"))) == stamps


UNREADABLE = "timestamp is missing or cannot be read"


@pytest.mark.parametrize(
    ("timestamp", "reason"),
    [
        (None, UNREADABLE),
        ("", UNREADABLE),
        ("soon", UNREADABLE),
        ("today", UNREADABLE),
        ("now", UNREADABLE),
        ("1/2/2020", UNREADABLE),
        ("2020-13-01", UNREADABLE),
        ("NaN", UNREADABLE),
        ("inf", UNREADABLE),
        (float("nan"), UNREADABLE),
        (float("inf"), UNREADABLE),
        (float("-inf"), UNREADABLE),
        (True, UNREADABLE),
        (-1, "timestamp is before 1970"),
        (-0.5, "timestamp is before 1970"),
        (-1e300, "timestamp is before 1970"),
        ("1969-12-31T23:59:59Z", "timestamp is before 1970"),
        (date(1969, 1, 1), "timestamp is before 1970"),
        (NOW_US, "timestamp is in the future"),  # microseconds taken for seconds
        (2**62, "timestamp is in the future"),
        (1e300, "timestamp is in the future"),
        ("2200-01-01", "timestamp is in the future"),
        (datetime(9999, 1, 1), "timestamp is in the future"),
    ],
    ids=str,
)
def test_a_time_that_cannot_be_is_refused_with_its_reason(timestamp: object, reason: str) -> None:
    kept, rejected = events(timestamp=[timestamp])
    assert kept.num_rows == 0
    assert rejected["reason"].to_pylist() == [reason]
    assert set(json.loads(rejected["row"][0].as_py())) == {"user_id", "item_id", "timestamp"}


def test_an_instant_that_python_does_not_know_is_refused_too() -> None:
    column = pa.array([2**62, -(2**62)]).cast(pa.timestamp("us"))
    _, rejected = events(timestamp=column)
    assert rejected["reason"].to_pylist() == [
        "timestamp is in the future",
        "timestamp is before 1970",
    ]


def test_a_clock_may_be_wrong_by_an_hour() -> None:
    latest = NOW_US + CLOCK_SKEW_US
    assert times(pa.array([latest, latest + 1]), "us") == [latest, None]


def without_times(**columns: list[str | None]) -> tuple[pa.Table, pa.Table]:
    """Return the events that are kept and the rejected rows, where no column has times."""
    named = "event_id" if "event_id" in columns else None
    config = EventsConfig(path="x", format="csv", timestamp=None, event_id=named)
    cleaned = clean_events(pa.table(columns), config, NOW_US)
    return refuse_unknown_and_repeated(in_order_of_place(cleaned), CATALOGUE)


def test_without_a_column_of_times_events_keep_the_order_of_the_file() -> None:
    kept, _ = without_times(user_id=["v", "u", "u", "u"], item_id=["a", "c", "a", "b"])
    assert kept["item_id"].to_pylist() == ["c", "a", "b", "a"]


def test_without_a_column_of_times_what_is_done_again_stays() -> None:
    kept, rejected = without_times(user_id=["u"] * 4, item_id=["a", "b", "a", "b"])
    assert kept["item_id"].to_pylist() == ["a", "b", "a", "b"]
    assert kept["timestamp"].cast(pa.int64()).to_pylist() == [0, 1, 2, 3]
    assert len(set(kept["event_id"].to_pylist())) == 4
    assert (kept.schema, rejected.num_rows) == (EVENTS, 0)


def test_without_a_column_of_times_an_identifier_still_tells_what_came_twice() -> None:
    kept, rejected = without_times(
        user_id=["u"] * 4, item_id=["a"] * 4, event_id=["x", "x", None, None]
    )
    assert kept["event_id"].to_pylist()[0] == "x" and kept.num_rows == 3
    assert rejected["reason"].to_pylist() == ["the same event stands earlier in the data"]


def test_without_a_column_of_times_refused_rows_keep_their_reasons() -> None:
    kept, rejected = without_times(user_id=["u", None, "u"], item_id=["a", "a", "zzz"])
    assert kept.num_rows == 1
    assert rejected["reason"].to_pylist() == [
        "user_id is missing",
        "item_id is not in the catalogue",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), (-2.5, -2.5), ("4", 4.0), (None, None), ("", None), (float("nan"), None)],
)
def test_a_value_is_a_number_or_absent(value: object, expected: float | None) -> None:
    kept, _ = events(value=[value])
    assert kept["value"].to_pylist() == [expected]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), "inf", "five", True])
def test_a_value_that_is_no_finite_number_is_refused(value: object) -> None:
    kept, rejected = events(value=[value])
    assert kept.num_rows == 0
    assert rejected["reason"].to_pylist() == ["value is not a finite number"]
    assert json.loads(rejected["row"][0].as_py())["value"] in (str(value), value)


def test_an_event_without_a_type_gets_the_default() -> None:
    kept, _ = events(type=["like", None, " "])
    assert kept["type"].to_pylist() == ["like", "view", "view"]
    assert events(value=[1])[0]["type"].to_pylist() == ["view"]


@pytest.mark.parametrize("name", ["user_id", "item_id"])
@pytest.mark.parametrize(
    ("identifier", "reason"),
    [(None, "is missing"), (" ", "is missing"), ("x" * 10_000, "has more"), ("a\x7f", "printed")],
)
def test_a_bad_identifier_is_refused(name: str, identifier: str | None, reason: str) -> None:
    _, rejected = events(**{name: ["a", identifier]})
    assert len(rejected) == 1
    assert rejected["reason"][0].as_py().startswith(f"{name} ")
    assert reason in rejected["reason"][0].as_py()
    assert json.loads(rejected["row"][0].as_py())[name] == identifier


def test_events_of_unknown_items_are_refused() -> None:
    kept, rejected = events(item_id=["a", "zzz", "c"])
    assert kept["item_id"].to_pylist() == ["a", "c"]
    assert rejected.select(["user_id", "item_id", "reason"]).to_pylist() == [
        {"user_id": "u", "item_id": "zzz", "reason": "item_id is not in the catalogue"}
    ]
    assert json.loads(rejected["row"][0].as_py())["item_id"] == "zzz"


def test_an_event_is_the_same_only_if_all_of_it_is() -> None:
    kept, rejected = events(
        user_id=["u", "u", "v", "u", "u", "u", "u"],
        item_id=["a", "a", "a", "b", "a", "a", "a"],
        timestamp=[1, 1, 1, 1, 2, 1, 1],
        type=["x", "x", "x", "x", "x", "y", "x"],
        value=[1, 1, 1, 1, 1, 1, 2],
    )
    assert kept.num_rows == 6
    assert rejected["reason"].to_pylist() == ["the same event stands earlier in the data"]


def test_events_are_ordered_by_user_and_time_and_as_in_the_file_within_a_second() -> None:
    kept, _ = events(
        user_id=["v", "u", "u", "u"], item_id=["a", "c", "a", "b"], timestamp=[1, 2, 2, 1]
    )
    assert kept["user_id"].to_pylist() == ["u", "u", "u", "v"]
    assert kept["item_id"].to_pylist() == ["b", "c", "a", "a"]


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(["u", "v", "w ", "", None, "\x00"]),
            "item_id": st.sampled_from(["a", "b", "c", "zzz", None]),
            "timestamp": st.integers(-1, 3) | st.none() | st.floats() | st.integers(),
            "type": st.sampled_from(["view", "like", None]),
            "value": st.sampled_from([None, 1.0, float("nan"), float("inf")]),
        }
    ),
    max_size=20,
)
SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "item_id": pa.string(),
        "timestamp": pa.float64(),
        "type": pa.string(),
        "value": pa.float64(),
    }
)


def table(rows: list[dict[str, Any]]) -> dict[str, pa.ChunkedArray]:
    columns = pa.Table.from_pylist(
        [
            row | {"timestamp": None if row["timestamp"] is None else float(row["timestamp"])}
            for row in rows
        ],
        SCHEMA,
    )
    return dict(zip(columns.column_names, columns.columns, strict=True))


@given(ROWS)
def test_cleaning_loses_no_row(rows: list[dict[str, Any]]) -> None:
    kept, rejected = events(**table(rows))
    assert kept.num_rows + rejected.num_rows == len(rows)
    assert rejected["reason"].null_count == rejected["row"].null_count == 0
    assert rejected.column_names == ["user_id", "item_id", "reason", "row"]


@given(ROWS)
def test_what_is_kept_is_clean(rows: list[dict[str, Any]]) -> None:
    kept, _ = events(**table(rows))
    assert kept.schema == EVENTS
    assert len(set(kept["event_id"].to_pylist())) == kept.num_rows
    assert set(kept["item_id"].to_pylist()) <= {"a", "b", "c"}
    assert set(kept["user_id"].to_pylist()) <= {"u", "v", "w"}
    stamps = kept["timestamp"].cast(pa.int64()).to_pylist()
    assert all(0 <= stamp <= NOW_US + CLOCK_SKEW_US for stamp in stamps)
    assert all(value is None or np.isfinite(value) for value in kept["value"].to_pylist())


@given(ROWS)
def test_reading_the_same_events_twice_gives_the_same_events(rows: list[dict[str, Any]]) -> None:
    once, _ = events(**table(rows))
    twice, rejected = events(**table(rows + rows))
    assert twice.equals(once)
    assert rejected.num_rows == 2 * len(rows) - once.num_rows


@given(ROWS)
def test_cleaning_what_is_clean_changes_nothing(rows: list[dict[str, Any]]) -> None:
    kept, _ = events(**table(rows))
    again, rejected = refuse_unknown_and_repeated(clean_events(kept, CONFIG, NOW_US), CATALOGUE)
    assert again.equals(kept)
    assert rejected.num_rows == 0
