"""Users and items that training never sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.cold_start import item_cold_start, user_cold_start
from worlds import cycle, interactions

HISTORIES = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=6), min_size=1, max_size=8)


def test_new_users_are_known_by_their_first_events_only() -> None:
    world = cycle(n_items=6, n_users=10, length=4)
    split = user_cold_start(world, share=0.3, seed=0, given=2)
    assert len(split.users) == 3
    for user, known, test in zip(split.users, split.known, split.test, strict=True):
        assert known.tolist() == world.history(user)[:2].tolist()
        assert test.tolist() == world.history(user)[2:].tolist()
        assert len(split.train.history(user)) == 0
    assert split.unseen_user.all()
    assert split.counts.left_out == {
        "training only": 7,
        "new, but with no more than 2 events": 0,
    }


def test_of_a_new_user_nothing_may_be_known() -> None:
    split = user_cold_start(interactions([[3], [3]]), share=0.5, seed=0, given=0)
    assert [known.tolist() for known in split.known] == [[]]
    assert [test.tolist() for test in split.test] == [[3]]
    assert split.counts.one_item_users == 2


def test_a_new_user_with_too_few_events_is_counted() -> None:
    split = user_cold_start(interactions([[3], [3]]), share=0.5, seed=0, given=1)
    assert (len(split.users), split.known, split.test, split.unseen_item) == (0, [], [], [])
    assert split.counts.left_out["new, but with no more than 1 events"] == 1


@given(HISTORIES, st.floats(0.1, 0.9), st.integers(0, 99), st.integers(0, 3))
def test_every_user_is_evaluated_or_left_out_for_a_reason(
    histories: list[list[int]], share: float, seed: int, given_events: int
) -> None:
    counts = user_cold_start(interactions(histories), share, seed, given_events).counts
    assert counts.evaluated + sum(counts.left_out.values()) == counts.users == len(histories)
    assert counts.unseen_users == counts.evaluated


def test_new_items_are_in_nobodys_training_history() -> None:
    world = cycle(n_items=10, n_users=10, length=4)
    split = item_cold_start(world, share=0.2, seed=0)
    held = set(np.concatenate(split.test).tolist())
    assert len(held) == 2
    assert held.isdisjoint(split.train.items.tolist())
    assert all(mask.all() for mask in split.unseen_item)
    assert split.counts.unseen_items == 2 * 4  # each item is consumed by four users


@given(HISTORIES, st.floats(0.1, 0.9), st.integers(0, 99))
def test_an_item_is_either_trained_on_or_looked_for(
    histories: list[list[int]], share: float, seed: int
) -> None:
    world = interactions(histories)
    split = item_cold_start(world, share, seed)
    assert len(split.train) + sum(map(len, split.test)) == len(world)
    assert split.counts.evaluated + sum(split.counts.left_out.values()) == len(histories)
    assert split.counts.repeats == 0
    assert split.unseen_user.tolist() == [len(known) == 0 for known in split.known]


def test_the_draw_is_repeatable() -> None:
    world = cycle(n_items=6, n_users=40, length=4)
    one, same, other = (user_cold_start(world, 0.3, seed).users.tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_what_cannot_be_drawn_is_refused() -> None:
    world = cycle(n_items=6, n_users=4, length=4)
    with pytest.raises(ValueError, match="1 of the users: a share lies between 0 and 1"):
        user_cold_start(world, 1, seed=0)
    with pytest.raises(ValueError, match="0 of the items: a share lies between 0 and 1"):
        item_cold_start(world, 0, seed=0)
    with pytest.raises(ValueError, match="given is -1"):
        user_cold_start(world, 0.5, seed=0, given=-1)
