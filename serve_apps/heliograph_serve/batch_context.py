"""The context of a batch: whose requests it carries is none of Serve's business.

Serve takes a call for a part of the request in whose context it is made, and cancels it when that
request's client hangs up. But a batch carries the queries of many requests, and the next one
leaves from within the last; so each would depend on whoever sent the first of them.
"""

from __future__ import annotations

from contextvars import Context, copy_context

from ray.serve.context import _serve_request_context


def of_no_request() -> Context:
    """Return this context, traces included, without the request."""
    context = copy_context()
    context.run(_serve_request_context.set, None)
    return context
