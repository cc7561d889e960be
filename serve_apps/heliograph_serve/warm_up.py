"""Before a bundle is served, recent users are answered from it: they will be the first to come.

So their candidates and prompts are remembered by then, and memory that nobody has touched yet is
touched here. What fails is left to the users; the check of the bundle is another matter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable

from heliograph.history import Past
from heliograph_serve.api import RecommendationRequest
from heliograph_serve.clock import Clock
from heliograph_serve.serving import Serving

RECENT_USERS = 512
"""Users that each replica of the ingress answers again, the latest."""

AT_ONCE = 8
"""Enough to fill batches, and few beside the requests of others."""

LONGEST_S = 10.0
ANSWER_S = 2.0


async def warm_up(
    serving: Serving, users: Iterable[str], past_of: Callable[[str], Awaitable[Past]]
) -> None:
    """Answer users from a bundle, for a while at most.

    Args:
        serving: The bundle.
        users: The oldest first; of one who comes twice once is enough.
        past_of: What is known of a user.
    """
    latest = iter(dict.fromkeys(reversed(list(users))))

    async def answer_some() -> None:
        for user in latest:
            past = await past_of(user)
            request = RecommendationRequest(history=[])
            await serving.recommend(request, serving.rules.plan, past, Clock(ANSWER_S))

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LONGEST_S):
            await asyncio.gather(*(answer_some() for _ in range(AT_ONCE)))
