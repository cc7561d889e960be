"""Answers chosen from rankings: caps, maximal marginal relevance, and never too few."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.attributes import Attributes
from heliograph.selection import Cap, Diversity, Groups, relevance_of, select

Values = list[list[str]]


def groups(values: Values) -> Groups:
    attributes = Attributes(pa.table({"genre": pa.array(values, pa.list_(pa.string()))}))
    return Groups(attributes.read("genre", "text"), len(values))


def ranking(n_items: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).permutation(n_items).astype(np.int32)


def chosen(items: NDArray[np.int32], n: int, caps: list[Cap]) -> list[int]:
    found: list[int] = items[select(items, n, caps, None).places].tolist()
    return found


def test_without_rules_the_ranking_is_the_answer() -> None:
    items = ranking(9)
    assert chosen(items, 4, []) == items[:4].tolist()


def test_an_item_beyond_the_cap_is_passed_over() -> None:
    genre = groups([["war"], ["war"], ["war"], ["love"], []])
    items = np.array([0, 1, 2, 3, 4], np.int32)
    assert chosen(items, 3, [Cap(genre, 1)]) == [0, 3, 4]
    assert chosen(items, 3, [Cap(genre, 2)]) == [0, 1, 3]


def test_an_item_of_several_values_counts_for_each_and_once() -> None:
    genre = groups([["war", "love", "war"], ["love"], ["war"], ["sport"]])
    assert chosen(np.arange(4, dtype=np.int32), 2, [Cap(genre, 1)]) == [0, 3]


def test_all_caps_hold_together() -> None:
    genre, brand = groups([["a"], ["a"], ["b"], ["c"]]), groups([["x"], ["y"], ["x"], ["z"]])
    assert chosen(np.arange(4, dtype=np.int32), 2, [Cap(genre, 1), Cap(brand, 1)]) == [0, 3]


def test_where_caps_leave_places_the_best_of_the_others_take_them() -> None:
    genre = groups([["war"]] * 5 + [["love"]])
    selection = select(np.arange(6, dtype=np.int32), 4, [Cap(genre, 1)], None)
    assert selection.places.tolist() == [0, 5, 1, 2]
    assert selection.within_caps == 2


def test_a_ranking_longer_than_a_block_is_gone_through() -> None:
    genre = groups([["war"]] * 3000 + [["love"]])
    assert chosen(np.arange(3001, dtype=np.int32), 2, [Cap(genre, 1)]) == [0, 3000]


CATALOGUES = st.lists(st.lists(st.sampled_from("abc"), max_size=3), min_size=1, max_size=12)


@given(CATALOGUES, st.integers(0, 99), st.integers(1, 14), st.integers(1, 4))
def test_caps_are_the_greedy_choice_of_plain_python(
    values: Values, seed: int, n: int, limit: int
) -> None:
    items = ranking(len(values), seed)
    counts: Counter[str] = Counter()
    kept: list[int] = []
    for item in items.tolist():
        if len(kept) < n and all(counts[value] < limit for value in set(values[item])):
            kept.append(item)
            counts.update(set(values[item]))
    filled = [item for item in items.tolist() if item not in kept][: n - len(kept)]
    selection = select(items, n, [Cap(groups(values), limit)], None)
    assert items[selection.places].tolist() == kept + filled
    assert selection.within_caps == len(kept)


def unit(rng: np.random.Generator, rows: int, dim: int = 3) -> NDArray[np.float32]:
    vectors = rng.normal(size=(rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (0.0, [0, 1, 2, 3]),  # lambda 1: relevance alone
        (0.5, [0, 2, 1, 3]),  # .5 * .9 - .5 * 1 < .5 * .6 - .5 * 0
        (1.0, [0, 2, 3, 1]),  # the first of equals, then whatever is farthest
    ],
)
def test_maximal_marginal_relevance_passes_over_what_is_there_already(
    weight: float, expected: list[int]
) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    diversity = Diversity(weight, np.array([1, 0.9, 0.6, 0]), vectors)
    found = select(np.arange(4, dtype=np.int32), 4, [], diversity)
    assert found.places.tolist() == expected


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 14), st.floats(0, 1), CATALOGUES
)
def test_maximal_marginal_relevance_is_the_greedy_choice_of_the_textbook(
    seed: int, pool: int, n: int, weight: float, values: Values
) -> None:
    rng = np.random.default_rng(seed)
    items = ranking(len(values), seed % 100)
    pool = min(pool, len(items))
    vectors, relevance = unit(rng, pool), np.sort(rng.random(pool))[::-1]
    caps = [Cap(groups(values), 2)]
    places = select(items, n, caps, Diversity(weight, relevance, vectors)).places.tolist()
    assert len(set(places)) == len(places) == min(n, len(items))

    counts: Counter[str] = Counter()
    left = list(range(pool))
    taken: list[int] = []
    for place in places:
        within = [one for one in left if all(counts[v] < 2 for v in set(values[items[one]]))]
        if not within:
            break

        def gain(one: int) -> float:
            near = max((float(vectors[one] @ vectors[other]) for other in taken), default=0.0)
            return float((1 - weight) * relevance[one] - weight * near)

        assert place in within
        assert gain(place) == pytest.approx(max(map(gain, within)), abs=1e-5)
        taken.append(place)
        left.remove(place)
        counts.update(set(values[items[place]]))


def test_what_stands_behind_the_pool_follows_in_order() -> None:
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    diversity = Diversity(0.5, np.array([1.0, 0.5]), vectors)
    found = select(np.arange(5, dtype=np.int32), 4, [], diversity)
    assert found.places.tolist() == [0, 1, 2, 3]


def test_relevance_goes_from_the_best_to_the_last() -> None:
    assert relevance_of(np.array([3, 2, 1], np.float32)).tolist() == [1, 0.5, 0]
    assert relevance_of(np.array([2, 2], np.float32)).tolist() == [1, 1]
    assert relevance_of(np.zeros(0, np.float32)).tolist() == []
