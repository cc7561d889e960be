"""How much one replica of the ingress lets in: requests a second, and bytes of a body."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from starlette.types import Message, Receive

from heliograph.config import LimitsConfig
from heliograph_serve.api_errors import ApiError


class RateLimit:
    """A token bucket for each caller: one token a request, `rate` of them a second."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # caller -> tokens, when they were so

    def wait_s(self, caller: str) -> float:
        """Take a token; returns 0, or the time until there is one."""
        now = self._clock()
        tokens, then = self._buckets.get(caller, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        if tokens < 1:
            return (1 - tokens) / self._rate
        self._buckets[caller] = (tokens - 1, now)
        return 0.0


def rate_exceeded(wait_s: float) -> ApiError:
    """Return the answer to a request beyond the limit of its caller."""
    seconds = max(1, math.ceil(wait_s))
    message = f"more requests than this key may make; try again in {seconds} s"
    return ApiError(429, "rate_limited", message, retry_after_s=seconds)


def overloaded() -> ApiError:
    """Return the answer to a request that finds the replica full."""
    message = "as many requests are under way as this replica takes; try again in a moment"
    return ApiError(503, "overloaded", message, retry_after_s=1)


def announced_bytes(content_length: bytes | None) -> int | None:
    """Return the length that a request says its body has; None: it does not say, or no number."""
    return int(content_length) if content_length is not None and content_length.isdigit() else None


def body_too_large(limits: LimitsConfig) -> ApiError:
    """Return the answer to a body beyond the limit."""
    message = f"the body has more than {limits.body_bytes} bytes; send less in one request"
    return ApiError(413, "body_too_large", message)


class BodyReader:
    """Reads bodies up to a size and a time.

    One timer looks after all that are being read: one for each costs a request some ten
    microseconds, half of what the door takes.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._since: dict[asyncio.Task[object], float] = {}
        self._given_up: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, receive: Receive) -> Message:
        """Read a body that may not have said how long it is; returns it as one message.

        Where the client is gone, the message says that.

        Raises:
            ApiError: It is too large, or did not arrive in time.
        """
        task = asyncio.current_task()
        assert task is not None
        self._since[task] = time.monotonic()
        if self._timer is None:
            self._look_later()
        try:
            return await self._whole(receive)
        except asyncio.CancelledError:
            if task not in self._given_up:
                raise
            task.uncancel()
            problem = f"no whole body within {self._limits.body_timeout_s:g} s; send it faster"
            raise ApiError(408, "body_too_slow", problem) from None
        finally:
            del self._since[task]
            self._given_up.discard(task)

    async def _whole(self, receive: Receive) -> Message:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return message  # the client is gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limits.body_bytes:
                raise body_too_large(self._limits)
            if not message.get("more_body", False):
                whole = b"".join(parts)
                return {"type": "http.request", "body": whole, "more_body": False}

    def _look_later(self) -> None:
        pause_s = self._limits.body_timeout_s / 4
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._look)

    def _look(self) -> None:
        self._timer = None
        latest = time.monotonic() - self._limits.body_timeout_s
        for task, since in self._since.items():
            if since < latest and task not in self._given_up:
                self._given_up.add(task)
                task.cancel()
        if self._since:
            self._look_later()


def again(first: Message, then: Receive) -> Receive:
    """Return a source of messages that begins with one that was taken out already."""
    waiting = [first]

    async def receive() -> Message:
        return waiting.pop() if waiting else await then()

    return receive
