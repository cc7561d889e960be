"""The final ranking and the fit of its weights, with numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from heliograph.candidates import Candidates, Proposals, proposer_names
from heliograph.config import SOURCE_NAMES, RankingConfig
from heliograph.index import NO_ITEM
from heliograph.ranking import behind, fitting, rank
from heliograph.ranking.fitting import (
    Contest,
    build_contest,
    fit_blend,
    fit_weights,
    join_contests,
)

TRANSITIONS, TEXT = SOURCE_NAMES.index("transitions"), SOURCE_NAMES.index("text")


def candidates(items: list[list[int]], scores: list[list[float]]) -> Candidates:
    return Candidates(
        np.array(items, np.int32),
        np.array(scores, np.float32),
        np.array(scores, np.float32),
        np.full((len(items), len(items[0])), 1 << TRANSITIONS, np.uint8),
    )


def nothing(rows: int) -> list[np.ndarray]:
    return [np.zeros(0, np.int32)] * rows


# the final ranking


def test_log_probability_and_evidence_add_up() -> None:
    opinion = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))
    found = candidates([[3, 0]], [[2.0, 0.0]])
    ranking = rank(opinion, found, nothing(1), 4)
    weights = np.array([0.4, 0.3, 0.2, 0.1 * np.exp(2)])
    assert ranking.items.tolist() == [[3, 0, 1, 2]]
    expected = np.log(weights / weights.sum())[[3, 0, 1, 2]]
    np.testing.assert_allclose(ranking.scores[0], expected, rtol=1e-5)


def test_an_item_that_no_source_thought_of_can_win() -> None:
    opinion = np.log(np.array([[0.9, 0.05, 0.05]], np.float32))
    assert rank(opinion, candidates([[1, 2]], [[1.0, 0.0]]), nothing(1), 1).items == [[0]]


def test_excluded_items_do_not_come_back_and_open_places_stay_last() -> None:
    opinion = np.log(np.array([[0.5, 0.3, 0.2]], np.float32))
    excluded = [np.array([0, 0], np.int32)]
    ranking = rank(opinion, candidates([[2, NO_ITEM]], [[0.0, 0.0]]), excluded, 4)
    assert ranking.items.tolist() == [[1, 2, NO_ITEM, NO_ITEM]]


def test_candidates_that_are_not_ranked_come_behind() -> None:
    found = candidates([[7, 3, 5]], [[3.0, 2.0, 1.0]])
    answer = behind(np.array([3, 9], np.int32), np.array([0.6, 0.2], np.float32), found)
    assert answer.items.tolist() == [[3, 9, 7, 5]]
    assert answer.scores[0].tolist() == pytest.approx([0.6, 0.2, 0.0, 0.0])
    assert [proposer_names(int(bits)) for bits in answer.proposers[0]] == [
        ("transitions",),
        ("item_lm",),
        ("transitions",),
        ("transitions",),
    ]


# fitting


def contest(users: int, seed: int, knows: int = TRANSITIONS, length: int = 3) -> Contest:
    """Ten items a user; one source knows the target, the others and the item LM guess."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 10, users)
    evidence = rng.random((len(SOURCE_NAMES), users, 10)).astype(np.float32)
    evidence[knows, np.arange(users), target] += 1.0
    opinion = np.log(rng.dirichlet(np.ones(10), users)).astype(np.float32)
    return Contest(opinion, evidence, target, np.full(users, length))


def test_a_source_that_knows_gets_weight_and_the_others_next_to_none() -> None:
    world = contest(400, 1)
    weights = fit_weights(world)
    spread = world.evidence.std(axis=(1, 2))
    assert world.ndcg(weights).mean() > 0.98 > world.ndcg(np.zeros(4)).mean()
    others = np.delete(weights * spread, TRANSITIONS)
    assert (np.abs(others) < 0.2 * weights[TRANSITIONS] * spread[TRANSITIONS]).all()


def test_how_many_users_are_worked_on_at_once_makes_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = fit_weights(contest(users=12, seed=4))
    monkeypatch.setattr(fitting, "CELLS", 1)  # one user at a time
    np.testing.assert_allclose(fit_weights(contest(users=12, seed=4)), whole, rtol=1e-4)


def blurred(users: int, seed: int, opinion_of_target: np.ndarray) -> Contest:
    """Return a world in which one source knows something, and the item LM as much as is said."""
    rng = np.random.default_rng(seed)
    world = contest(users, seed)
    opinion = rng.normal(0, 1, (users, 10)).astype(np.float32)
    opinion[np.arange(users), world.target] += opinion_of_target
    evidence = (world.evidence + rng.normal(0, 1, world.evidence.shape)).astype(np.float32)
    return Contest(opinion, evidence, world.target, world.lengths)


