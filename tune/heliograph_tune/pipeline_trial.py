"""One setting of the pipeline, judged on validation users it was not fitted on.

Where weights are fitted, the users are cut into two halves, and each half is ranked with the
weights that were fitted on the other: a setting cannot win by fitting better to those it is judged
by. Repetitions with other seeds cut other halves.

Where a search draws weights, it is the search that fits them, to the users by whom its trials are
judged. So these are one half of the users, and the other half judges when the best are run again:
drawn weights by users that they were not chosen by, fitted ones by users that they were not fitted
on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heliograph.blend import Blend
from heliograph.candidates import above_last
from heliograph.config import SOURCE_NAMES, HeliographConfig
from heliograph.evaluation import measure
from heliograph.index import NO_ITEM
from heliograph.ranking.fitting import fit_blend
from heliograph_tune.pipeline_evidence import PipelineEvidence

SPARSE = 0.3
"""Share of the items in question below which it pays to copy them into fewer columns."""


def judge_pipeline(
    known: PipelineEvidence, config: HeliographConfig, ks: tuple[int, ...], cut: int | None = None
) -> dict[str, float]:
    """Return the metrics of a pipeline on validation, each user judged by foreign weights.

    Args:
        known: What the models say.
        config: Of candidates and ranking; its seed cuts the halves.
        ks: Cut-offs of the metrics.
        cut: Where weights are drawn, the seed of the search: it cuts the halves, and who has
            another one is a repetition.
    """
    ranking = np.full((len(known.targets), max(ks)), NO_ITEM, np.int32)
    parts = _parts(known, config, cut)
    for fitted_on, judged in parts:
        blend = fit(known.take(fitted_on), config)
        ranking[judged] = rank_items(known.take(judged), blend, config, max(ks))
    everyone = np.sort(np.concatenate([judged for _, judged in parts]))
    return measure(ranking[everyone], known.targets[everyone], ks, known.n_items)


def halves(owners: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut the users into two halves at random; all that is asked about one is in the same."""
    users = np.unique(owners)
    chosen = np.random.default_rng(seed).permutation(users)[: (len(users) + 1) // 2]
    in_first = np.isin(owners, chosen)
    return np.flatnonzero(in_first), np.flatnonzero(~in_first)


def fit(known: PipelineEvidence, config: HeliographConfig) -> Blend:
    """Fit the blend on some users, as an evaluation does on all."""
    weights = config.candidates.weights
    if weights is not None:
        return Blend.uniform(weights)
    users = np.arange(len(known.targets))
    if len(users) > config.ranking.max_users:
        rng = np.random.default_rng(config.seed)
        users = np.sort(rng.choice(len(users), config.ranking.max_users, replace=False))
    contest = known.take(users).contest(config.candidates.depth)
    blend, _ = fit_blend(contest, config.ranking, None, config.seed)
    return blend


def rank_items(
    known: PipelineEvidence, blend: Blend, config: HeliographConfig, k: int
) -> NDArray[np.int32]:
    """Return (users, k) item numbers, best first, as `comparison.rankings` has them of a pipeline.

    Args:
        known: What the models say of the users.
        blend: Weights of each cohort.
        config: Of candidates.
        k: Length of the rankings, at most the depth of what is known.
    """
    histories = [np.empty(length, np.int32) for length in known.lengths]  # only lengths count
    count = config.candidates.count
    kept = max(count, k)
    depth = max(config.candidates.depth, kept)
    possible = known.proposed(depth, item_lm=False) | known.proposed_by_item_lm(k)
    if np.count_nonzero(possible) < SPARSE * possible.size:
        known = known.where(possible)
    proposed, own = known.proposed(depth, item_lm=False), known.proposed_by_item_lm(k)
    beside = np.where(proposed, _weighed(known, blend.weights(histories)), -np.inf)
    chosen = _best(beside, kept)
    above = above_last(np.where(chosen, beside, -np.inf), count)
    scores = np.where(proposed | own, known.log_probabilities + above, -np.inf)
    asked = blend.asks_item_lm(histories)
    if not asked.all():
        alone = np.where(chosen, _weighed(known, blend.alone(histories)), -np.inf)
        scores = np.where(asked[:, None], scores, alone)
    return _first(known.items, scores, k)


def _parts(
    known: PipelineEvidence, config: HeliographConfig, cut: int | None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return pairs of users to fit on and users to judge by; nobody is judged twice."""
    if cut is not None:
        first, second = halves(known.owners, cut)
        return [(second, first) if config.seed == cut else (first, second)]
    if config.candidates.weights is not None:
        everyone = np.arange(len(known.targets))
        return [(everyone, everyone)]  # nothing is fitted
    first, second = halves(known.owners, config.seed)
    return [(first, second), (second, first)]


def _weighed(known: PipelineEvidence, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add up (users, items) evidence under the (users, sources) weights."""
    total = np.zeros(known.items.shape, np.float32)
    for source in range(len(SOURCE_NAMES)):
        total += weights[:, source, None] * known.evidence[source]
    return total


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Return (users, items) whether an item is among the k highest of its user.

    Of equal scores the first ones are; -inf never is.
    """
    if k >= scores.shape[1]:
        return np.asarray(scores > -np.inf)
    floor = np.sort(scores, axis=1)[:, -k, None]  # faster than a partition where many are equal
    above = scores > floor
    equal = (scores == floor) & (floor > -np.inf)
    room = k - np.count_nonzero(above, axis=1)
    return np.asarray(above | (equal & (np.cumsum(equal, axis=1) <= room[:, None])))


def _first(items: NDArray[np.int32], scores: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    """Return (users, k) items of the highest scores, -1 where fewer have any."""
    users, places = np.nonzero(_best(scores, k))
    order = np.lexsort((-scores[users, places], users))  # stable: equal ones by item
    counts = np.bincount(users, minlength=len(items))
    ranks = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    ranking = np.full((len(items), k), NO_ITEM, np.int32)
    ranking[users, ranks] = items[users[order], places[order]]
    return ranking
