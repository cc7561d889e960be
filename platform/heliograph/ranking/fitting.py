"""Fits the weights of the evidence on validation, and decides by evidence what each cohort gets.

The weights are those under which the held-out items are likeliest: a logarithmic opinion pool
(Genest and Zidek, 1986), fitted as a conditional logit (McFadden, 1974). That has one best answer,
to which every user contributes. NDCG@10, by which things are decided here, makes steps: weights
that maximise it follow the luck of the few users whose item is about to enter the first ten. So
it decides one number only, how much all the evidence counts beside the item LM, and no more
narrowly than luck allows. All users come first; then each cohort may have weights of its own, if
those fitted on one half of its users help the other half.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.blend import Blend, Cohort
from heliograph.candidates import Proposals
from heliograph.config import SOURCE_NAMES, RankingConfig, SourceName
from heliograph.evaluation import ndcg

K = 10
"""Cut-off of the NDCG that decides."""

PRIOR_NATS = 3.0
"""How far, before anything is known, a weight is believed to move a typical item: standard
deviation of weight times spread. It bounds the weight of what always knows."""

FACTORS = (0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0, 2.5, 3.0, 4.0)
"""By which the likeliest weights may be multiplied together."""

DULLEST = 0.05
"""Least sharpness of the item LM: others are weighed against it."""

GAINS = ndcg(np.arange(1, K + 2), K)
"""(K + 1,) NDCG@10 of the ranks from 1; the last one is that of all that are further down."""

CELLS = 1 << 16
"""Scores that are worked on at once: they stay in the processor's cache."""

Weights = NDArray[np.float64]
"""(sources,) in the order of `SOURCE_NAMES`."""


@dataclass(frozen=True)
class Contest:
    """What stands against each validation item: the items that any source or the item LM proposes.

    Arrays are filled up with items that lose against everything.
    """

    log_probabilities: NDArray[np.float32]
    """(users, items) of the item LM."""

    evidence: NDArray[np.float32]
    """(sources, users, items)"""

    target: NDArray[np.int64]
    """(users,) place of the validation item; -1 where nobody proposes it."""

    lengths: NDArray[np.int64]
    """(users,) items of the history."""

    def take(self, users: NDArray[np.int64]) -> Contest:
        """Return a part of the users."""
        return Contest(
            self.log_probabilities[users],
            self.evidence[:, users],
            self.target[users],
            self.lengths[users],
        )

    def ndcg(self, weights: Weights, item_lm: bool = True) -> NDArray[np.float64]:
        """Return (users,) NDCG@10 with the given weights."""
        return _ndcg(self._scores(weights, item_lm), self.target)

    def _scores(self, weights: Weights, item_lm: bool) -> NDArray[np.float32]:
        padded = self.log_probabilities == -np.inf
        scores = self.log_probabilities.copy() if item_lm else np.where(padded, -np.inf, 0)
        for source in np.flatnonzero(weights):
            scores += np.float32(weights[source]) * self.evidence[source]
        return scores.astype(np.float32)


@dataclass(frozen=True)
class CohortEvidence:
    """Why a cohort has the weights that it has: mean NDCG@10 of its validation items."""

    shortest: int
    users: int
    item_lm: float
    """Of the item LM alone."""

    retrieval: float
    """Of the evidence alone, with weights that were fitted for that on all users."""

    shared: float
    """Of both, with the weights that were fitted on all users."""

    own: float | None
    """With weights that were fitted on the other half of the cohort; None: too few users."""

    p_value: float | None
    """Of `own` being no better than `shared`: a paired t-test, one-sided."""

    has_own: bool
    asks_item_lm: bool
    weights: dict[SourceName, float]


def fit_blend(
    contest: Contest, config: RankingConfig, fixed: Weights | None, seed: int
) -> tuple[Blend, list[CohortEvidence]]:
    """Choose the weights of every cohort.

    Args:
        contest: Of validation users.
        config: Cohorts, and what counts as enough evidence.
        fixed: Weights that were set by hand; None: to be fitted.
        seed: Of the halves of the cohorts.
    """
    shared = fit_weights(contest) if fixed is None else fixed
    alone = fit_weights(contest, item_lm=False) if fixed is None else fixed
    found = []
    ends = [*config.cohorts[1:], np.iinfo(np.int64).max]
    for shortest, end in zip(config.cohorts, ends, strict=True):
        members = np.flatnonzero((contest.lengths >= shortest) & (contest.lengths < end))
        rng = np.random.default_rng([seed, shortest])
        part = contest.take(rng.permutation(members))
        found.append(_decide(part, shared, alone, shortest, config, can_own=fixed is None))
    cohorts = [Cohort(row.shortest, row.weights, _named(alone), row.asks_item_lm) for row in found]
    return Blend(cohorts), found


