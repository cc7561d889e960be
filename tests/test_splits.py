"""Splits: every event is on one side, and what is odd about them is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.interactions import Interactions
from heliograph.overlap import given_split, refuse_overlap
from heliograph.splits import HeldOut, NextItems, last_items, leave_one_out
from heliograph.temporal import temporal_split, time_at_share
from heliograph.workspace import InputError
from worlds import MINUTE_US, interactions

Events = list[tuple[int, int]]
"""Of one user: (item, minute), oldest first."""

HISTORIES = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=6).map(
        lambda events: sorted(events, key=lambda event: event[1])
    ),
    min_size=1,
    max_size=6,
)


def timed(*users: Events) -> Interactions:
    """Give each user events at given minutes."""
    world = interactions([[item for item, _ in events] for events in users])
    minutes = np.array([minute for events in users for _, minute in events], np.int64)
    return Interactions(world.user_ids, world.offsets, world.items, minutes * MINUTE_US)


def lists(split: HeldOut) -> list[tuple[list[int], list[int]]]:
    """Return what is known and what is to be found of each evaluated user."""
    return [
        (known.tolist(), test.tolist()) for known, test in zip(split.known, split.test, strict=True)
    ]


def test_the_last_item_is_the_test_and_the_one_before_it_the_validation() -> None:
    split = leave_one_out(interactions([[2, 0, 1], [0, 1], [0, 1, 2, 0]]))
    assert split.users.tolist() == [0, 2]
    assert split.test.tolist() == [1, 0]
    assert split.validation.tolist() == [0, 2]
    assert [history.tolist() for history in split.train.histories()] == [[2], [0, 1], [0, 1]]
    assert [history.tolist() for history in split.validation_items().histories] == [[2], [0, 1]]
    assert [history.tolist() for history in split.test_items().histories] == [[2, 0], [0, 1, 2]]
    assert all(history.dtype == np.int32 for history in split.test_items().histories)


@given(HISTORIES)
def test_leaving_one_out_keeps_every_event_once(users: list[Events]) -> None:
    world = timed(*users)
    split = leave_one_out(world)
    assert len(split.train) + len(split.validation) + len(split.test) == len(world)
    histories = split.test_items().histories
    for user, history, item in zip(split.users, histories, split.test, strict=True):
        assert [*history, item] == world.history(user).tolist()
    short = [user for user, events in enumerate(users) if len(events) < 3]
    assert all(len(split.train.history(user)) == len(users[user]) for user in short)
    assert set(short).isdisjoint(split.users.tolist())


def test_leaving_one_out_counts_what_it_leaves_out_and_what_is_odd() -> None:
    split = leave_one_out(
        timed(
            [(0, 0)],  # one event
            [(0, 0), (1, 1)],  # two
            [(0, 0), (1, 1), (2, 1)],  # validation and test at the same time; 2 is not in training
            [(0, 0), (1, 0), (3, 1), (1, 2)],  # a tie within training; 1 is found again
        )
    )
    counts = split.counts
    assert (counts.users, counts.evaluated, counts.one_item_users) == (4, 2, 1)
    assert sum(counts.left_out.values()) == 2
    assert (counts.ties, counts.tied_users) == (2, 1)
    assert (counts.unseen_users, counts.unseen_items, counts.repeats) == (0, 1, 1)
    assert counts.sentences() == [
        "2 of 4 users are evaluated",
        "2 users are left out: fewer than 3 events, which are training only",
        "1 users have one event",
        "2 events have the time of the event before: the file's order decides",
        "1 users were cut at such a tie",
        "1 held-out events are of items that training has not seen",
        "1 held-out events repeat an item: no ranking can find them",
    ]


def test_a_clean_split_has_nothing_to_tell_but_its_size() -> None:
    split = leave_one_out(interactions([[0, 1, 2], [2, 1, 0], [1, 2, 0]]))
    assert split.counts.sentences() == ["3 of 3 users are evaluated"]


def test_training_ends_where_the_test_begins() -> None:
    world = timed([(0, 0), (1, 5), (2, 6)], [(1, 1), (0, 4)], [(3, 7)])
    split = temporal_split(world, 5 * MINUTE_US)
    assert split.users.tolist() == [0, 2]
    assert lists(split) == [([0], [1, 2]), ([], [3])]
    assert [history.tolist() for history in split.train.histories()] == [[0], [1, 0], []]


def test_users_and_items_that_training_has_not_seen_are_kept_and_marked() -> None:
    world = timed([(0, 0), (1, 5), (2, 6)], [(1, 1), (0, 4)], [(3, 7)], [(0, 1), (0, 8)])
    split = temporal_split(world, 5 * MINUTE_US)
    assert split.unseen_user.tolist() == [False, True, False]
    assert [mask.tolist() for mask in split.unseen_item] == [[False, True], [True], [False]]
    counts = split.counts
    assert (counts.unseen_users, counts.unseen_items, counts.repeats) == (1, 2, 1)
    assert counts.left_out == {"no event from 1970-01-01T00:05:00.000000Z on": 1}
    assert counts.one_item_users == 1


@given(HISTORIES, st.integers(0, 9))
def test_nothing_in_training_is_later_than_anything_in_the_test(
    users: list[Events], minute: int
) -> None:
    world = timed(*users)
    try:
        split = temporal_split(world, minute * MINUTE_US)
    except InputError:
        minutes = [time for events in users for _, time in events]
        assert min(minutes) >= minute or max(minutes) < minute
        return
    assert split.train.timestamps.max() < minute * MINUTE_US
    for user, (known, test) in zip(split.users, lists(split), strict=True):
        assert known + test == world.history(user).tolist()
    assert len(split.train) + sum(map(len, split.test)) == len(world)
    assert split.counts.evaluated + sum(split.counts.left_out.values()) == len(users)
    assert [len(mask) for mask in split.unseen_item] == [len(test) for test in split.test]


def test_a_share_of_the_events_is_a_moment() -> None:
    world = timed([(item, item) for item in range(10)])
    moment = time_at_share(world, 0.8)
    assert moment == 8 * MINUTE_US
    assert len(temporal_split(world, moment).train) == 8


def test_events_of_the_very_moment_are_all_test() -> None:
    world = timed([(0, 0), (1, 1), (2, 1), (3, 1), (4, 2)])
    assert len(temporal_split(world, time_at_share(world, 0.6)).train) == 1


@pytest.mark.parametrize("share", [0, 1, -0.5, 80])
def test_a_share_is_between_zero_and_one(share: float) -> None:
    with pytest.raises(ValueError, match=f"{share} of the events: a share lies between 0 and 1"):
        time_at_share(timed([(0, 0), (1, 1)]), share)


def test_events_without_times_cannot_be_split_by_time() -> None:
    world = timed([(0, 0), (1, 0)])
    with pytest.raises(InputError, match="leaves all 2 events from it on; choose a time within"):
        temporal_split(world, time_at_share(world, 0.5))
    with pytest.raises(InputError, match="leaves all 2 events before it"):
        temporal_split(world, 10**18)  # nanoseconds where microseconds were meant


def test_evaluation_events_that_training_has_seen_are_refused_by_name() -> None:
    train = timed([(0, 0), (1, 1)], [(2, 3)])
    world = timed([(2, 3), (1, 4)], [(0, 0), (1, 1)])
    renamed = Interactions(["u1", "u0"], world.offsets, world.items, world.timestamps)
    with pytest.raises(InputError) as refusal:
        refuse_overlap(train, renamed, ["a", "b", "c"])
    assert str(refusal.value) == (
        "3 of 4 evaluation events are training events too: "
        "user u1 item c at 1970-01-01T00:03:00.000000Z, "
        "user u0 item a at 1970-01-01T00:00:00.000000Z, "
        "user u0 item b at 1970-01-01T00:01:00.000000Z; "
        "evaluate on events that training has not seen"
    )


def test_the_same_item_at_another_time_or_by_another_user_is_no_overlap() -> None:
    train = timed([(0, 0)], [(1, 1)])
    refuse_overlap(train, timed([(0, 1), (1, 1)], [(0, 0)], [(0, 0)]), ["a", "b"])
    refuse_overlap(train, timed(), ["a", "b"])
    refuse_overlap(timed(), train, ["a", "b"])


@given(HISTORIES, st.integers(1, 9))
def test_the_sides_of_a_temporal_split_do_not_overlap(users: list[Events], minute: int) -> None:
    world = timed(*users)
    early = world.timestamps < minute * MINUTE_US
    refuse_overlap(world.where(early), world.where(~early), "abcdef")


def test_given_events_are_looked_for_after_all_that_training_knows_of_their_users() -> None:
    known = timed([(0, 0), (1, 1)], [(2, 3)])
    later = timed([(3, 5)], [(1, 6), (0, 7)])
    given_events = Interactions(["u1", "new"], later.offsets, later.items, later.timestamps)
    split = given_split(known, given_events, "abcd")
    assert lists(split) == [([2], [3]), ([], [1, 0])]
    assert split.unseen_user.tolist() == [False, True]
    assert [flags.tolist() for flags in split.unseen_item] == [[True], [False, False]]
    assert len(split.train) == len(known)
    assert split.counts.left_out == {"no given event": 1}


def test_the_last_item_of_everyone_who_has_two_is_apart() -> None:
    apart = last_items(interactions([[2, 0, 1], [0], [], [1, 2]]))
    assert apart.last.targets.tolist() == [1, 2]
    assert [history.tolist() for history in apart.last.histories] == [[2, 0], [1]]
    assert [history.tolist() for history in apart.before.histories()] == [[2, 0], [0], [], [1]]


def test_users_of_several_held_out_items_are_marked_where_one_of_them_is_new() -> None:
    world = timed([(0, 0), (1, 5)], [(1, 1), (2, 6), (0, 7)])
    items = temporal_split(world, 5 * MINUTE_US).later_items()
    assert items.new_item.tolist() == [False, True]
    assert items.new_user.tolist() == [False, False]
    assert [targets.tolist() for targets in items.pick(np.array([1])).targets] == [[2, 0]]
    assert len(items.sample(1, seed=0).histories) == 1


def test_a_sample_has_everything_that_its_users_are_asked_about() -> None:
    histories = [np.arange(place, dtype=np.int32) for place in range(12)]
    asked = NextItems(histories, np.arange(12, dtype=np.int32), np.repeat([3, 5, 8], [2, 6, 4]))
    drawn = asked.sample(2, seed=1)
    assert drawn.targets.tolist() == np.flatnonzero(np.isin(asked.owners, drawn.owners)).tolist()
    assert len(np.unique(drawn.owners)) == 2
    assert asked.sample(3, seed=1) is asked
