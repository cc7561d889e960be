"""Reasons for the items of an answer: what the score of each is made of, in words of the API.

They are found after the answer, in the time that is left, from what the answer was made of; only
which items of the history did it has to be asked, of the deployment that has the models.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from heliograph.candidates import Candidates
from heliograph.explanation import (
    UNEXPLAINED,
    Explanation,
    TermName,
    Terms,
    Traced,
    explanations,
    traced_popularity,
)
from heliograph.history import NO_PAST
from heliograph.interactions import History
from heliograph.rules import NEGLIGIBLE
from heliograph_serve.api import (
    Cause,
    ExplainedItem,
    ExplainedRecommendations,
    Reason,
    Recommendations,
    Tier,
)
from heliograph_serve.clock import Clock
from heliograph_serve.served import Grounds, Served
from heliograph_serve.serving import Serving

DIGITS = 6
"""After the point, of nats: float32 has no more to say."""

Explained = Sequence[tuple[list[Reason], float]]
"""For each item of an answer its reasons and its base."""

logger = logging.getLogger("ray.serve")


async def reasons_for(
    serving: Serving, served: Served, grounds: Grounds, clock: Clock
) -> Explained | None:
    """Return the reasons for each item of an answer; None: they cannot be told in time."""
    try:
        found = await _explanations(serving, served, grounds, clock)
    except TimeoutError:
        return None
    except Exception as error:  # whatever failed there, the answer has been found
        logger.warning("an answer goes without its reasons: %s: %s", type(error).__name__, error)
        return None
    finally:
        clock.lap("explain")
    return None if found is None else [_told(serving, one) for one in found]


def with_reasons(answer: Recommendations, reasons: Explained | None) -> ExplainedRecommendations:
    """Return an answer with the reasons for each item; None: it says that it has none."""
    items = [
        ExplainedItem(
            item.item_id,
            item.title,
            item.score,
            item.rank,
            item.sources,
            item.propensity,
            reasons=[] if reasons is None else reasons[place][0],
            base=0.0 if reasons is None else reasons[place][1],
        )
        for place, item in enumerate(answer.items)
    ]
    told = dict(answer) | {"items": items, "explained": reasons is not None}
    return ExplainedRecommendations.model_validate(told)


async def _explanations(
    serving: Serving, served: Served, grounds: Grounds, clock: Clock
) -> list[Explanation] | None:
    scores = np.array([item.score for item in served.items], np.float32)
    is_ranked = _is_ranked(served.tier, scores, grounds)
    items, scores = grounds.items[is_ranked], scores[is_ranked]
    rules: Mapping[TermName, NDArray[np.float32]] = {}
    if grounds.bonus is not None:
        rules = serving.rules.parts_of(grounds.bonus, grounds.plan, items)
    traced: Traced | None
    if grounds.candidates is None:
        popularity = serving.rules.popularity.item_scores[items]
        terms = Terms(popularity, np.ones(len(items), bool), rules)
        traced = traced_popularity(popularity)
        weights = serving.blend.alone([NO_PAST.history])
    else:
        history = [grounds.lookup.history]
        is_generative = served.tier == "generative"
        terms = _terms(is_generative, scores, items, grounds.candidates, rules)
        traced = None
        if terms.is_own.any():
            traced = await _traced(serving, history[0], items, grounds.candidates, clock)
            if traced is None:
                return None
        weights = (serving.blend.weights if is_generative else serving.blend.alone)(history)
    found = iter(explanations(terms, traced, weights[0]))
    return [next(found) if ranked else UNEXPLAINED for ranked in is_ranked]


def _is_ranked(tier: Tier, scores: NDArray[np.float32], grounds: Grounds) -> NDArray[np.bool_]:
    """Return (answered,) whether the score is the item's own; others fill the answer."""
    if tier == "popular":
        return np.ones(len(scores), bool)
    is_ranked = np.isin(grounds.items, grounds.ranked.items[0])
    return is_ranked & (scores > 0) if tier == "generative" else is_ranked


def _terms(
    is_generative: bool,
    scores: NDArray[np.float32],
    items: NDArray[np.int32],
    candidates: Candidates,
    rules: Mapping[TermName, NDArray[np.float32]],
) -> Terms:
    """Take the (items,) scores of items apart."""
    added = sum(rules.values(), np.zeros(len(items), np.float32))
    if not is_generative:
        return Terms(scores - added, np.isin(items, candidates.items[0]), rules)
    evidence = _of_candidates(candidates, candidates.evidence[0], items)
    of_item_lm = np.log(scores) - evidence - added
    return Terms(evidence, evidence > 0, {"item_lm": of_item_lm, **rules})


async def _traced(
    serving: Serving,
    history: History,
    items: NDArray[np.int32],
    candidates: Candidates,
    clock: Clock,
) -> Traced | None:
    """Return where the evidence of items has come from; None: the models are others by now."""
    if serving.retrieve.is_open:
        return None
    traced = await serving.traced(history, items, clock.left_s())
    is_candidate = np.isin(items, candidates.items[0])
    told = _of_candidates(candidates, candidates.scores[0], items)
    off = np.abs(traced.evidence @ serving.blend.alone([history])[0] - told)[is_candidate]
    return traced if (off <= NEGLIGIBLE * np.maximum(1, np.abs(told[is_candidate]))).all() else None


def _of_candidates(
    candidates: Candidates, values: NDArray[np.float32], items: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Return (items,) the values of candidates, 0 for what is none."""
    value_of = dict(zip(candidates.items[0].tolist(), values.tolist(), strict=True))
    return np.array([value_of.get(item, 0.0) for item in items.tolist()], np.float32)


def _told(serving: Serving, found: Explanation) -> tuple[list[Reason], float]:
    """Put item numbers into words."""
    reasons = [
        Reason(
            term.name,
            round(term.nats, DIGITS),
            None if term.share is None else round(term.share, DIGITS),
            [
                Cause(serving.catalogue.ids[item], serving.titles[item], round(nats, DIGITS))
                for item, nats in term.because
            ],
        )
        for term in found.reasons
    ]
    return reasons, round(found.base, DIGITS) + 0.0  # and not -0.0
