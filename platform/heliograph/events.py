"""Events: from files to clean rows in order of user and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from heliograph.catalog import Catalogue
from heliograph.config import CLOCK_SKEW_US, EventsConfig
from heliograph.feedback_files import is_erased, read_erasures, read_parts
from heliograph.identifiers import bad_id, content_id
from heliograph.interactions import Interactions, number_events
from heliograph.pseudonyms import pseudonym, read_key
from heliograph.tables import (
    REASON,
    ROW,
    column,
    describe_refusals,
    read_cleaned,
    reason_where,
    refuse,
    refuse_ids,
    split_refused,
    strings,
    with_refusals,
)
from heliograph.values import (
    MICROSECONDS,
    is_instant,
    is_numeric,
    iso_microseconds,
    microseconds,
    numbers,
)
from heliograph.workspace import InputError, digest_of, write_json

EVENTS_FILE = "events.parquet"
REJECTED_EVENTS_FILE = "rejected_events.parquet"
DISLIKED_FILE = "disliked.parquet"
CATALOGUE_FILE = "catalogue.json"
"""Digest of the catalogue's identifiers, in order: what is made of the same events with items that
are numbered otherwise is not the same."""
EVENTS = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("type", pa.string()),
        ("value", pa.float64()),
    ]
)


def ingest_events(
    config: EventsConfig, catalogue: Catalogue, folder: Path, feedback: Path | None = None
) -> dict[str, float]:
    """Read, clean and write the events.

    Args:
        config: Where the rows are and what their columns mean.
        catalogue: Events of items that are not in it are rejected.
        folder: Gets `events.parquet`, `rejected_events.parquet` and, if there are any, events
            that turn an item down in `disliked.parquet`; and CATALOGUE_FILE.
        feedback: Folder of events that the online store has exported, to be merged in.

    Returns:
        Counts of events, users and rejected rows.

    Raises:
        InputError: A file or column is missing, or no usable event is left.
    """
    rows = _read_cleaned(config)
    if config.timestamp is None:
        rows = in_order_of_place(rows)
    rows, erased = _with_feedback(rows, feedback)
    events, rejected = refuse_unknown_and_repeated(rows, catalogue)
    events, ignored = _split_types(events, config.ignored_types)
    events, disliked = _split_types(events, config.rejecting_types)
    if events.num_rows == 0:
        raise InputError(
            f"{config.path} holds no usable event: {describe_refusals(rejected)}. "
            f"Items of the catalogue are called {', '.join(catalogue.ids[:3])}"
        )
    pq.write_table(events, folder / EVENTS_FILE)
    pq.write_table(rejected, folder / REJECTED_EVENTS_FILE)
    write_json(folder / CATALOGUE_FILE, {"item_ids": digest_of(*catalogue.ids)})
    (folder / DISLIKED_FILE).unlink(missing_ok=True)
    if disliked.num_rows:
        pq.write_table(disliked, folder / DISLIKED_FILE)
    seldom = {"disliked": disliked.num_rows, "ignored": ignored.num_rows, "erased": erased}
    return {
        "events": events.num_rows,
        "users": len(events["user_id"].unique()),
        "rejected": rejected.num_rows,
    } | {name: count for name, count in seldom.items() if count}


def _read_cleaned(config: EventsConfig) -> pa.Table:
    required = {config.user_id: "events.user_id", config.item_id: "events.item_id"}
    if config.timestamp:
        required[config.timestamp] = "events.timestamp"
    settings = {
        config.type: "events.type",
        config.value: "events.value",
        config.event_id: "events.event_id",
    }
    optional = {name: setting for name, setting in settings.items() if name}
    clean = partial(
        clean_events, config=config, now_us=time.time_ns() // 1000, key=read_key(config)
    )
    # a line that is no row holds a user's id somewhere: pseudonyms and erasures would not find it
    return read_cleaned(config, required, optional, clean, keeps_lines=False)


def _with_feedback(rows: pa.Table, feedback: Path | None) -> tuple[pa.Table, int]:
    """Add exported events to cleaned rows and drop who has been erased, rejected rows included.

    Returns:
        The rows, and how many were dropped: of them nothing may remain but the number.
    """
    if feedback is None:
        return rows, 0
    heard = read_parts(feedback, EVENTS)
    for name in (REASON, ROW):
        heard = heard.append_column(name, pa.nulls(heard.num_rows, pa.string()))
    rows = pa.concat_tables([rows, heard])
    erased = is_erased(rows, read_erasures(feedback))
    return rows.filter(pa.array(~erased)), int(erased.sum())


def _split_types(events: pa.Table, types: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Return the events of all other types, and those of these types."""
    chosen = pc.is_in(events["type"], value_set=pa.array(types, pa.string()))
    return events.filter(pc.invert(chosen)), events.filter(chosen)


