"""Histories: of the bundle, and with what users have done since."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.config import EventsConfig
from heliograph.event_store.event import Occurrence
from heliograph.history import (
    NO_PAST,
    Histories,
    Past,
    merged,
    read_histories,
    write_histories,
)
from heliograph.interactions import Interactions
from heliograph.workspace import InputError

CONFIG = EventsConfig(path="events.csv", format="csv")
ROWS = {name: row for row, name in enumerate("abcdef")}


def past(items: str, times: list[int], disliked: str = "") -> Past:
    return Past(
        np.array([ROWS[item] for item in items], np.int32),
        np.array(times, np.int64),
        np.array([ROWS[item] for item in disliked], np.int32),
    )


def letters(items: np.ndarray) -> str:
    return "".join("abcdef"[row] for row in items)


def interactions(**users: list[tuple[str, int]]) -> Interactions:
    pairs = [pair for events in users.values() for pair in events]
    return Interactions(
        list(users),
        np.cumsum([0, *(len(events) for events in users.values())]).astype(np.int64),
        np.array([ROWS[item] for item, _ in pairs], np.int32),
        np.array([moment for _, moment in pairs], np.int64),
    )


def test_new_events_follow_in_order_of_time() -> None:
    since = [Occurrence("d", 5, "view"), Occurrence("c", 25, "view"), Occurrence("e", 40, "like")]
    now = merged(past("ab", [10, 20]), since, ROWS, CONFIG)
    assert (letters(now.history), now.times.tolist()) == ("dabce", [5, 10, 20, 25, 40])


def test_events_that_the_bundle_has_learnt_from_are_not_counted_twice() -> None:
    since = [Occurrence("a", 10, "view"), Occurrence("b", 20, "view"), Occurrence("a", 30, "view")]
    assert letters(merged(past("ab", [10, 20]), since, ROWS, CONFIG).history) == "aba"


def test_what_is_turned_down_is_excluded_but_no_history() -> None:
    since = [Occurrence("c", 30, "dislike"), Occurrence("d", 31, "impression")]
    now = merged(past("ab", [10, 20], disliked="f"), since, ROWS, CONFIG)
    assert (letters(now.history), letters(now.disliked)) == ("ab", "fc")
    assert letters(now.excluded) == "abfc"


def test_items_that_the_catalogue_lacks_wait_in_the_store() -> None:
    assert letters(merged(NO_PAST, [Occurrence("new", 1, "view")], ROWS, CONFIG).history) == ""


def test_an_erasure_hides_what_was_before_it() -> None:
    assert letters(past("abc", [10, 20, 30], disliked="f").since(20).excluded) == "c"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9)), unique=True), st.data())
def test_it_does_not_matter_which_events_the_bundle_has_already(
    events: list[tuple[str, int]], data: st.DataObject
) -> None:
    """The same events, with any part of them in the bundle, are the same history but for ties."""
    ordered = sorted(events, key=lambda event: event[1])
    known = data.draw(st.sets(st.sampled_from(ordered))) if ordered else set()
    in_bundle = [event for event in ordered if event in known]
    base = past("".join(item for item, _ in in_bundle), [moment for _, moment in in_bundle])
    now = merged(base, [Occurrence(item, at, "view") for item, at in ordered], ROWS, CONFIG)
    assert sorted(zip(letters(now.history), now.times.tolist(), strict=True)) == sorted(events)
    assert np.all(np.diff(now.times) >= 0)


def test_histories_survive_the_file(tmp_path: Path) -> None:
    liked = interactions(ann=[("a", 10), ("b", 20)], bob=[("c", 5)])
    disliked = interactions(bob=[("d", 7)], eve=[("e", 8), ("f", 9)])
    write_histories(liked, tmp_path / "histories.parquet", disliked)
    read = read_histories(tmp_path / "histories.parquet")
    assert len(read) == 2  # eve has done nothing but turn items down
    for user, history, times, turned_down in (
        ("ann", "ab", [10, 20], ""),
        ("bob", "c", [5], "d"),
        ("eve", "", [], "ef"),
        ("nobody", "", [], ""),
    ):
        found = read.past(user)
        assert letters(found.history) == history
        assert found.times.tolist() == times
        assert letters(found.disliked) == turned_down
    assert read.find("eve") is None


def test_nobody_at_all_is_a_file_too(tmp_path: Path) -> None:
    write_histories(interactions(), tmp_path / "histories.parquet")
    assert len(read_histories(tmp_path / "histories.parquet")) == 0


def test_a_file_of_an_older_layout_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "histories.parquet"
    write_histories(interactions(ann=[("a", 1)]), path)
    pq.write_table(pq.read_table(path).drop_columns(["times"]), path)
    with pytest.raises(InputError, match="write the bundle again"):
        read_histories(path)


def test_a_user_without_dislikes_has_none() -> None:
    known = Histories(interactions(ann=[("a", 1)]))
    assert known.past("ann").excluded.tolist() == [0]
