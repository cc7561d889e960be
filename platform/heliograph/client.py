"""Talks to a running graph over HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

BUSY = (408, 429, 500, 502, 503, 504)
"""Statuses that say nothing of the request, and may be another a moment later."""

SHOWN = 200
"""Characters of an unexpected answer that an error shows."""

KEY_VARIABLE = "HELIOGRAPH_KEY"
"""Environment variable that holds the API key, where the endpoint wants one."""


class EndpointError(RuntimeError):
    """The endpoint could not be reached or refused the request; the message says which."""


class EndpointUnavailable(EndpointError):
    """Nothing answers, or it asks to be left alone for a moment: trying again may help."""


class RequestRefused(EndpointError):
    """The endpoint has read the request and says what is wrong with it."""


class RequestTooLarge(EndpointError):
    """The endpoint, or what stands in front of it, does not take so much at once."""


def recommend(url: str, request: dict[str, Any]) -> dict[str, Any]:
    """Ask for recommendations; the request and the answer are those of the HTTP API.

    Raises:
        EndpointError: Nothing answers at the URL, or it answers with an error.
    """
    return _call("POST", f"{url.rstrip('/')}/v1/recommendations", request)


def post_events(url: str, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Send events; what returns without an error is kept.

    Raises:
        EndpointUnavailable: The endpoint is away or overloaded; sending again does no harm.
        RequestTooLarge: Fewer events at once may be taken.
        RequestRefused: It refuses the events.
        EndpointError: What came says nothing of the events.
    """
    answer = _call("POST", f"{url.rstrip('/')}/v1/events", {"events": list(events)})
    if not {"new", "repeated", "erased"} <= answer.keys():
        raise EndpointError(
            f"{url} answered {str(answer)[:SHOWN]}, but counts of new, repeated and erased events "
            "were expected; is it a heliograph endpoint?"
        )
    return answer


def put_items(url: str, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add items to the catalogue or replace them; what returns without an error holds everywhere.

    Raises:
        EndpointUnavailable: The endpoint is away or overloaded; sending again does no harm.
        EndpointError: It refuses an item.
    """
    return _call("PUT", f"{url.rstrip('/')}/v1/items", {"items": list(items)}, timeout_s=90)


def put_availability(url: str, available: Mapping[str, bool]) -> dict[str, Any]:
    """Say which items may be recommended.

    Raises:
        EndpointError: As of `put_items`.
    """
    items = [{"item_id": item_id, "available": is_so} for item_id, is_so in available.items()]
    body = {"items": items}
    return _call("PUT", f"{url.rstrip('/')}/v1/items/availability", body, timeout_s=90)


def status(url: str) -> dict[str, Any]:
    """Return what the graph says about itself."""
    return _call("GET", f"{url.rstrip('/')}/v1/status", None)


def deploy(url: str, bundle_id: str, keep_previous: bool) -> dict[str, Any]:
    """Begin to serve another bundle; `deployments` tells how it goes.

    Raises:
        EndpointError: It is refused; the message says why.
    """
    body = {"bundle": bundle_id, "keep_previous": keep_previous}
    return _call("POST", f"{url.rstrip('/')}/v1/admin/deploy", body)


def rollback(url: str) -> dict[str, Any]:
    """Begin to serve again what was served before the last deployment.

    Raises:
        EndpointError: It is refused; the message says why.
    """
    return _call("POST", f"{url.rstrip('/')}/v1/admin/rollback", None)


def start_experiment(url: str, name: str, bundle_id: str, share: float) -> dict[str, Any]:
    """Begin to answer a share of the users from another bundle; `deployments` tells how it goes.

    Raises:
        EndpointError: It is refused; the message says why.
    """
    body = {"name": name, "bundle": bundle_id, "share": share}
    return _call("POST", f"{url.rstrip('/')}/v1/admin/experiments", body)


def stop_experiment(url: str) -> dict[str, Any]:
    """Begin to answer everybody from the served bundle again.

    Raises:
        EndpointError: It is refused; the message says why.
    """
    return _call("DELETE", f"{url.rstrip('/')}/v1/admin/experiments", None)


def experiments(url: str) -> dict[str, Any]:
    """Return which experiments there were, and which goes on."""
    return _call("GET", f"{url.rstrip('/')}/v1/admin/experiments", None)


def deployments(url: str) -> dict[str, Any]:
    """Return what is served, what each replica has loaded, and how a deployment goes."""
    return _call("GET", f"{url.rstrip('/')}/v1/admin/deployments", None)


def readiness(url: str) -> dict[str, Any]:
    """Return which stages of the graph answer; `ready` says whether it does.

    Raises:
        EndpointError: Nothing answers at the URL.
    """
    return _call("GET", f"{url.rstrip('/')}/readyz", None, answers=(503,))


def _call(
    method: str,
    url: str,
    body: dict[str, Any] | None,
    answers: Sequence[int] = (),
    timeout_s: float = 30,
) -> dict[str, Any]:
    key = os.environ.get(KEY_VARIABLE)
    if key and not (key.isascii() and key.isprintable()):
        raise EndpointError(f"{KEY_VARIABLE} holds characters that are in no API key; set it anew")
    headers = {"authorization": f"Bearer {key}"} if key else None
    try:
        reply = httpx.request(method, url, json=body, headers=headers, timeout=timeout_s)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise EndpointError(
            f"{url} is no URL of an endpoint ({error}); it reads like http://127.0.0.1:8000"
        ) from error
    except httpx.HTTPError as error:
        raise EndpointUnavailable(
            f"nothing answers at {url} ({error}); is `heliograph serve` running there?"
        ) from error
    if reply.status_code in BUSY and reply.status_code not in answers:
        raise EndpointUnavailable(f"{url} is busy ({reply.status_code}): {reply.text[:SHOWN]}")
    try:
        answer = reply.json()
    except ValueError as error:
        raise _without_json(url, reply) from error
    if reply.is_error and reply.status_code not in answers:
        raise _refusal(url, reply.status_code, answer)
    if not isinstance(answer, dict):
        raise _without_json(url, reply)
    return answer


def _without_json(url: str, reply: httpx.Response) -> EndpointError:
    if reply.status_code == 413:
        return RequestTooLarge(f"{url} refused the request (413): {reply.text[:SHOWN]}")
    return EndpointError(
        f"{url} answered {reply.status_code} with something that is not JSON of ours "
        f"({reply.text[:SHOWN]!r}); is a heliograph endpoint there?"
    )


def _refusal(url: str, status: int, answer: object) -> EndpointError:
    error = answer.get("error") if isinstance(answer, dict) else None
    error = error if isinstance(error, dict) else {}
    is_ours = {"code", "message"} <= error.keys()
    place = f"{error['field']}: " if error.get("field") else ""
    told = f"{place}{error['message']}" if is_ours else str(answer)[:SHOWN]
    message = f"{url} refused the request ({status}): {told}"
    if status == 413:
        return RequestTooLarge(message)
    if is_ours and status in (400, 422):
        return RequestRefused(message)
    if status in (401, 403):
        message += f"; the key is read from the environment variable {KEY_VARIABLE}"
    return EndpointError(message)
