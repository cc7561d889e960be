"""One setting of the pipeline, judged on validation users it was not fitted on.

Where weights are fitted, the users are cut into two halves, and each half is ranked with the
weights that were fitted on the other: a setting cannot win by fitting better to those it is judged
by. Repetitions with other seeds cut other halves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heliograph.blend import Blend
from heliograph.candidates import PROPOSERS, above_last
from heliograph.config import SOURCE_NAMES, HeliographConfig
from heliograph.evaluation import measure
from heliograph.index import NO_ITEM
from heliograph.ranking.fitting import fit_blend
from heliograph_tune.pipeline_evidence import PipelineEvidence


def judge_pipeline(
    known: PipelineEvidence, config: HeliographConfig, ks: tuple[int, ...]
) -> dict[str, float]:
    """Return the metrics of a pipeline on validation, each user judged by foreign weights.

    Args:
        known: What the models say.
        config: Of candidates and ranking; its seed cuts the halves.
        ks: Cut-offs of the metrics.
    """
    ranking = np.full((len(known.targets), max(ks)), NO_ITEM, np.int32)
    for fitted_on, judged in _parts(known, config):
        blend = fit(known.take(fitted_on), config)
        ranking[judged] = rank_items(known.take(judged), blend, config, max(ks))
    return measure(ranking, known.targets, ks, known.n_items)


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
    own = known.places[PROPOSERS.index("item_lm")] < k
    known = known.where(known.proposed(depth, item_lm=False) | own)
    proposed = known.proposed(depth, item_lm=False)
    beside = _weighed(known, blend.weights(histories))
    beside[~proposed] = -np.inf
    order = np.argsort(-beside, axis=1, kind="stable")[:, :kept]
    chosen = np.zeros(proposed.shape, bool)
    np.put_along_axis(chosen, order, True, axis=1)
    chosen &= proposed
    scores = known.log_probabilities + above_last(np.where(chosen, beside, -np.inf), count)
    asked = blend.asks_item_lm(histories)
    alone = _weighed(known, blend.alone(histories))
    alone[~chosen] = -np.inf
    return _first(known.items, np.where(asked[:, None], scores, alone), k)


def _parts(
    known: PipelineEvidence, config: HeliographConfig
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return pairs of users to fit on and users to judge by; every user is judged once."""
    users = np.arange(len(known.targets))
    if config.candidates.weights is not None:
        return [(users, users)]  # nothing is fitted
    halves = np.array_split(np.random.default_rng(config.seed).permutation(users), 2)
    return [(halves[0], halves[1]), (halves[1], halves[0])]


def _weighed(known: PipelineEvidence, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add up (users, items) evidence under the (users, sources) weights."""
    total = np.zeros(known.items.shape, np.float32)
    for source in range(len(SOURCE_NAMES)):
        total += weights[:, source, None] * known.evidence[source]
    return total


def _first(items: NDArray[np.int32], scores: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    """Return (users, k) items of the highest scores, -1 where fewer have any."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    ranked = np.take_along_axis(items, order, axis=1)
    ranked[np.take_along_axis(scores, order, axis=1) == -np.inf] = NO_ITEM
    ranking = np.full((len(items), k), NO_ITEM, np.int32)
    ranking[:, : ranked.shape[1]] = ranked
    return ranking
