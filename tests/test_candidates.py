"""Candidates are fused as the formula says, within the limits of a request, and always enough."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.candidates import (
    Candidates,
    Retriever,
    Sources,
    fuse,
    popular_candidates,
    source_names,
)
from heliograph.config import (
    SOURCE_NAMES,
    AlsConfig,
    CandidatesConfig,
    PopularityConfig,
    SourceName,
    TextConfig,
    TransitionsConfig,
)
from heliograph.events import History, Interactions
from heliograph.index import NO_ITEM, VectorIndex
from heliograph.models.als import Als
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions
from worlds import clustered_vectors, cycle, interactions

N_ITEMS = 24
EMPTY: History = np.zeros(0, np.int32)


def history(*items: int) -> History:
    return np.array(items, np.int32)


def sources(events: Interactions, vectors: NDArray[np.float32]) -> Sources:
    n_items = len(vectors)
    als = Als.fit(AlsConfig(factors=4), events, n_items, seed=1)
    text = Text.fit(TextConfig(), vectors)
    return Sources(
        popularity=Popularity.fit(PopularityConfig(), events, n_items),
        transitions=Transitions.fit(TransitionsConfig(), events, n_items),
        als=als,
        text=text,
        indexes={
            "als": VectorIndex.build(als.item_vectors),
            "text": VectorIndex.build(text.item_vectors),
        },
    )


SOURCES = sources(cycle(N_ITEMS, n_users=30, length=8), clustered_vectors(4, N_ITEMS // 4, dim=8))


def retriever(**settings: object) -> Retriever:
    return Retriever(SOURCES, CandidatesConfig.model_validate(settings))


def found(candidates: Candidates, row: int = 0) -> list[int]:
    return [int(item) for item in candidates.items[row] if item != NO_ITEM]


# fusion


def test_fusion_sums_weights_over_ranks() -> None:
    fused = fuse(
        {
            "als": np.array([[7, 3, NO_ITEM]], np.int32),
            "text": np.array([[3, 5]], np.int32),
        },
        {"als": 1.0, "text": 0.5},
        rank_constant=1.0,
        count=4,
    )
    # 3: 1/3 + 0.5/2, 7: 1/2, 5: 0.5/3
    assert fused.items.tolist() == [[3, 7, 5, NO_ITEM]]
    np.testing.assert_allclose(fused.scores, [[1 / 3 + 1 / 4, 1 / 2, 1 / 6, 0]], rtol=1e-6)
    assert [source_names(bits) for bits in fused.sources[0]] == [
        ["als", "text"],
        ["als"],
        ["text"],
        [],
    ]


def test_equal_fused_scores_are_ordered_by_number() -> None:
    rankings: dict[SourceName, NDArray[np.int32]] = {
        "als": np.array([[9, 2]], np.int32),
        "text": np.array([[2, 9]], np.int32),
    }
    fused = fuse(rankings, {"als": 1.0, "text": 1.0}, rank_constant=60.0, count=1)
    assert fused.items.tolist() == [[2]]


@st.composite
def rankings(draw: st.DrawFn) -> dict[SourceName, NDArray[np.int32]]:
    """Draw rankings of two users by some sources; each may end in open places."""
    names = draw(st.lists(st.sampled_from(SOURCE_NAMES), min_size=1, unique=True))
    drawn: dict[SourceName, NDArray[np.int32]] = {}
    for name in names:
        depth = draw(st.integers(1, 9))
        rows = [draw(st.lists(st.integers(0, 14), max_size=depth, unique=True)) for _ in range(2)]
        drawn[name] = np.array([row + [NO_ITEM] * (depth - len(row)) for row in rows], np.int32)
    return drawn


WEIGHTS: dict[SourceName, float] = {"popularity": 0.3, "transitions": 1.0, "als": 0.7, "text": 0.2}


@given(ranked=rankings(), count=st.integers(1, 40), data=st.data())
def test_fusion_does_not_depend_on_the_order_of_sources(
    ranked: dict[SourceName, NDArray[np.int32]], count: int, data: st.DataObject
) -> None:
    shuffled = {name: ranked[name] for name in data.draw(st.permutations(list(ranked)))}
    first, second = (fuse(each, WEIGHTS, 60.0, count) for each in (ranked, shuffled))
    np.testing.assert_array_equal(first.items, second.items)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.sources, second.sources)


@given(ranked=rankings(), count=st.integers(1, 40))
def test_fusion_keeps_each_proposed_item_once_best_first(
    ranked: dict[SourceName, NDArray[np.int32]], count: int
) -> None:
    fused = fuse(ranked, WEIGHTS, 60.0, count)
    for row in range(2):
        items = found(fused, row)
        proposed = {int(item) for ranking in ranked.values() for item in ranking[row]} - {NO_ITEM}
        assert len(items) == len(set(items)) == min(count, len(proposed))
        assert set(items) <= proposed
        assert (np.diff(fused.scores[row]) <= 0).all()
        assert (fused.scores[row, : len(items)] > 0).all()
        for place, item in enumerate(items):
            proposers = [
                name for name in SOURCE_NAMES if name in ranked and item in ranked[name][row]
            ]
            assert source_names(int(fused.sources[row, place])) == proposers


@given(ranked=rankings(), item=st.integers(15, 20))
def test_what_every_source_ranks_first_is_first(
    ranked: dict[SourceName, NDArray[np.int32]], item: int
) -> None:
    agreed = {name: np.insert(ranking, 0, item, axis=1) for name, ranking in ranked.items()}
    assert fuse(agreed, WEIGHTS, 60.0, 3).items[:, 0].tolist() == [item, item]


# retrieval


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 30),
    depth=st.integers(1, 30),
    share_eligible=st.none() | st.floats(0, 1),
    excludes=st.booleans(),
)
def test_there_are_always_enough_candidates_within_the_limits(
    seed: int, count: int, depth: int, share_eligible: float | None, excludes: bool
) -> None:
    rng = np.random.default_rng(seed)
    lengths = (0, 3, 17)
    histories = [rng.integers(0, N_ITEMS, length).astype(np.int32) for length in lengths]
    excluded = [rng.integers(0, N_ITEMS, 5).astype(np.int32) for _ in lengths] if excludes else None
    eligible = None if share_eligible is None else rng.random(N_ITEMS) < share_eligible
    candidates = retriever(depth=depth).retrieve(histories, count, excluded, eligible)
    for row, unwanted in enumerate(excluded or histories):
        allowed = np.ones(N_ITEMS, bool) if eligible is None else eligible.copy()
        allowed[unwanted] = False
        items = found(candidates, row)
        assert len(items) == len(set(items)) == min(count, np.count_nonzero(allowed))
        assert allowed[items].all()
        assert (candidates.items[row, len(items) :] == NO_ITEM).all()
        assert (np.diff(candidates.scores[row]) <= 0).all()
        assert candidates.sources[row, : len(items)].all()


def test_a_batch_gives_what_single_requests_give() -> None:
    histories = [EMPTY, history(3, 4), history(*range(20)), history(7)]
    together = retriever().retrieve(histories, 10)
    for row, single in enumerate(histories):
        alone = retriever().retrieve([single], 10)
        assert alone.items[0].tolist() == together.items[row].tolist()
    assert retriever().retrieve([], 10).items.shape == (0, 10)


def test_an_empty_history_gives_popular_items() -> None:
    candidates = retriever().retrieve([EMPTY], 6)
    assert found(candidates) == SOURCES.popularity.ranking()[:6].tolist()
    assert {name for bits in candidates.sources[0] for name in source_names(bits)} == {"popularity"}


def test_in_a_cycle_the_next_item_is_the_first_candidate() -> None:
    only_transitions = retriever(weights={"transitions": 1.0})
    for item in range(N_ITEMS - 1):
        assert only_transitions.retrieve([history(item)], 3).items[0, 0] == item + 1


def test_sources_without_weight_propose_nothing() -> None:
    for weights in ({"als": 1.0, "text": 0.0}, {"als": 1.0}):
        candidates = retriever(weights=weights, depth=8).retrieve([history(1)], 8)
        names = {name for bits in candidates.sources[0] for name in source_names(bits)}
        assert names == {"als"}


def test_with_every_source_off_popular_items_remain() -> None:
    candidates = retriever(weights={}).retrieve([history(0)], 5)
    assert found(candidates) == [item for item in SOURCES.popularity.ranking() if item][:5]


def test_an_item_nobody_has_met_is_proposed_for_its_text_only() -> None:
    events = interactions([[0, 1, 4], [1, 0, 5], [4, 5, 0]])
    known = sources(events, clustered_vectors(4, 3, dim=8))
    weights = {"transitions": 1.0, "text": 1.0}
    candidates = Retriever(known, CandidatesConfig.model_validate({"weights": weights})).retrieve(
        [history(0, 4)], 12
    )
    place = found(candidates).index(8)  # of the cluster of 0 and 4
    assert source_names(int(candidates.sources[0, place])) == ["text"]
    assert place < found(candidates).index(11)


@pytest.mark.parametrize("item", range(0, N_ITEMS, 5))
def test_similar_items_leave_out_the_item_itself(item: int) -> None:
    similar = retriever().similar(item, 8)
    assert item not in found(similar)
    assert len(found(similar)) == 8


def test_an_item_nobody_has_met_is_similar_to_those_of_like_text() -> None:
    known = sources(interactions([[0, 1, 4], [1, 0, 5], [4, 5, 0]]), clustered_vectors(4, 3, dim=8))
    assert set(found(Retriever(known, CandidatesConfig()).similar(8, 2))) == {0, 4}


def test_popular_candidates_are_the_first_of_the_order_that_pass() -> None:
    order = history(4, 2, 0, 1, 3)
    eligible = np.array([True, True, True, True, False])
    assert popular_candidates(order, 2, history(2), eligible).items.tolist() == [[0, 1]]
    assert popular_candidates(order, 9, EMPTY, None).items.tolist() == [[4, 2, 0, 1, 3]]
    assert retriever().popular(3, EMPTY, None).tolist() == SOURCES.popularity.ranking()[:3].tolist()
