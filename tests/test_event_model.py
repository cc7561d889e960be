"""Events as clients say them: what is read, what is refused."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from heliograph.config import EventsConfig
from heliograph.event_store.event import NewEvent, kept_as
from heliograph.identifiers import content_id
from heliograph.pseudonyms import pseudonym, read_key
from heliograph.workspace import InputError

CONFIG = EventsConfig(path="events.csv", format="csv")
NOW_US = 1_700_000_000_000_000


def said(**fields: Any) -> NewEvent:
    return NewEvent.model_validate({"user_id": "ann", "item_id": "a"} | fields)


@pytest.mark.parametrize(
    "timestamp",
    [
        881250949,
        881250949.0,
        "1997-12-04T15:55:49Z",
        "1997-12-04T15:55:49",
        "1997-12-04T16:55:49+01:00",
        "1997-12-04 15:55:49.000000",
    ],
)
def test_one_moment_is_read_the_same_however_it_is_written(timestamp: object) -> None:
    assert said(timestamp=timestamp).timestamp == 881250949_000_000


@given(st.datetimes(datetime(1970, 1, 2), datetime(2024, 1, 1), timezones=st.just(UTC)))
def test_every_microsecond_is_read(moment: datetime) -> None:
    read = said(timestamp=moment.isoformat()).timestamp
    assert read is not None
    assert datetime.fromtimestamp(0, UTC) + (moment - datetime.fromtimestamp(0, UTC)) == moment
    assert read == round((moment - datetime.fromtimestamp(0, UTC)).total_seconds() * 10**6)


@pytest.mark.parametrize(
    ("fields", "where", "message"),
    [
        ({"timestamp": "yesterday"}, "timestamp", "'yesterday' is not ISO 8601"),
        ({"timestamp": -1}, "timestamp", "before 1970"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp", "before 1970"),
        ({"timestamp": time.time() + 7200}, "timestamp", "in the future"),
        ({"timestamp": 10**400}, "timestamp", "ISO 8601 text or seconds"),
        ({"timestamp": float("nan")}, "timestamp", "ISO 8601 text or seconds"),
        ({"timestamp": True}, "timestamp", "ISO 8601 text or seconds"),
        ({"timestamp": [1]}, "timestamp", "ISO 8601 text or seconds"),
        ({"value": float("inf")}, "value", "finite"),
        ({"value": "much"}, "value", "number"),
        ({"type": ""}, "type", "empty"),
        ({"type": "a\nb"}, "type", "cannot be printed"),
        ({"type": "t" * 65}, "type", "64"),
        ({"user_id": "\ud800"}, "user_id", "unicode"),
        ({"item_id": "\x00"}, "item_id", "cannot be printed"),
        ({"event_id": "e" * 513}, "event_id", "512"),
        ({"colour": "red"}, "colour", "not permitted"),
    ],
)
def test_an_event_that_makes_no_sense_says_where(
    fields: dict[str, Any], where: str, message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        said(**fields)
    (problem,) = caught.value.errors()
    assert problem["loc"] == (where,)
    assert message in problem["msg"]


def test_what_an_event_leaves_out_is_filled_in() -> None:
    kept = kept_as(said(), CONFIG, None, NOW_US)
    assert (kept.type, kept.time_us, kept.value) == ("view", NOW_US, None)
    assert kept_as(said(type="like", timestamp=5), CONFIG, None, NOW_US).time_us == 5_000_000


def test_an_event_has_the_identifier_that_ingest_would_give_it() -> None:
    kept = kept_as(said(timestamp=881250949, value=3), CONFIG, None, NOW_US)
    assert kept.event_id == content_id("ann", "a", 881250949_000_000, 3.0, "view")
    assert kept_as(said(event_id="mine"), CONFIG, None, NOW_US).event_id == "mine"


def test_pseudonyms_are_the_same_for_one_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.model_copy(update={"pseudonym_key": "SHOP_SECRET"})
    monkeypatch.setenv("SHOP_SECRET", "a secret of some length")
    key = read_key(config)
    monkeypatch.setenv("SHOP_SECRET", "another secret of some length")
    other = read_key(config)
    assert pseudonym("ann", key) == pseudonym("ann", key)
    assert len({"ann", pseudonym("ann", key), pseudonym("ann", other)}) == 3
    kept = kept_as(said(timestamp=1), config, key, NOW_US)
    assert kept.user_id == pseudonym("ann", key)
    assert kept.event_id == content_id(kept.user_id, "a", 1_000_000, float("nan"), "view")


@pytest.mark.parametrize("secret", [None, "short"])
def test_a_key_that_is_missing_or_short_is_refused(
    monkeypatch: pytest.MonkeyPatch, secret: str | None
) -> None:
    monkeypatch.delenv("SHOP_SECRET", raising=False)
    if secret is not None:
        monkeypatch.setenv("SHOP_SECRET", secret)
    with pytest.raises(InputError, match="SHOP_SECRET, which holds"):
        read_key(CONFIG.model_copy(update={"pseudonym_key": "SHOP_SECRET"}))
    assert read_key(CONFIG) is None
