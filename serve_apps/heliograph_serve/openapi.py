"""The OpenAPI document, with the key and the scope that each route asks for."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from heliograph.keys import Scope
from heliograph_serve.access import SCOPE_OF

SCHEME = "API key"


def described(routes: FastAPI) -> dict[str, Any]:
    """Return the document; `/docs` gets a field for the key from it."""
    if routes.openapi_schema is not None:
        return routes.openapi_schema
    document = FastAPI.openapi(routes)
    document["components"]["securitySchemes"] = {SCHEME: {"type": "http", "scheme": "bearer"}}
    for route in routes.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods:
                scope = SCOPE_OF.get(f"{method} {route.path}", Scope.ADMIN)
                operation = document["paths"][route.path_format][method.lower()]
                _describe(operation, scope)
    return document


def _describe(operation: dict[str, Any], scope: Scope | None) -> None:
    if scope is not None:
        operation["security"] = [{SCHEME: []}]
        told = operation.get("description", "")
        operation["description"] = f"{told}\n\nScope: `{scope}`.".strip()
