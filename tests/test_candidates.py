"""Candidates: evidence adds up, within the limits of a request, and there are always enough."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.blend import Blend, Cohort
from heliograph.candidates import (
    Candidates,
    Retriever,
    above_last,
    popular_candidates,
    proposer_names,
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
from heliograph.index import NO_ITEM, VectorIndex
from heliograph.interactions import History, Interactions
from heliograph.models.als import Als
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions
from heliograph.sources import Limits, Sources
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


EVERYONE: dict[SourceName, float] = {
    "popularity": 0.1,
    "transitions": 1.0,
    "als": 1.0,
    "text": 0.5,
}


def retriever(depth: int = 100, weights: dict[SourceName, float] | None = None) -> Retriever:
    blend = Blend.uniform(EVERYONE if weights is None else weights)
    return Retriever(SOURCES, CandidatesConfig(depth=depth), blend)


def found(candidates: Candidates, row: int = 0) -> list[int]:
    return [int(item) for item in candidates.items[row] if item != NO_ITEM]


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
        assert (np.diff(candidates.scores[row, : len(items)]) <= 0).all()
        assert candidates.proposers[row, : len(items)].all()


def test_a_batch_gives_what_single_requests_give() -> None:
    histories = [EMPTY, history(3, 4), history(*range(20)), history(7)]
    together = retriever().retrieve(histories, 10)
    for row, single in enumerate(histories):
        alone = retriever().retrieve([single], 10)
        assert alone.items[0].tolist() == together.items[row].tolist()
    assert retriever().retrieve([], 10).items.shape == (0, 10)


def test_an_empty_history_gives_popular_items() -> None:
    candidates = retriever().retrieve([EMPTY], 6)
    assert found(candidates) == SOURCES.popularity.ranking[:6].tolist()
    named = {name for bits in candidates.proposers[0] for name in proposer_names(int(bits))}
    assert "popularity" in named


def test_in_a_cycle_the_next_item_is_the_first_candidate() -> None:
    only_transitions = retriever(weights={"transitions": 1.0})
    for item in range(N_ITEMS - 1):
        assert only_transitions.retrieve([history(item)], 3).items[0, 0] == item + 1


def test_the_score_is_the_weighted_sum_of_every_sources_own_scores() -> None:
    asked = history(3, 4, 9)
    found_ = retriever().retrieve([asked], 12)
    expected = np.zeros(N_ITEMS, np.float32)
    for name, weight in EVERYONE.items():
        if name == "transitions":
            evidence = SOURCES.transitions.followers([asked]).toarray()[0]
        else:
            evidence = SOURCES.model(name).scores([asked])[0]
        expected += weight * evidence
    np.testing.assert_allclose(found_.scores[0], expected[found_.items[0]], rtol=1e-5)


def test_what_one_source_proposes_has_the_evidence_of_all() -> None:
    asked = history(0, 6)
    limits = Limits(3, [asked], None)
    proposals = next(retriever().propose([asked], limits, [history(17)]))
    assert proposals.evidence.shape == (len(proposals.items), len(SOURCE_NAMES))
    place = proposals.items.tolist().index(17)
    assert "item_lm" in proposer_names(int(proposals.proposers[place]))
    for source, name in enumerate(SOURCE_NAMES):
        if name != "transitions":
            scores = SOURCES.model(name).scores([asked])[0]
            np.testing.assert_allclose(
                proposals.evidence[:, source], scores[proposals.items], rtol=1e-5, atol=1e-6
            )


def test_evidence_counts_from_the_last_candidate() -> None:
    evidence = np.array([[9.0, 1.0, 4.0], [2.0, -1.0, -np.inf], [-np.inf] * 3], np.float32)
    assert above_last(evidence, 3).tolist() == [[8.0, 0.0, 3.0], [3.0, 0.0, 0.0], [0.0] * 3]
    assert above_last(evidence, 2).tolist() == [[5.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0] * 3]


def test_every_cohort_has_its_own_weights() -> None:
    blend = Blend(
        [
            Cohort(1, {"transitions": 1.0}, {"transitions": 1.0}),
            Cohort(4, {"text": 1.0}, {"text": 1.0}, item_lm=False),
        ]
    )
    config = CandidatesConfig()
    short, long = history(3), history(3, 9, 3, 15)
    both = Retriever(SOURCES, config, blend).retrieve([short, long, EMPTY], 3)
    only: list[dict[SourceName, float]] = [{"transitions": 1.0}, {"text": 1.0}]
    alone = [
        Retriever(SOURCES, config, Blend.uniform(weights)).retrieve([asked], 3)
        for asked, weights in zip((short, long), only, strict=True)
    ]
    for row, one in enumerate(alone):
        assert both.items[row].tolist() == one.items[0].tolist()
    assert found(both, 2) == SOURCES.popularity.ranking[:3].tolist()
    assert blend.asks_item_lm([short, long, EMPTY]).tolist() == [True, False, False]


def test_a_blend_is_the_same_after_a_round_trip_through_json() -> None:
    blend = Blend(
        [Cohort(1, {"als": 0.5}, {"als": 0.1}), Cohort(7, {"text": 2.0}, {}, item_lm=False)]
    )
    again = Blend.parse(json.loads(json.dumps(blend.dump())))
    assert again.cohorts == blend.cohorts


def test_an_item_nobody_has_met_is_proposed_for_its_text() -> None:
    events = interactions([[0, 1, 4], [1, 0, 5], [4, 5, 0]])
    known = sources(events, clustered_vectors(4, 3, dim=8))
    blend = Blend.uniform({"transitions": 1.0, "text": 1.0})
    candidates = Retriever(known, CandidatesConfig(), blend).retrieve([history(0, 4)], 12)
    place = found(candidates).index(8)  # of the cluster of 0 and 4
    assert "text" in proposer_names(int(candidates.proposers[0, place]))
    assert place < found(candidates).index(11)


@pytest.mark.parametrize("item", range(0, N_ITEMS, 5))
def test_similar_items_leave_out_the_item_itself(item: int) -> None:
    similar = retriever().similar(item, 8)
    assert item not in found(similar)
    assert len(found(similar)) == 8


def test_an_item_nobody_has_met_is_similar_to_those_of_like_text() -> None:
    known = sources(interactions([[0, 1, 4], [1, 0, 5], [4, 5, 0]]), clustered_vectors(4, 3, dim=8))
    similar = Retriever(known, CandidatesConfig(), Blend.uniform({})).similar(8, 2)
    assert set(found(similar)) == {0, 4}


def test_popular_candidates_are_the_first_of_the_order_that_pass() -> None:
    order = history(4, 2, 0, 1, 3)
    eligible = np.array([True, True, True, True, False])
    assert popular_candidates(order, 2, history(2), eligible).items.tolist() == [[0, 1]]
    assert popular_candidates(order, 9, EMPTY, None).items.tolist() == [[4, 2, 0, 1, 3]]


def test_popular_candidates_may_be_of_an_order_of_some_items() -> None:
    some = np.array([9, 2, 7], np.int32)
    assert popular_candidates(some, 3, history(2, 40), None).items.tolist() == [[9, 7]]
    assert popular_candidates(some[:0], 3, history(2), None).items.tolist() == [[]]
