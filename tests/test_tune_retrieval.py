"""The search of all of retrieval at once, without Ray: what a trial is judged by."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from heliograph.config import HeliographConfig
from heliograph.interactions import History, Interactions
from heliograph.splits import NextItems
from heliograph.workspace import InputError
from heliograph_tune.judges import RetrievalJudge
from heliograph_tune.knowledge import Knowledge, without_test_items
from heliograph_tune.pipeline_evidence import gather
from heliograph_tune.pipeline_trial import judge_pipeline
from heliograph_tune.repetition import is_without_luck
from heliograph_tune.retrieval_trial import (
    CUTS,
    MOST_BYTES,
    Opinion,
    fit_sources,
    judge_retrieval,
    require_room,
)
from heliograph_tune.search_file import Search
from heliograph_tune.setting import with_settings
from searches import make_search
from worlds import clustered_vectors, cycle, interactions

N_ITEMS = 40
KS = (5, 10)
VECTORS = clustered_vectors(4, 10, dim=16)
WINDOW = {"models.transitions.window": {"type": "integer", "low": 1, "high": 9}}


def world(of_last: int = 0) -> Interactions:
    """Return regular and random histories; each user's last item is moved on by so many."""
    rng = np.random.default_rng(3)
    walks = [[(user + place) % N_ITEMS for place in range(4 + user % 12)] for user in range(60)]
    others = [rng.choice(N_ITEMS, 4 + user % 20, replace=False).tolist() for user in range(60)]
    return interactions([[*h[:-1], (h[-1] + of_last) % N_ITEMS] for h in [*walks, *others]])


def says(histories: list[History]) -> NDArray[np.float32]:
    """Return the log-probabilities of a model that knows the walks a little."""
    scores = np.zeros((len(histories), N_ITEMS), np.float32)
    for row, history in enumerate(histories):
        scores[row, (history[-1] + 1) % N_ITEMS] = 1.0
    shares = np.exp(scores)
    return np.asarray(np.log(shares / shares.sum(axis=1, keepdims=True)), np.float32)


def judge_of(events: Interactions, held_out: int = 1) -> RetrievalJudge:
    known = without_test_items(events, N_ITEMS, VECTORS, held_out)
    asked = known.held_out
    return RetrievalJudge(known, Opinion(says(asked.histories), asked.histories), asked)


def config(folder: Path, **settings: object) -> HeliographConfig:
    few = {"candidates.count": 10, "candidates.depth": 10}
    return with_settings(make_search(folder).config, {**few, **settings})


def score(judge: RetrievalJudge, settings: HeliographConfig) -> dict[str, float]:
    return judge_retrieval(judge.known, judge.opinion, judge.asked, settings, KS)


def test_an_opinion_is_remembered_whatever_order_it_is_asked_in() -> None:
    judge = judge_of(world())
    some = [judge.asked.histories[row] for row in (7, 3, 7)]
    np.testing.assert_array_equal(judge.opinion.scores(some), says(some))
    again: Opinion = pickle.loads(pickle.dumps(judge.opinion))
    np.testing.assert_array_equal(again.scores(some), says(some))


def test_a_trial_is_the_mean_of_what_a_search_of_the_pipeline_says_of_its_sources(
    tmp_path: Path,
) -> None:
    judge, settings = judge_of(world()), config(tmp_path, seed=5)
    evidence = gather(fit_sources(judge.known, settings), judge.opinion, judge.asked, 10, N_ITEMS)
    cuts = [
        judge_pipeline(evidence, settings.model_copy(update={"seed": CUTS * 5 + way}), KS)
        for way in range(CUTS)
    ]
    found = score(judge, settings)
    assert found["ndcg@10"] == pytest.approx(np.mean([one["ndcg@10"] for one in cuts]))
    assert len({one["ndcg@10"] for one in cuts}) > 1


def test_where_users_are_asked_about_often_one_cut_is_enough(tmp_path: Path) -> None:
    judge, settings = judge_of(world(), held_out=5), config(tmp_path, seed=2)
    sources = fit_sources(judge.known, settings)
    evidence = gather(sources, judge.opinion, judge.asked, max(KS), N_ITEMS)
    cut = settings.model_copy(update={"seed": CUTS * 2})
    assert score(judge, settings) == pytest.approx(judge_pipeline(evidence, cut, KS))


def test_a_setting_of_a_source_makes_a_difference_where_it_should(tmp_path: Path) -> None:
    """Everybody goes from item to item, and the item LM is silent: transitions know it all."""
    known: Knowledge = without_test_items(cycle(N_ITEMS, 60, length=8), N_ITEMS, VECTORS)
    asked = known.held_out
    silent = Opinion(
        np.full((len(asked.targets), N_ITEMS), -np.log(N_ITEMS), np.float32), asked.histories
    )
    judge = RetrievalJudge(known, silent, asked)
    assert score(judge, config(tmp_path))["ndcg@10"] == pytest.approx(1)
    judge = judge_of(world())
    alike = {"models.transitions.window": 9, "models.als.factors": 4}
    assert score(judge, config(tmp_path, **alike)) != score(judge, config(tmp_path))


def test_what_trials_are_given_does_not_depend_on_test_items() -> None:
    one, other = judge_of(world()), judge_of(world(of_last=17))
    assert pickle.dumps(one) == pickle.dumps(other)


def test_seeds_judge_by_other_cuts(tmp_path: Path) -> None:
    judge, settings = judge_of(world()), config(tmp_path)
    scores = {
        score(judge, settings.model_copy(update={"seed": seed}))["ndcg@10"] for seed in (1, 2, 3)
    }
    assert len(scores) > 1
    search: Search = make_search(tmp_path, search="retrieval", space=WINDOW)
    assert not is_without_luck(search)


def asked_about(rows: int, each: int = 1) -> NextItems:
    nothing = np.zeros(0, np.int32)
    return NextItems([nothing] * rows, np.zeros(rows, np.int32), np.arange(rows) // each)


def test_more_than_fits_into_memory_is_refused_with_what_would() -> None:
    n_items = 1_000_000
    require_room(asked_about(1000), 10_000)
    with pytest.raises(InputError, match="evaluation.max_users=536"):
        require_room(asked_about(10_000), n_items)
    require_room(asked_about(MOST_BYTES // (4 * n_items)), n_items)
    with pytest.raises(InputError, match="evaluation.max_users=67"):
        require_room(asked_about(10_000, each=8), n_items)


def test_an_opinion_is_only_of_histories_that_it_was_asked_about() -> None:
    judge = judge_of(world())
    with pytest.raises(KeyError):
        replace(judge.opinion, histories=judge.opinion.histories).scores([np.zeros(3, np.int32)])
