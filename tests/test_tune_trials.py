"""What a trial is given and what it comes to, without Ray."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import heliograph_tune
from heliograph.blend import Blend
from heliograph.candidates import Retriever
from heliograph.comparison import rankings
from heliograph.config import (
    AlsConfig,
    HeliographConfig,
    ItemLMConfig,
    PopularityConfig,
    TextConfig,
    TransitionsConfig,
)
from heliograph.evaluation import measure as measure_rankings
from heliograph.index import VectorIndex
from heliograph.interactions import Interactions
from heliograph.models.als import Als
from heliograph.models.item_lm import ItemLM, ItemLMNetwork
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions
from heliograph.ranking.fitting import build_contest
from heliograph.sources import Limits, Sources
from heliograph.splits import leave_one_out
from heliograph.verdict import PIPELINE
from heliograph_tune.judges import ModelJudge
from heliograph_tune.knowledge import without_test_items
from heliograph_tune.model_trials import MODEL_TRIALS
from heliograph_tune.pareto import pareto_front
from heliograph_tune.pipeline_evidence import PipelineEvidence, gather
from heliograph_tune.pipeline_trial import fit, halves, judge_pipeline, rank_items
from heliograph_tune.records import Asked, Step
from heliograph_tune.setting import with_settings
from heliograph_tune.worker import Task, measure
from searches import make_search
from worlds import clustered_vectors, cycle, interactions

N_ITEMS = 40
KS = (5, 10)
DEEPEST = 20
VECTORS = clustered_vectors(4, 10, dim=16)


def world() -> Interactions:
    """Return histories of many lengths, half regular and half at random."""
    rng = np.random.default_rng(3)
    walks = [[(user + place) % N_ITEMS for place in range(3 + user % 12)] for user in range(60)]
    others = [list(rng.choice(N_ITEMS, 3 + user % 20, replace=False)) for user in range(60)]
    return interactions([*walks, *others])


def with_other_test_items(events: Interactions) -> Interactions:
    """Return the same events but for the last one of each user of three or more."""
    items = events.items.copy()
    ends = events.offsets[1:][np.diff(events.offsets) >= 3]
    items[ends - 1] = (items[ends - 1] + 17) % N_ITEMS
    return replace(events, items=items)


@pytest.mark.parametrize("held_out", [1, 4])
def test_no_object_that_a_trial_is_given_contains_a_test_item(held_out: int) -> None:
    events = world()
    known = without_test_items(events, N_ITEMS, VECTORS, held_out)
    other = without_test_items(with_other_test_items(events), N_ITEMS, VECTORS, held_out)
    assert pickle.dumps(known) == pickle.dumps(other)
    assert (
        leave_one_out(events).test.tolist()
        != leave_one_out(with_other_test_items(events)).test.tolist()
    )


def test_nothing_but_a_promotion_asks_for_test_items() -> None:
    sources = Path(str(heliograph_tune.__file__)).parent.glob("*.py")
    asks = re.compile(r"\.test_items\b|\.test\b|\.evaluate\(|\bSTAGES\b")
    assert {file.name for file in sources if asks.search(file.read_text())} == {"promote.py"}


def test_validation_items_are_those_of_the_evaluation() -> None:
    events = world()
    known, split = without_test_items(events, N_ITEMS, None), leave_one_out(events)
    np.testing.assert_array_equal(known.held_out.targets, split.validation)
    np.testing.assert_array_equal(known.train.items, split.train.items)


@pytest.mark.parametrize("held_out", [2, 4, 100])
def test_several_items_of_each_user_judge_and_are_not_learnt_from(held_out: int) -> None:
    events = world()
    known, split = without_test_items(events, N_ITEMS, None, held_out), leave_one_out(events)
    asked = known.held_out
    for user, validation in zip(split.users, split.validation, strict=True):
        history = np.append(split.train.history(user), validation)
        learnt = len(known.train.history(user))
        rows = np.flatnonzero(asked.owners == user)
        assert len(rows) == min(held_out, 1 + (len(history) - 1) // 3)
        assert learnt + len(rows) == len(history)
        for place, row in enumerate(rows, start=learnt):
            np.testing.assert_array_equal(asked.histories[row], history[:place])
            assert asked.targets[row] == history[place]
    others = np.setdiff1d(np.arange(len(events.user_ids)), split.users)
    for user in others:  # they have too few events to judge by
        np.testing.assert_array_equal(known.train.history(user), events.history(user))


def test_halves_keep_all_that_is_asked_about_a_user_together() -> None:
    owners = np.repeat(np.arange(0, 70, 7), np.arange(1, 11))
    first, second = halves(owners, 3)
    assert sorted([*first, *second]) == list(range(len(owners)))
    assert len(set(owners[first])) == len(set(owners[second])) == 5
    assert not set(owners[first]) & set(owners[second])


def config(folder: Path, **settings: object) -> HeliographConfig:
    base = make_search(folder).config
    small = {"hidden_size": 32, "layers": 1, "heads": 1, "max_history": 12, "spare_tokens": 0}
    train = {"epochs": 3, "dropout": 0.0, "tokens_per_batch": 256, "lr": 5e-3}
    return with_settings(base, {"models.item_lm": small, "train": train, **settings})


@pytest.mark.parametrize("name", list(MODEL_TRIALS))
def test_every_model_comes_to_every_metric(name: str, tmp_path: Path) -> None:
    known = without_test_items(cycle(N_ITEMS, 60, length=8), N_ITEMS, VECTORS)
    told: list[Step] = []
    found = MODEL_TRIALS[name](known, config(tmp_path), KS, tmp_path / "checkpoint", told.append)
    assert {"ndcg@5", "recall@10", "coverage@10", "gini@5", "seconds"} <= found.keys()
    assert len(told) == (3 if name == "item_lm" else 0)
    if name == "transitions":
        assert found["ndcg@10"] == pytest.approx(1)  # what follows is always the same


def test_an_item_lm_trial_goes_on_where_another_worker_left_it(tmp_path: Path) -> None:
    known = without_test_items(cycle(N_ITEMS, 60, length=8), N_ITEMS, VECTORS)
    item_lm, settings = MODEL_TRIALS["item_lm"], config(tmp_path)
    whole: list[Step] = []
    expected = item_lm(known, settings, KS, tmp_path / "whole", whole.append)

    class KilledError(Exception):
        pass

    def die(step: Step) -> None:
        if step.step == 2:
            raise KilledError

    with pytest.raises(KilledError):
        item_lm(known, settings, KS, tmp_path / "killed", die)
    told: list[Step] = []
    found = item_lm(known, settings, KS, tmp_path / "killed", told.append)
    assert [step.step for step in told] == [1, 2, 3]
    assert [s.values["ndcg@10"] for s in told] == [s.values["ndcg@10"] for s in whole]
    assert found["ndcg@10"] == expected["ndcg@10"]


def test_a_trial_has_its_own_seed_and_settings(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    known = without_test_items(world(), N_ITEMS, None)
    task = Task(search.settings, search.config, tmp_path, ModelJudge("als", known))

    def score(seed: int, factors: int) -> float:
        asked = Asked(number=1, seed=seed, settings={"models.als.factors": factors})
        return measure(task, asked, lambda step: None)["ndcg@10"]

    assert score(7, 4) == score(7, 4)
    assert len({score(7, 4), score(8, 4), score(7, 16)}) > 1


def models(events: Interactions) -> tuple[Sources, ItemLM]:
    """Return sources that are fitted and an item LM that is not: it has opinions all the same."""
    import torch

    torch.manual_seed(0)
    als = Als.fit(AlsConfig(factors=8), events, N_ITEMS, seed=1)
    text = Text.fit(TextConfig(), VECTORS)
    sources = Sources(
        Popularity.fit(PopularityConfig(), events, N_ITEMS),
        Transitions.fit(TransitionsConfig(), events, N_ITEMS),
        als,
        text,
        {"als": VectorIndex.build(als.item_vectors), "text": VectorIndex.build(text.item_vectors)},
    )
    shape = ItemLMConfig(hidden_size=32, layers=1, heads=1, max_history=20, spare_tokens=0)
    network = ItemLMNetwork(shape, VECTORS, dropout=0.0).eval()
    with torch.no_grad():
        return sources, ItemLM(network, 20 * network.embeddings())


@pytest.fixture(scope="module")
def fitted() -> tuple[Sources, ItemLM]:
    return models(leave_one_out(world()).train)


@pytest.fixture(scope="module")
def evidence(fitted: tuple[Sources, ItemLM]) -> PipelineEvidence:
    known = without_test_items(world(), N_ITEMS, None)
    return gather(*fitted, known.held_out, DEEPEST, N_ITEMS)


PIPELINES = [
    {"candidates.count": 20, "candidates.depth": 20},
    {"candidates.count": 5, "candidates.depth": 7},
    {"candidates.count": 12, "candidates.depth": 3},
    {"candidates.weights": {"als": 0.7, "transitions": 1.5}},
    {"ranking.cohorts": [1, 8], "ranking.min_users": 10, "ranking.significance": 1.0},
]


@pytest.mark.parametrize("settings", PIPELINES)
def test_cached_evidence_ranks_as_the_pipeline_does(
    settings: dict[str, object],
    fitted: tuple[Sources, ItemLM],
    evidence: PipelineEvidence,
    tmp_path: Path,
) -> None:
    shallow = {"candidates.count": 10, "candidates.depth": 10, "evaluation.ks": list(KS)}
    setting = config(tmp_path, **(shallow | settings))
    blend = fit(evidence, setting)
    histories = without_test_items(world(), N_ITEMS, None).held_out.histories
    retriever = Retriever(fitted[0], setting.candidates, blend)
    expected = rankings(retriever, fitted[1], histories, setting)[PIPELINE]
    found = rank_items(evidence, blend, setting, max(KS))
    np.testing.assert_array_equal(found, expected)


def test_cached_evidence_is_the_contest_that_weights_are_fitted_on(
    fitted: tuple[Sources, ItemLM], evidence: PipelineEvidence, tmp_path: Path
) -> None:
    from heliograph.evaluation import top_items

    depth = 6
    asked = without_test_items(world(), N_ITEMS, None).held_out
    retriever = Retriever(fitted[0], config(tmp_path).candidates, Blend.uniform({}))
    scores = fitted[1].scores(asked.histories)
    own = list(top_items(scores, asked.histories, depth))
    proposals = retriever.propose(asked.histories, Limits(depth, asked.histories, None), own)
    lengths = [len(history) for history in asked.histories]
    expected = build_contest(proposals, scores, asked.targets, lengths)
    weights = np.array([0.5, 1.0, 0.2, 0.1])
    np.testing.assert_allclose(
        evidence.contest(depth).ndcg(weights), expected.ndcg(weights), atol=1e-6
    )


def test_users_are_judged_by_weights_that_others_were_fitted_to(
    evidence: PipelineEvidence, tmp_path: Path
) -> None:
    setting = config(tmp_path, **{"candidates.count": 10, "candidates.depth": 10})
    honest = judge_pipeline(evidence, setting, KS)
    again = judge_pipeline(evidence, setting, KS)
    halved_otherwise = judge_pipeline(evidence, setting.model_copy(update={"seed": 8}), KS)
    assert honest == again
    assert honest != halved_otherwise


def test_fixed_weights_are_judged_by_everyone(evidence: PipelineEvidence, tmp_path: Path) -> None:
    fixed = {"candidates.count": 10, "candidates.depth": 10, "candidates.weights": {"als": 1.0}}
    setting = config(tmp_path, **fixed)
    assert judge_pipeline(evidence, setting, KS) == judge_pipeline(
        evidence, setting.model_copy(update={"seed": 8}), KS
    )


FIXED = {"candidates.count": 10, "candidates.depth": 10, "candidates.weights": {"als": 1.0}}
FITTED = {"candidates.count": 10, "candidates.depth": 10}


@pytest.mark.parametrize("settings", [FIXED, FITTED])
def test_where_weights_are_drawn_everyone_is_judged_by_users_that_the_weights_are_not_fitted_to(
    settings: dict[str, object], evidence: PipelineEvidence, tmp_path: Path
) -> None:
    searched = config(tmp_path, **settings)
    repeated = searched.model_copy(update={"seed": searched.seed + 1})
    seen, unseen = halves(evidence.owners, searched.seed)
    assert not set(seen) & set(unseen)
    assert len(seen) + len(unseen) == len(evidence.targets)
    for setting, judged, others in ((searched, seen, unseen), (repeated, unseen, seen)):
        blend = fit(evidence.take(others), setting)
        ranking = rank_items(evidence.take(judged), blend, setting, max(KS))
        expected = measure_rankings(ranking, evidence.targets[judged], KS, N_ITEMS)
        assert judge_pipeline(evidence, setting, KS, searched.seed) == pytest.approx(expected)


def test_a_repetition_of_drawn_weights_reads_no_target_that_the_search_was_judged_by(
    evidence: PipelineEvidence, tmp_path: Path
) -> None:
    searched = config(tmp_path, **FIXED)
    repeated = searched.model_copy(update={"seed": searched.seed + 1})
    seen, _ = halves(evidence.owners, searched.seed)
    targets = evidence.targets.copy()
    targets[seen] = (targets[seen] + 7) % N_ITEMS
    other = replace(evidence, targets=targets)
    cut = searched.seed
    assert judge_pipeline(other, searched, KS, cut) != judge_pipeline(evidence, searched, KS, cut)
    assert judge_pipeline(other, repeated, KS, cut) == judge_pipeline(evidence, repeated, KS, cut)


def test_the_front_is_what_nothing_beats_in_everything() -> None:
    values = np.array([[1.0, 1.0], [2.0, 3.0], [3.0, 9.0], [2.0, 4.0], [1.0, 1.0]])
    minimised = np.array([False, True])
    assert pareto_front(values, minimised).tolist() == [0, 1, 2, 4]