def fit_weights(contest: Contest, item_lm: bool = True) -> Weights:
    """Return the weights under which the targets are likeliest; one that does not help is 0.

    The log-probability of the item LM has a weight too while they are fitted, its sharpness. Only
    the ratio to it makes a difference to a ranking: what comes back counts beside a weight of 1.
    That ratio is then moved to where NDCG@10 is highest, as far as it can be told (`_factor`).

    Args:
        contest: Users whose target nobody proposes have no say.
        item_lm: Whether the item LM is asked; else the evidence is weighed alone.
    """
    from scipy import optimize  # half a second that only who fits needs

    part = contest.take(np.flatnonzero(contest.target >= 0))
    if not len(part.target):
        return np.zeros(len(SOURCE_NAMES))
    spreads = np.array([_spread(part, source) for source in range(len(SOURCE_NAMES))])
    sharpness = 1.0 if item_lm else 0.0
    found = optimize.minimize(
        lambda point: _misfit(part, point, spreads, sharpness),
        np.append(np.zeros(len(SOURCE_NAMES)), sharpness),
        jac=True,
        method="L-BFGS-B",
        bounds=[
            *((None if name == "popularity" else 0.0, None) for name in SOURCE_NAMES),
            (DULLEST, None) if item_lm else (0.0, 0.0),
        ],
    )
    weights: Weights = found.x[:-1] / spreads
    if not item_lm:
        return weights
    weights /= found.x[-1]
    return weights * _factor(part, weights)


def _factor(part: Contest, weights: Weights) -> float:
    """Return how many times as much the evidence should count for the first ten places.

    Of the factors that come within a standard error of the highest NDCG@10, the (geometric) mean:
    the one-standard-error rule (Breiman et al., 1984), since which of them is the best is luck.
    """
    evidence = np.tensordot(weights.astype(np.float32), part.evidence, 1)
    values = np.stack(
        [
            _ndcg(part.log_probabilities + np.float32(factor) * evidence, part.target)
            for factor in FACTORS
        ]
    )
    behind = values[values.mean(axis=1).argmax()] - values
    error = behind.std(axis=1) / np.sqrt(behind.shape[1])
    as_good = np.array(FACTORS)[behind.mean(axis=1) <= error]
    return float(np.exp(np.log(as_good).mean()))


