"""Events as numbers: every user's history, in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.catalog import Catalogue
from heliograph.config import EventsConfig
from heliograph.events import EVENTS, clean_events, refuse_unknown_and_repeated
from heliograph.interactions import Interactions, number_events
from heliograph.workspace import InputError

CONFIG = EventsConfig(path="events.csv", format="csv")
NOW_US = 1_700_000_000_000_000
CATALOGUE = Catalogue(pa.table({"item_id": ["a", "b", "c"]}))


def events(users: Sequence[str], items: Sequence[str]) -> pa.Table:
    """Return clean events, one a second."""
    columns = {"user_id": users, "item_id": items, "timestamp": range(len(users))}
    table = pa.table({name: list(values) for name, values in columns.items()})
    kept, rejected = refuse_unknown_and_repeated(clean_events(table, CONFIG, NOW_US), CATALOGUE)
    assert rejected.num_rows == 0
    return kept


def interactions(**histories: str) -> Interactions:
    """Give each user a history such as `abc`, and number the items."""
    pairs = [(user, item) for user, items in histories.items() for item in items]
    return number_events(events(*zip(*pairs, strict=True)), CATALOGUE)


def test_histories_are_row_numbers_oldest_first() -> None:
    numbered = interactions(u="cab", v="b")
    assert numbered.user_ids == ["u", "v"]
    assert [history.tolist() for history in numbered.histories()] == [[2, 0, 1], [1]]
    assert numbered.items.dtype == np.int32
    assert numbered.offsets.dtype == numbered.timestamps.dtype == np.int64
    assert numbered.timestamps.tolist() == [0, 1_000_000, 2_000_000, 3_000_000]
    assert len(numbered) == 4


def test_events_in_several_chunks_are_numbered_alike() -> None:
    kept = events(["u", "u", "v"], ["a", "b", "c"])
    pieces = pa.concat_tables([kept.slice(0, 1), kept.slice(1, 1), kept.slice(2)])
    numbered = number_events(pieces, CATALOGUE)
    assert [history.tolist() for history in numbered.histories()] == [[0, 1], [2]]


def test_events_of_another_catalogue_are_an_error_that_says_what_to_do() -> None:
    kept = events(["u"] * 3, ["a", "b", "c"])
    with pytest.raises(InputError, match="2 of 3 events .* such as b; ingest the events again"):
        number_events(kept, Catalogue(pa.table({"item_id": ["a"]})))


def test_no_events_are_no_histories() -> None:
    numbered = number_events(EVENTS.empty_table(), CATALOGUE)
    assert (len(numbered), numbered.histories(), numbered.offsets.tolist()) == (0, [], [0])


def test_users_of_whom_no_event_is_kept_keep_their_number() -> None:
    rest = interactions(u="cab", v="b", w="ab").where(np.array([1, 0, 1, 0, 0, 1], bool))
    assert ["".join("abc"[item] for item in history) for history in rest.histories()] == [
        "cb",
        "",
        "b",
    ]
    assert rest.offsets.tolist() == [0, 2, 2, 3]
    assert rest.owners().tolist() == [0, 0, 2]
    assert rest.offsets.dtype == np.int64


@pytest.mark.parametrize(
    ("counts", "left"),
    [([0, 0], ["cab", "b"]), ([1, 0], ["ca", "b"]), ([2, 1], ["c", ""]), ([9, 9], ["", ""])],
)
def test_the_last_items_of_each_user_can_be_dropped(counts: list[int], left: list[str]) -> None:
    rest = interactions(u="cab", v="b").without_last(np.array(counts))
    assert ["".join("abc"[item] for item in history) for history in rest.histories()] == left
    assert len(rest.timestamps) == len(rest)


@given(
    events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40).map(sorted),
    seed=st.integers(0, 99),
)
def test_shuffled_ties_move_no_event_to_another_user_or_time(
    events: list[tuple[int, int]], seed: int
) -> None:
    users, times = np.array(events, np.int64).reshape(-1, 2).T
    items = np.arange(len(events), dtype=np.int32)
    offsets = np.searchsorted(users, np.arange(5))
    given_order = Interactions(list("uvwx"), offsets, items, times)
    shuffled = given_order.with_ties_shuffled(np.random.default_rng(seed))
    assert sorted(shuffled.items) == items.tolist()
    assert (users[shuffled.items] == users).all()
    assert (times[shuffled.items] == times).all()


def test_every_order_of_a_tie_is_drawn() -> None:
    tie = Interactions(["u"], np.array([0, 3]), np.arange(3, dtype=np.int32), np.zeros(3, np.int64))
    drawn = {
        tuple(tie.with_ties_shuffled(np.random.default_rng(seed)).items.tolist())
        for seed in range(60)
    }
    assert len(drawn) == 6