def test_halves_of_the_users_come_to_nearly_the_same_weights() -> None:
    world = blurred(1000, 7, np.ones(1000))
    one, other = (fit_weights(world.take(half)) for half in np.split(np.arange(1000), 2))
    assert one[TRANSITIONS] == pytest.approx(other[TRANSITIONS], rel=0.2)
    assert one[TRANSITIONS] > 3 * np.abs(np.delete(one, TRANSITIONS)).max()


def test_how_much_the_evidence_counts_is_what_serves_the_first_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # mostly right, and now and then so wrong that no weight can help: likelihood minds that most
    luck = np.random.default_rng(8).random(1000)
    world = blurred(1000, 8, np.where(luck < 0.8, 3.0, -8.0))
    weights = fit_weights(world)
    monkeypatch.setattr(fitting, "FACTORS", (1.0,))
    likeliest = fit_weights(world)
    assert weights[TRANSITIONS] < likeliest[TRANSITIONS]
    assert world.ndcg(weights).mean() > world.ndcg(likeliest).mean() + 0.01


def test_fitting_does_not_depend_on_targets_that_nobody_proposes() -> None:
    world = contest(200, 2)
    lost = Contest(world.log_probabilities, world.evidence, np.full(200, -1), world.lengths)
    assert np.array_equal(fit_weights(join_contests([world, lost])), fit_weights(world))
    assert not fit_weights(lost).any()
    assert not lost.ndcg(np.ones(4)).any()


def test_a_cohort_whose_best_source_is_another_gets_its_own_weights() -> None:
    config = RankingConfig(cohorts=(1, 10, 30), min_users=100)
    worlds = [
        contest(600, 3),
        contest(200, 4, knows=TEXT, length=20),
        contest(50, 5, knows=TEXT, length=40),
    ]
    blend, found = fit_blend(join_contests(worlds), config, None, seed=0)
    assert [row.users for row in found] == [600, 200, 50]
    short, long, few = blend.cohorts
    assert found[1].has_own and not found[2].has_own
    assert found[1].p_value is not None and found[1].p_value < config.significance
    assert long.weights["text"] > short.weights["text"]
    assert long.weights["transitions"] < short.weights["transitions"]
    assert (
        few.weights == fit_blend(join_contests(worlds), config, None, seed=1)[0].cohorts[2].weights
    )


def test_the_item_lm_is_off_for_a_cohort_that_it_does_not_help() -> None:
    rng = np.random.default_rng(5)
    world = contest(300, 5)
    misled = np.full((300, 10), -1.0, np.float32)
    misled[np.arange(300), (world.target + rng.integers(1, 9, 300)) % 10] = 40.0
    wrong = Contest(misled, world.evidence, world.target, world.lengths)
    fixed = np.array([0.0, 1.0, 0.0, 0.0])
    _, found = fit_blend(wrong, RankingConfig(cohorts=(1,)), fixed, seed=0)
    assert not found[0].asks_item_lm
    _, found = fit_blend(world, RankingConfig(cohorts=(1,), min_users=1000), fixed, seed=0)
    assert found[0].asks_item_lm  # too few users to tell


def test_weights_that_are_set_are_not_fitted() -> None:
    fixed = np.array([0.5, 0.25, 0.0, 1.0])
    blend, found = fit_blend(contest(300, 6), RankingConfig(), fixed, seed=0)
    assert all(list(cohort.weights.values()) == fixed.tolist() for cohort in blend.cohorts)
    assert not any(row.has_own for row in found)


def test_a_contest_lines_up_what_was_proposed() -> None:
    proposals = [
        Proposals(np.array([2, 5], np.int32), np.eye(2, 4, dtype=np.float32), np.ones(2, np.uint8)),
        Proposals(np.array([1], np.int32), np.ones((1, 4), np.float32), np.ones(1, np.uint8)),
    ]
    opinions = np.arange(12, dtype=np.float32).reshape(2, 6)
    built = build_contest(proposals, opinions, np.array([5, 4], np.int32), [3, 1])
    assert built.log_probabilities.tolist() == [[2.0, 5.0], [7.0, -np.inf]]
    assert built.target.tolist() == [1, -1]
    assert built.evidence[:, 0].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert built.lengths.tolist() == [3, 1]
