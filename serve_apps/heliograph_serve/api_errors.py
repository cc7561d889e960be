"""Errors of the HTTP API: one shape, whatever has gone wrong."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from heliograph.attributes import FieldError
from heliograph_serve.api import BATCH_SHAPE, EVENT_SHAPE, Body
from heliograph_serve.body_errors import is_json, told, why_unreadable


class ErrorDetail(Body):
    """What was wrong with a request."""

    code: str
    message: str
    field: str | None = None


class ErrorBody(Body):
    """Every answer that is not a success."""

    error: ErrorDetail


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in (
        (401, "No API key, or none of this endpoint."),
        (403, "The key lacks the scope that this asks for."),
        (404, "Nothing is at this path."),
        (408, "The body did not arrive in time."),
        (413, "The body is too large."),
        (429, "More requests than the key may make; `Retry-After` says when to come again."),
        (500, "A mistake of the server."),
        (503, "No room, or what is needed does not answer; `Retry-After` says when to come again."),
    )
}
"""What every route may answer before its handler is asked, and when that fails."""


class ApiError(Exception):
    """A mistake of the caller, answered as `ErrorBody`."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(code=code, message=message, field=field)
        self.retry_after_s = 1 if status == 503 and retry_after_s is None else retry_after_s


def install_error_handlers(http: FastAPI) -> None:
    """Make every error of an app an `ErrorBody`."""

    @http.exception_handler(ApiError)
    def _api_error(request: Request, error: ApiError) -> JSONResponse:
        return error_answer(error)

    @http.exception_handler(FieldError)
    def _misfit(request: Request, error: FieldError) -> JSONResponse:
        return misfit_answer(error)

    @http.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        if problem["type"] == "json_invalid":
            return _malformed(error.__cause__)
        kind = request.headers.get("content-type", "none")
        if problem["loc"][:1] == ("body",) and not is_json(kind) and problem["type"] != "missing":
            message = (
                f"a body is read with the header Content-Type: application/json, not with {kind}; "
                "curl sends that with --json"
            )
            return _answer(422, ErrorDetail(code="invalid_request", message=message))
        shapes = (EVENT_SHAPE, BATCH_SHAPE)
        parts = [str(part) for part in problem["loc"][1:] if part not in shapes]
        field = ".".join(parts) or None
        if field is not None:  # a key may hold half a surrogate pair, which no answer can
            field = field.encode("utf-8", "backslashreplace").decode()
        message = told(problem, _body_type(request))
        return _answer(422, ErrorDetail(code="invalid_request", message=message, field=field))

    @http.exception_handler(HTTPException)
    def _http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400 and error.__cause__ is not None:  # FastAPI does not say why
            return _malformed(error.__cause__)
        detail = ErrorDetail(code=f"http_{error.status_code}", message=str(error.detail))
        return _answer(error.status_code, detail, dict(error.headers or {}))

    @http.exception_handler(Exception)
    def _internal(request: Request, error: Exception) -> JSONResponse:
        message = "the server made a mistake; its log has the traceback under the x-request-id"
        return _answer(500, ErrorDetail(code="internal", message=message))


def error_answer(error: ApiError) -> JSONResponse:
    """Return the answer that tells an error."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (408, 413):  # what is left of the body is not waited for
        headers["connection"] = "close"
    return _answer(error.status, error.detail, headers)


def misfit_answer(error: FieldError) -> JSONResponse:
    """Return the answer to rules that do not fit the catalogue."""
    detail = ErrorDetail(code="invalid_request", message=error.problem, field=error.place)
    return _answer(422, detail)


def _malformed(reason: BaseException | None) -> JSONResponse:
    message = f"the body is not JSON: {why_unreadable(reason)}"
    return _answer(400, ErrorDetail(code="malformed_json", message=message))


def _body_type(request: Request) -> object:
    """Return the type of the body that the route of a request takes; None: it takes none."""
    route = request.scope.get("route")
    taken = route.dependant.body_params if isinstance(route, APIRoute) else []
    return taken[0].field_info.annotation if taken else None


def _answer(
    status: int, detail: ErrorDetail, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(ErrorBody(error=detail).model_dump(), status, headers)
