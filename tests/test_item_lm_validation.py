"""Validation ranks by counting exactly as the evaluation does by sorting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.config import ItemLMConfig
from heliograph.evaluation import NOT_FOUND, ndcg, rank_of, top_items
from heliograph.models import item_lm
from heliograph.models.item_lm import ItemLM, ItemLMNetwork
from heliograph.models.item_lm_validation import ndcg_sum, target_ranks
from heliograph.models.item_tokens import FIRST_ITEM
from heliograph.splits import NextItems
from worlds import clustered_vectors

N_ITEMS = 12
SHAPE = ItemLMConfig(hidden_size=32, layers=1, heads=1, max_history=6, spare_tokens=4)


def model(tied: Sequence[int] = ()) -> ItemLM:
    """Return a random model to which the items of `tied` are one and the same."""
    torch.manual_seed(0)
    network = ItemLMNetwork(SHAPE, clustered_vectors(3, 4, dim=8), dropout=0.0).eval()
    embeddings = network.embeddings().detach() * 30
    for item in tied:
        embeddings[FIRST_ITEM + item] = embeddings[FIRST_ITEM + tied[0]]
    return ItemLM(network, embeddings)


def held_out(users: int, seed: int) -> NextItems:
    rng = np.random.default_rng(seed)
    histories = [rng.integers(0, N_ITEMS, rng.integers(0, 9)) for _ in range(users)]
    return NextItems(
        [history.astype(np.int32) for history in histories],
        rng.integers(0, N_ITEMS, users).astype(np.int32),
    )


def ranks_by_sorting(fitted: ItemLM, users: NextItems) -> NDArray[np.int64]:
    ranking = top_items(fitted.scores(users.histories), users.histories, N_ITEMS)
    return rank_of(users.targets, ranking)


@given(users=st.integers(1, 30), seed=st.integers(0, 99))
def test_ranks_are_those_of_the_evaluation(users: int, seed: int) -> None:
    fitted, some = model(), held_out(users, seed)
    expected = ranks_by_sorting(fitted, some)
    np.testing.assert_array_equal(target_ranks(fitted, some.histories, some.targets), expected)
    assert ndcg_sum(fitted, some) == pytest.approx(ndcg(expected, 10).sum())


def test_equal_scores_rank_in_order_of_number() -> None:
    twins = model(tied=[2, 5, 9])
    nobody = [np.zeros(0, np.int32)] * 3
    ranks = target_ranks(twins, nobody, np.array([2, 5, 9], np.int32))
    assert np.diff(ranks).tolist() == [1, 1]


def test_an_item_that_was_seen_is_not_found() -> None:
    history = np.array([4], np.int32)
    ranks = target_ranks(model(), [history, history], np.array([4, 5], np.int32))
    assert ranks[0] == NOT_FOUND
    assert 1 <= ranks[1] <= N_ITEMS - 1


def test_scores_do_not_depend_on_how_many_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, users = model(), held_out(20, seed=1)
    scores = fitted.scores(users.histories)
    ranks = target_ranks(fitted, users.histories, users.targets)
    monkeypatch.setattr(item_lm, "SCORES_BYTES", 4 * 64 * 3)  # three users at once
    np.testing.assert_allclose(fitted.scores(users.histories), scores, atol=1e-5)
    np.testing.assert_array_equal(target_ranks(fitted, users.histories, users.targets), ranks)


def test_a_sample_is_some_users_with_their_own_items_and_the_same_for_the_same_seed() -> None:
    everyone = NextItems(
        [np.array([user], np.int32) for user in range(50)], np.arange(50, dtype=np.int32)
    )
    some = everyone.sample(20, seed=3)
    assert len(set(some.targets.tolist())) == 20
    assert [history[0] for history in some.histories] == some.targets.tolist()
    assert some.targets.tolist() == everyone.sample(20, seed=3).targets.tolist()
    assert some.targets.tolist() != everyone.sample(20, seed=4).targets.tolist()
    assert everyone.sample(50, seed=3) is everyone
