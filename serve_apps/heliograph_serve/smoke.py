"""The check of a bundle before it is served: a few requests that go the whole way through it.

They say what users of the bundle would be told; the event store is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from heliograph.history import NO_PAST, Past
from heliograph.workspace import InputError
from heliograph_serve.api import RecommendationRequest, Tier
from heliograph_serve.clock import Clock
from heliograph_serve.served import Served
from heliograph_serve.serving import Serving

ITEMS = 10
DEADLINE_S = 20.0
"""Ample: an answer of a lesser tier then means that a stage is broken, not that it is busy."""

SOMEBODY, A_HISTORY, NOBODY = "a user of the bundle", "a history", "an unknown user"


async def check_bundle(serving: Serving) -> None:
    """Ask as users would.

    Raises:
        InputError: An answer is not what it has to be; the message says whose and why.
    """
    for who, past in _pasts(serving):
        request = RecommendationRequest(history=[], n=ITEMS)
        plan = await serving.plan(request)
        served = await serving.recommend(request, plan, past, Clock(DEADLINE_S))
        barred = serving.rules.barred(serving.lookup(request, plan, past))
        problem = fault_in(served, tier_of(serving, past), min(ITEMS, int((~barred).sum())))
        if problem is not None:
            raise InputError(
                f"bundle {serving.id} was checked and is not served: the answer to {who} {problem}"
            )


def tier_of(serving: Serving, past: Past) -> Tier:
    """Return the tier that answers whoever has a past, with every stage well."""
    if not len(past.history):
        return "popular"
    return "generative" if serving.blend.asks_item_lm_about(past.history) else "retrieval"


def fault_in(served: Served, tier: Tier, count: int) -> str | None:
    """Say what is wrong with an answer, or None.

    Args:
        served: The answer.
        tier: What has to answer, where there is something to recommend.
        count: Items that have to come.
    """
    ids = [item.item_id for item in served.items]
    if len(ids) != count:
        return f"has {len(ids)} items, expected {count}"
    if len(set(ids)) != len(ids):
        return "names an item twice"
    if not all(math.isfinite(item.score) for item in served.items):
        return "has a score that is no number"
    if count and served.tier != tier:
        return f"is of the {served.tier} tier, expected {tier}"
    if count and tier == "generative" and served.items[0].score <= 0:
        return "has no item to which the item LM gives a probability"
    return None


def _pasts(serving: Serving) -> Iterator[tuple[str, Past]]:
    users = serving.histories.interactions.user_ids
    for user in dict.fromkeys(users[:1] + users[len(users) // 2 :][:1] + users[-1:]):
        yield SOMEBODY, serving.histories.past(user)
    yield A_HISTORY, replace(NO_PAST, history=serving.rules.popularity.ranking[:3])
    yield NOBODY, NO_PAST