def clean_events(
    batch: pa.Table, config: EventsConfig, now_us: int, key: bytes | None = None
) -> pa.Table:
    """Bring rows into the events' schema; a row that cannot be an event gets a reason.

    Args:
        batch: Rows as they are in a file.
        config: What their columns mean.
        now_us: The time, in microseconds since 1970.
        key: Of the pseudonyms; None leaves user ids as they are.

    Returns:
        As many rows; where a time cannot be used, 1970 stands in its place. Where there are no
        times, events without an identifier have none yet.
    """
    batch = _with_pseudonyms(batch, config.user_id, key)
    users, items = strings(batch[config.user_id]), strings(batch[config.item_id])
    times = _microseconds(column(batch, config.timestamp), config)
    raw_values = column(batch, config.value)
    values = numbers(raw_values)
    latest = now_us + CLOCK_SKEW_US
    usable = np.where((times >= 0) & (times <= latest), times, 0).astype(np.int64)
    types = pc.coalesce(strings(column(batch, config.type)), config.default_type)
    ids = strings(column(batch, config.event_id)).cast(pa.string())
    if config.timestamp is not None:  # else `in_order_of_place` says what stands in its place
        ids = pc.coalesce(ids, _event_ids(users, items, usable, types, values))
    measured = pa.array(values, from_pandas=True)  # NaN becomes null
    cleaned = pa.table([ids, users, items, usable, types, measured], EVENTS.names).cast(EVENTS)
    reasons = [
        refuse_ids(users, "user_id"),
        refuse_ids(items, "item_id"),
        reason_where(np.isnan(times), "timestamp is missing or cannot be read"),
        reason_where(times < 0, "timestamp is before 1970"),
        reason_where(times > latest, "timestamp is in the future"),
        reason_where(_is_no_number(raw_values, values), "value is not a finite number"),
    ]
    return with_refusals(cleaned, reasons, came=batch)


def in_order_of_place(rows: pa.Table) -> pa.Table:
    """Give events without times their place in the data as time, in microseconds, and identifiers.

    So what a user did twice stays twice, and in order. Places are counted over all files, because
    a user may be in several.

    Args:
        rows: Cleaned, in the order of files and rows.
    """
    times = np.arange(rows.num_rows)
    places = pa.chunked_array([pa.array(times).cast(EVENTS.field("timestamp").type)])
    columns = [rows["user_id"], rows["item_id"], times, rows["type"], rows["value"].to_numpy()]
    ids = pc.coalesce(rows["event_id"], _event_ids(*columns))
    for name, values in (("timestamp", places), ("event_id", ids)):
        rows = rows.set_column(rows.column_names.index(name), EVENTS.field(name), values)
    return rows


def _with_pseudonyms(rows: pa.Table, column: str, key: bytes | None) -> pa.Table:
    """Replace the ids in a column; what cannot be an id stays, and is refused later."""
    if key is None:
        return rows
    ids = strings(rows[column])
    distinct = ids.unique()
    hidden = [
        user if user is None or bad_id(user) else pseudonym(user, key)
        for user in distinct.to_pylist()
    ]
    replaced = pa.array(hidden, pa.string()).take(pc.index_in(ids, value_set=distinct))
    return rows.set_column(rows.column_names.index(column), column, replaced)


def refuse_unknown_and_repeated(rows: pa.Table, catalogue: Catalogue) -> tuple[pa.Table, pa.Table]:
    """Split cleaned rows into events, ordered by user and time, and rejected rows."""
    known = pc.is_in(rows["item_id"], value_set=pa.array(catalogue.ids, pa.string()))
    rows = refuse(rows, ~np.asarray(known), "item_id is not in the catalogue")
    usable = rows[REASON].is_null().to_numpy()
    repeated = rows["event_id"].to_pandas().where(usable).duplicated().to_numpy()
    rows = refuse(rows, repeated, "the same event stands earlier in the data")
    events, rejected = split_refused(rows, ["user_id", "item_id"])
    return events.sort_by([("user_id", "ascending"), ("timestamp", "ascending")]), rejected


def read_events(folder: Path, catalogue: Catalogue) -> Interactions:
    """Read the events that `ingest_events` wrote, as numbers."""
    return number_events(pq.read_table(folder / EVENTS_FILE), catalogue)


def read_disliked(folder: Path, catalogue: Catalogue) -> Interactions:
    """Read, as numbers, the events by which users turned items down."""
    path = folder / DISLIKED_FILE
    return number_events(pq.read_table(path) if path.is_file() else EVENTS.empty_table(), catalogue)


def read_values(folder: Path) -> NDArray[np.float64]:
    """Read the values of the events as `read_events` orders them, NaN where there is none."""
    values = pq.read_table(folder / EVENTS_FILE, columns=["value"])["value"]
    return np.asarray(values.to_numpy(), np.float64)


def _microseconds(values: pa.ChunkedArray, config: EventsConfig) -> NDArray[np.float64]:
    """Read times: instants, dates, numbers since 1970 or ISO 8601 text; NaN if it is none."""
    if config.timestamp is None:
        return np.zeros(len(values))
    if is_instant(values.type):
        return microseconds(values)
    with np.errstate(over="ignore"):
        times = np.rint(numbers(values) * MICROSECONDS[config.timestamp_unit])
    if not is_numeric(values.type):
        others = np.flatnonzero(np.isnan(times))
        times[others] = iso_microseconds(values.take(others))
    return np.where(np.isfinite(times), times, np.nan)


def _is_no_number(raw: pa.ChunkedArray, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell where a value is there, but infinite or no number; NaN counts as absent."""
    texts = pc.utf8_lower(strings(raw))
    present = np.asarray(pc.fill_null(pc.not_equal(texts, "nan"), False), bool)
    return np.asarray(np.isinf(values) | (np.isnan(values) & present))


def _event_ids(
    users: pa.ChunkedArray,
    items: pa.ChunkedArray,
    times: NDArray[np.int64],
    types: pa.ChunkedArray,
    values: NDArray[np.float64],
) -> pa.ChunkedArray:
    """Hash the content of each row, so that the same event read twice is one event."""
    rows = zip(
        users.to_pylist(),
        items.to_pylist(),
        times.tolist(),
        values.tolist(),
        types.to_pylist(),
        strict=True,
    )
    return pa.chunked_array([[content_id(*row) for row in rows]], pa.string())