def _misfit(
    part: Contest, point: NDArray[np.float64], spreads: NDArray[np.float64], sharpness: float
) -> tuple[float, NDArray[np.float64]]:
    """Return how unlikely the targets are, in nats a user, and how that changes.

    Args:
        part: Users whose target somebody proposes.
        point: (sources + 1,) weights times spreads, then the sharpness.
        spreads: (sources,) of the evidence.
        sharpness: Expected before anything is known.
    """
    weights = (point[:-1] / spreads).astype(np.float32)
    unlikely, slope = 0.0, np.zeros(len(point))
    step = max(1, CELLS // max(1, part.log_probabilities.shape[1]))
    for start in range(0, len(part.target), step):
        users = slice(start, start + step)
        opinion, evidence = part.log_probabilities[users], part.evidence[:, users]
        proposed = opinion > -np.inf
        opinion = np.where(proposed, opinion, 0)
        scores = np.float32(point[-1]) * opinion + np.tensordot(weights, evidence, 1)
        scores[~proposed] = -np.inf
        scores -= scores.max(axis=1, keepdims=True)
        chances = np.exp(scores)
        total = chances.sum(axis=1, keepdims=True)
        chances /= total
        here = np.arange(len(opinion)), part.target[users]
        unlikely += float((np.log(total[:, 0]) - scores[here]).sum(dtype=np.float64))
        chances[here] -= 1
        for source in range(len(spreads)):
            slope[source] += np.vdot(chances, evidence[source]) / spreads[source]
        slope[-1] += np.vdot(chances, opinion)
    surprise = (point - np.append(np.zeros(len(spreads)), sharpness)) / PRIOR_NATS
    unlikely += float(surprise @ surprise) / 2
    slope += surprise / PRIOR_NATS
    return unlikely / len(part.target), slope / len(part.target)


def build_contest(
    proposals: Iterable[Proposals],
    log_probabilities: NDArray[np.float32],
    targets: NDArray[np.int32],
    lengths: Sequence[int],
) -> Contest:
    """Line up what is proposed for each user.

    Args:
        proposals: For each user, of the sources and of the item LM.
        log_probabilities: (users, items) of the item LM, of all items.
        targets: (users,) validation items.
        lengths: Of the users' histories.
    """
    rows = list(proposals)
    shape = (len(rows), max((len(row.items) for row in rows), default=0))
    contest = Contest(
        np.full(shape, -np.inf, np.float32),
        np.zeros((len(SOURCE_NAMES), *shape), np.float32),
        np.full(len(rows), -1, np.int64),
        np.array(lengths, np.int64),
    )
    for user, row in enumerate(rows):
        contest.log_probabilities[user, : len(row.items)] = log_probabilities[user, row.items]
        contest.evidence[:, user, : len(row.items)] = row.evidence.T
        places = np.flatnonzero(row.items == targets[user])
        contest.target[user] = places[0] if len(places) else -1
    return contest


def join_contests(parts: Sequence[Contest]) -> Contest:
    """Put contests of different users into one."""
    widest = max(part.log_probabilities.shape[1] for part in parts)

    def wide(array: NDArray[np.float32], value: float) -> NDArray[np.float32]:
        missing = [(0, 0)] * (array.ndim - 1) + [(0, widest - array.shape[-1])]
        return np.pad(array, missing, constant_values=value)

    return Contest(
        np.concatenate([wide(part.log_probabilities, -np.inf) for part in parts]),
        np.concatenate([wide(part.evidence, 0.0) for part in parts], axis=1),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )


def _decide(
    part: Contest,
    shared: Weights,
    alone: Weights,
    shortest: int,
    config: RankingConfig,
    can_own: bool,
) -> CohortEvidence:
    with_shared = part.ndcg(shared)
    own, p_value, weights = None, None, shared
    if can_own and len(part.target) >= config.min_users:
        held_out = _cross_fitted(part)
        own, p_value = float(held_out.mean()), _p_value(held_out - with_shared)
        if p_value < config.significance:
            weights = fit_weights(part)
    blended, retrieval = part.ndcg(weights), part.ndcg(alone, item_lm=False)
    enough = len(part.target) >= config.min_users
    return CohortEvidence(
        shortest=shortest,
        users=len(part.target),
        item_lm=_mean(part.ndcg(np.zeros(len(SOURCE_NAMES)))),
        retrieval=_mean(retrieval),
        shared=_mean(with_shared),
        own=own,
        p_value=p_value,
        has_own=weights is not shared,
        asks_item_lm=not enough or _mean(blended) > _mean(retrieval),
        weights=_named(weights),
    )


def _named(weights: Weights) -> dict[SourceName, float]:
    return {name: float(weights[source]) for source, name in enumerate(SOURCE_NAMES)}


def _cross_fitted(part: Contest) -> NDArray[np.float64]:
    """Return (users,) NDCG@10 of each half under the weights fitted on the other."""
    halves = np.array_split(np.arange(len(part.target)), 2)
    values = np.zeros(len(part.target))
    for here, there in (halves, halves[::-1]):
        values[here] = part.take(here).ndcg(fit_weights(part.take(there)))
    return values


def _p_value(gains: NDArray[np.float64]) -> float:
    if not gains.any():
        return 1.0
    from scipy import stats  # half a second that only who fits needs

    return float(stats.ttest_1samp(gains, 0.0, alternative="greater").pvalue)


def _spread(contest: Contest, source: int) -> float:
    values = contest.evidence[source][contest.log_probabilities > -np.inf]
    return float(values.std()) or 1.0


def _ndcg(scores: NDArray[np.float32], target: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (users,) NDCG@10 of the target; among equal scores it counts as the last."""
    if not scores.shape[1]:  # nothing is proposed to users who have had everything
        return np.zeros(len(target))
    wanted = scores[np.arange(len(target)), np.maximum(target, 0)]
    reached = scores >= wanted[:, None]
    ranks = np.add.reduce(reached.view(np.uint8), axis=1, dtype=np.uint32)
    return np.where(target >= 0, GAINS[np.minimum(ranks, K + 1) - 1], 0.0)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0
