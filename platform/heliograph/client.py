"""Talks to a running graph over HTTP."""

from __future__ import annotations

from typing import Any

import httpx


class EndpointError(RuntimeError):
    """The endpoint could not be reached or refused the request; the message says which."""


def recommend(url: str, request: dict[str, Any]) -> dict[str, Any]:
    """Ask for recommendations; the request and the answer are those of the HTTP API.

    Raises:
        EndpointError: Nothing answers at the URL, or it answers with an error.
    """
    return _call("POST", f"{url.rstrip('/')}/v1/recommendations", request)


def status(url: str) -> dict[str, Any]:
    """Return what the graph says about itself."""
    return _call("GET", f"{url.rstrip('/')}/v1/status", None)


def _call(method: str, url: str, body: dict[str, Any] | None) -> dict[str, Any]:
    try:
        reply = httpx.request(method, url, json=body, timeout=30)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EndpointError(
            f"nothing answers at {url} ({error}); is `heliograph serve` running there?"
        ) from error
    try:
        answer = reply.json()
    except ValueError as error:
        raise EndpointError(
            f"{url} answered {reply.status_code} with something that is not JSON; "
            "is it a heliograph endpoint?"
        ) from error
    if reply.is_error:
        message = answer.get("error", {}).get("message", reply.text)
        raise EndpointError(f"{url} refused the request ({reply.status_code}): {message}")
    return dict(answer)
