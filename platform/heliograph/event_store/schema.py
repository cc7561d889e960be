"""The tables of the event store."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

events = Table(
    "events",
    metadata,
    # never given twice, also after an erasure: how far an export has come is such a number
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("event_id", String, nullable=False, unique=True),
    Column("user_id", String, nullable=False),
    Column("item_id", String, nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("value", Double),
    Index("events_by_user", "user_id", "time_us"),
    sqlite_autoincrement=True,
)
"""One row an event; `time_us` is microseconds since 1970."""

erasures = Table(
    "erasures",
    metadata,
    Column("user_digest", String, primary_key=True),
    Column("erased_us", BigInteger, nullable=False),
)
"""Who has been erased: events up to `erased_us` are not taken any more, wherever they come from."""

export_folders = Table("export_folders", metadata, Column("folder", String, primary_key=True))
"""Folders that hold exported events, which an erasure must reach too."""

exposures = Table(
    "exposures",
    metadata,
    Column("exposure_id", String, primary_key=True),
    Column("request_id", String, nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("experiment", String, nullable=False),
    Column("user_id", String, nullable=False),
    Column("arm", String, nullable=False),
    Column("propensity", Double, nullable=False),
    Column("bundle", String, nullable=False),
    Column("tier", String, nullable=False),
    Column("item_ids", Text, nullable=False),
    Index("exposures_by_user", "user_id", "experiment", "time_us"),
)
"""What the users of an experiment were answered; `item_ids` is a JSON list, the first rank
first."""
items = Table(
    "items",
    metadata,
    Column("item_id", String, primary_key=True),
    Column("available", Boolean, nullable=False),
    Column("change", BigInteger, nullable=False),
    Column("place", BigInteger, unique=True),
    Column("columns", String),
    Column("text", String),
    Column("encoder", String),
    Column("vector", LargeBinary),
    Index("items_by_change", "change"),
)
"""The latest state of each item that was changed online, as `ItemState` says; none ever goes."""
